"""The grid of every tensor that an int8 file holds: from calibration, or given by training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export.dialects import WEIGHT_STEPS, Dialect, Grid, WeightRanges, activation_grid, weight_grid
from edgecv_export.placement import MOVING, Placement, cut_points
from edgecv_export.ranges import Ranges, Statistics, weight_reach
from edgecv_export.wiring import Layer, Wiring

# An int32 bias, in steps of the input's times the weights', takes no more of them; the rest is for the products that
# are added to it. Where a channel has next to no weights, their step is made larger until the bias fits.
BIAS_STEPS = 2**30


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
            grids[name] = activation_grid(*statistics[name].range(ranges, dialect.symmetric), dialect)
    return grids | weight_grids(wiring, nodes, grids, dialect, weight_ranges)


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
