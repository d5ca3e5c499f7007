"""The parity gate: a graph leaves only when it computes what PyTorch computes, at several batch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgecv_export.graph import Deployed, reference, references
from edgecv_export.interface import INPUT, check_frames
from edgecv_runtime import backends
from edgecv_runtime.backends import Options
from edgecv_runtime.errors import BackendUnavailable, ParityError
from edgecv_runtime.preprocess import Image
from edgecv_runtime.verify import distance, trace

BATCHES = (1, 3, 8)
# Largest difference allowed, relative to the largest output: float32 rounding stays below a tenth of it. Logits count
# as at least 1; scores in 0..1 or 0..100 do not, which are all small among many classes: at least as a thousandth.
TOLERANCE = 1e-3
LOGITS, SHARES = 1.0, 1e-3


def gate(path: Path, deployed: Deployed, frames: Image, floor: float = LOGITS) -> dict[str, float]:
    """Compare an ONNX file with PyTorch on every backend of this machine, at batch 1, 3 and 8.

    frames: at least 8 real images, (N, H, W, C) uint8, preprocessed. floor: LOGITS, or SHARES of scores with bounds.
    Gives the largest difference per backend, relative to the largest output (of class maps the share of pixels that
    differ); raises ParityError that says on which
    backend, at which batch size and where in the network the graph starts to differ.
    """
    check_frames(frames, max(BATCHES), "the parity gate")
    if not backends.available():
        raise BackendUnavailable("parity needs a backend to compare with", extra="onnxruntime")
    largest: dict[str, float] = {}
    for name in backends.available():
        backend = backends.get(name)(path, Options())
        try:
            for batch in BATCHES:
                wanted = references(deployed, frames[:batch])
                got = backend.run({INPUT: np.ascontiguousarray(frames[:batch])})
                difference = max(_difference(each, got[output], floor) for output, each in wanted.items())
                if not difference <= TOLERANCE:
                    raise ParityError(
                        f"{path.name} differs from PyTorch on {name} at batch {batch}: by {difference:.2g} of the "
                        f"largest output, where {TOLERANCE:g} is allowed; "
                        f"{first_difference(path, deployed, frames[:batch])}"
                    )
                largest[name] = max(largest.get(name, 0.0), difference)
        finally:
            backend.close()
    return largest


def _difference(wanted: NDArray[Any], got: NDArray[Any], floor: float) -> float:
    """Of floats the largest difference, relative to the largest value; of classes the share of those that differ.

    Where two classes are as good as equal, rounding decides between them.
    """
    if wanted.dtype.kind == "f" or wanted.shape != got.shape:
        return distance(wanted, got, floor)
    return float((wanted != got).mean())


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
