"""The grid of every tensor that an int8 file holds: from calibration, or given by training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export.dialects import WEIGHT_STEPS, Dialect, Grid, WeightRanges, activation_grid, weight_grid
from edgecv_export.interface import INPUT
from edgecv_export.placement import MOVING, Placement, cut_points
from edgecv_export.ranges import Ranges, Statistics, weight_reach
from edgecv_export.wiring import Layer, Wiring

# An int32 bias, in steps of the input's times the weights', takes no more of them; the rest is for the products that
# are added to it. Where a channel has next to no weights, their step is made larger until the bias fits.
BIAS_STEPS = 2**30
_BINARY: dict[str, Callable[..., NDArray[np.float64]]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide,
}  # fmt: skip
_AFFINE = ("Cast", "Transpose", *_BINARY)


def calibrated(
    wiring: Wiring,
    placement: Placement,
    nodes: list[Any],
    statistics: Mapping[str, Statistics],
    dialect: Dialect,
    ranges: Ranges = "min-max",
    weight_ranges: WeightRanges = "min-max",
) -> dict[str, Grid]:
    """Grids of the activations on which Q/DQ stands and of the weights of the quantized layers, by tensor name.

    nodes: those that compute in int8; statistics: from `calibrate`, of the same graph.
    """
    grids: dict[str, Grid] = {}
    for name in cut_points(wiring, placement, nodes):
        maker = wiring.makers[name]
        if maker.op_type in MOVING and maker.input[0] in grids:
            grids[name] = grids[maker.input[0]]
        else:
            known = pixel_range(wiring, name)
            grids[name] = activation_grid(*(known or statistics[name].range(ranges, dialect.symmetric)), dialect)
    return grids | weight_grids(wiring, nodes, grids, dialect, weight_ranges)


def pixel_range(wiring: Wiring, name: str) -> tuple[float, float] | None:
    """The least and the largest that pixels 0..255 become in a tensor that only scales and shifts them, or None.

    This range is known and need not be estimated: an estimate cuts off what is white, and where all channels have one
    mean and one deviation (EfficientNet-Lite's (x - 127) / 128) every pixel lies on the grid of the whole range.
    """
    steps = []
    while name != INPUT:
        node = wiring.makers.get(name)
        varying = [] if node is None else [each for each in node.input if each not in wiring.constants]
        if node is None or node.op_type not in _AFFINE or len(varying) != 1:
            return None
        steps.append(node)
        name = varying[0]
    ends = np.array([0, 255], np.float64)  # behind all other axes, so that any constant broadcasts
    for node in reversed(steps):
        if node.op_type in _BINARY:
            places = (wiring.constant(each) for each in node.input)
            operands = [ends if each is None else np.asarray(each, np.float64)[..., None] for each in places]
            ends = _BINARY[node.op_type](*operands)
    return float(ends.min()), float(ends.max())


def weight_grids(
    wiring: Wiring,
    nodes: list[Any],
    activations: Mapping[str, Grid],
    dialect: Dialect,
    weight_ranges: WeightRanges = "min-max",
) -> dict[str, Grid]:
    """Grids of the weights of layers: symmetric int8, one step per output channel; `activations`: those they meet."""
    layers = [layer for node in nodes if (layer := wiring.layer(node)) is not None]
    return {
        layer.weights: weight_grid(
            _reach(wiring, layer, weight_ranges, activations.get(layer.node.input[0])), layer.axis, dialect
        )
        for layer in layers
    }


def _reach(wiring: Wiring, layer: Layer, weight_ranges: WeightRanges, source: Grid | None) -> NDArray[np.float32]:
    """How far the grid of a layer's weights reaches, by channel: as they do, or as an int32 bias needs."""
    reach = weight_reach(np.ascontiguousarray(wiring.weights(layer)), weight_ranges)
    if source is not None and layer.bias is not None and layer.bias[0] is layer.node:
        least = np.abs(wiring.bias(layer).astype(np.float64)) / (source.scale.astype(np.float64) * BIAS_STEPS)
        reach = np.maximum(reach, WEIGHT_STEPS * least.astype(np.float32))
    return reach
