"""Calibration: the statistics of every activation on real images, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecv_export.deadline import Tick, unbounded
from edgecv_export.interface import INPUT
from edgecv_export.ranges import NotFinite, Statistics
from edgecv_export.wiring import Wiring
from edgecv_runtime import machine, telemetry
from edgecv_runtime.errors import BadInput, ComputationError
from edgecv_runtime.preprocess import Image

BATCH = 4
# Operators whose outputs and inputs have their channels last.
CHANNELS_LAST = ("MatMul", "LayerNormalization", "Gemm")


class Images(Protocol):
    """Preprocessed images, (H, W, C) uint8 each: an array (N, H, W, C), or whatever reads them when it is asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Sample:
    """Some images in some order, read a few at a time: never all of them are in memory."""

    images: Images
    order: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, size: int = BATCH) -> Iterator[Image]:
        """Arrays (size, H, W, C) uint8; the last one may be smaller."""
        for start in range(0, len(self.order), size):
            yield np.stack([self.images[int(index)] for index in self.order[start : start + size]])

    def some(self, count: int) -> Image:
        """`count` images spread over the sample, or all when there are fewer: (count, H, W, C) uint8."""
        step = max(1, len(self.order) // count)
        return np.stack([self.images[int(index)] for index in self.order[::step][:count]])


def sample(images: Images, count: int | None = None) -> Sample:
    """The first images, `count` of them or all."""
    return Sample(images, np.arange(len(images) if count is None else min(count, len(images))))


def calibrate(model: Any, batches: Iterable[Image], tick: Tick = unbounded) -> dict[str, Statistics]:
    """Run real images through a float32 graph and keep statistics of every float tensor in it.

    model: onnx.ModelProto; batches: arrays (N, H, W, C) uint8, preprocessed. tick: called before each of them.
    Raises ComputationError that names the first node whose output holds NaN or infinite values.
    """
    session, names = _observed(model)
    wiring = Wiring(model)
    statistics = {name: Statistics(_channel_axis(wiring, name)) for name in names}
    with ThreadPoolExecutor(machine.this().cores) as pool:
        for batch in batches:
            tick()
            outputs = session.run(list(names), {INPUT: np.ascontiguousarray(batch)})
            added = pool.map(partial(_added, images=len(batch)), statistics.values(), outputs)
            for name, is_finite in zip(names, added, strict=True):
                if not is_finite:
                    raise ComputationError(
                        f"calibration: node '{names[name]}' gives NaN or infinite values on a real image"
                    )
    return statistics


def _added(statistics: Statistics, values: NDArray[np.float32], images: int) -> bool:
    """Take in a batch; gives whether all of its values are finite."""
    try:
        statistics.add(values, images)
    except NotFinite:
        return False
    return True


def check_real(images: Image) -> None:
    """Refuse noise and blanks: in a real image neighbouring pixels are alike, and images differ from one another.

    Measure: correlation of horizontally neighbouring pixels; photographs lie above 0.8, noise near 0.
    """
    pixels = images.astype(np.float32)
    left, right = pixels[:, :, :-1].ravel(), pixels[:, :, 1:].ravel()
    if np.ptp(pixels) == 0 or np.ptp(pixels, axis=0).max() == 0:
        raise BadInput("calibration images are all the same; give real images of what the camera will see")
    if np.corrcoef(left, right)[0, 1] < 0.2:
        raise BadInput("calibration images look like noise; give real images of what the camera will see")


def _channel_axis(wiring: Wiring, name: str) -> int:
    near = [*wiring.readers[name], wiring.makers[name]] if name in wiring.makers else wiring.readers[name]
    return -1 if any(node.op_type in CHANNELS_LAST for node in near) else 1


def _observed(model: Any) -> tuple[Any, dict[str, str]]:
    """A session whose outputs are all float tensors of the graph, and the node behind each, in graph order."""
    import onnx

    observed = onnx.shape_inference.infer_shapes(model)
    floats = {
        info.name: info
        for info in (*observed.graph.value_info, *observed.graph.output)
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    makers = {output: node for node in observed.graph.node for output in node.output}
    constants = {name for name, node in makers.items() if node.op_type == "Constant"}
    names = {name: makers[name].name for name in makers if name in floats and name not in constants}
    present = {output.name for output in observed.graph.output}
    observed.graph.output.extend(floats[name] for name in names if name not in present)
    onnxruntime = telemetry.onnxruntime()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(
        observed.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    ), names
