"""A graph beside the PyTorch network that it was exported from: the parity gate, and where they part."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgecv_export import gate as gates
from edgecv_export.gate import BATCHES, LOGITS, SHARES, TOLERANCE
from edgecv_export.graph import Deployed, reference, references
from edgecv_export.interface import INPUT
from edgecv_runtime.preprocess import Image
from edgecv_runtime.verify import distance, trace

__all__ = ["BATCHES", "LOGITS", "SHARES", "first_difference", "gate"]


def gate(path: Path, deployed: Deployed, frames: Image, floor: float = LOGITS) -> dict[str, float]:
    """Compare an ONNX file with PyTorch on every backend of this machine, see `gate.gate`."""
    return gates.gate(
        path,
        partial(references, deployed),
        frames,
        floor,
        name="PyTorch",
        where=partial(first_difference, path, deployed),
    )


def first_difference(path: Path, deployed: Deployed, frames: Image) -> str:
    """Say where the graph starts to differ: the last PyTorch module that an ONNX tensor still equals, and the next one.

    Exporters fold and rename, so modules are matched with tensors by value: a module agrees when some tensor of the
    graph has its shape and its values. The graph runs on ONNX Runtime with all optimizations off.
    """
    tensors = trace.tensors(path.read_bytes(), {INPUT: np.ascontiguousarray(frames)}).values()
    previous, last = "the input", -1
    outputs = _module_outputs(deployed, frames)
    for index, (name, values) in enumerate(outputs):
        if any(distance(values, tensor) <= TOLERANCE for tensor in tensors if tensor.shape == values.shape):
            previous, last = f"module '{name}'", index
    if last + 1 == len(outputs):
        return f"every module agrees in ONNX Runtime without optimizations, up to {previous}"
    return f"it agrees up to {previous} and differs from module '{outputs[last + 1][0]}' on"


def _module_outputs(deployed: Deployed, frames: Image) -> list[tuple[str, NDArray[Any]]]:
    """The outputs of all leaf modules in the order in which they run."""
    outputs: list[tuple[str, NDArray[Any]]] = []
    handles = []
    for name, module in deployed.named_modules():
        if next(module.children(), None) is None:
            short = name.removeprefix("network.")

            def keep(_module: Any, _inputs: Any, output: Any, name: str = short) -> None:
                if isinstance(output, torch.Tensor):
                    outputs.append((name, output.detach().numpy().copy()))

            handles.append(module.register_forward_hook(keep))
    try:
        reference(deployed, frames, batch=len(frames))
    finally:
        for handle in handles:
            handle.remove()
    return outputs
