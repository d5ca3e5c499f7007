"""Calibration: the ranges of every activation on real images, in memory that does not grow with their number.

Each tensor keeps its minimum, its maximum and one histogram of fixed size whose width doubles when a value falls
outside: neighbouring bins are then added up, so that nothing is stored per image and no second pass is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecv_export.graph import INPUT
from edgecv_runtime.errors import ComputationError
from edgecv_runtime.preprocess import Image

Ranges = Literal["min-max", "percentile"]
BINS = 2048
PERCENTILE = 99.99
BATCH = 4


class Statistics:
    """Minimum, maximum, channel means and a histogram over [-width, width] with BINS equal bins, of all values seen."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self._sums: NDArray[np.float64] | None = None
        self._images = 0
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0  # unknown as long as all values are zero
        self._zeros = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Take in one batch of values, (N, C, ...) for tensors that have channels."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        if self.width:
            self.counts += np.histogram(values, BINS, (-self.width, self.width))[0]
        else:
            self._zeros += values.size
        if values.ndim >= 2:
            sums = values.reshape(*values.shape[:2], -1).mean(axis=2, dtype=np.float64).sum(axis=0)
            self._sums = sums if self._sums is None else self._sums + sums
            self._images += len(values)

    @property
    def channel_means(self) -> NDArray[np.float64] | None:
        """Mean of each channel, (C,); None for a tensor without channels."""
        return None if self._sums is None else self._sums / self._images

    def range(self, ranges: Ranges) -> tuple[float, float]:
        """The range to quantize; "percentile" leaves out the outermost 0.01 % of values, to within one bin."""
        if ranges == "min-max" or not self.width:
            return self.low, self.high
        share = np.cumsum(self.counts) / self.counts.sum()
        tail = (100 - PERCENTILE) / 100 / 2
        edges = np.linspace(-self.width, self.width, BINS + 1)
        low = float(edges[np.searchsorted(share, tail, side="right")])
        high = float(edges[np.searchsorted(share, 1 - tail, side="left") + 1])
        return max(low, self.low), min(high, self.high)

    def _widen(self, reach: float) -> None:
        """Double the histogram's width until it holds `reach`: bins 2i and 2i+1 become one, around the centre."""
        if not self.width and reach > 0:
            self.width = reach
            self.counts[BINS // 2] = self._zeros
        while reach > self.width:
            merged = self.counts.reshape(BINS // 2, 2).sum(axis=1)
            quarter = BINS // 4
            self.counts = np.concatenate([np.zeros(quarter, np.int64), merged, np.zeros(quarter, np.int64)])
            self.width *= 2


def calibrate(model: Any, batches: Iterable[Image]) -> dict[str, Statistics]:
    """Run real images through a float32 graph and keep statistics of every float tensor in it.

    model: onnx.ModelProto; batches: arrays (N, H, W, C) uint8, preprocessed.
    Raises ComputationError that names the first node whose output holds NaN or infinite values.
    """
    session, names = _observed(model)
    statistics = {name: Statistics() for name in names}
    for batch in batches:
        outputs = session.run(list(names), {INPUT: np.ascontiguousarray(batch)})
        for name, values in zip(names, outputs, strict=True):
            if not np.isfinite(values).all():
                raise ComputationError(
                    f"calibration: node '{names[name]}' gives NaN or infinite values on a real image"
                )
            statistics[name].add(values)
    return statistics


def _observed(model: Any) -> tuple[Any, dict[str, str]]:
    """A session whose outputs are all float tensors of the graph, and the node behind each, in graph order."""
    import onnx
    import onnxruntime

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
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(
        observed.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    ), names
