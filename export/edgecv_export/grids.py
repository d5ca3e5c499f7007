"""The grid of every tensor that an int8 file holds: from calibration, or given by training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgecv_export.dialects import Dialect, Grid, WeightRanges, activation_grid, weight_grid
from edgecv_export.placement import MOVING, Placement, cut_points
from edgecv_export.ranges import Ranges, Statistics, weight_reach
from edgecv_export.wiring import Layer, Wiring


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
    return grids | weight_grids(wiring, nodes, weight_ranges)


def weight_grids(wiring: Wiring, nodes: list[Any], weight_ranges: WeightRanges) -> dict[str, Grid]:
    """Grids of the weights of layers: symmetric int8, one step per output channel."""
    layers = [layer for node in nodes if (layer := wiring.layer(node)) is not None]
    return {layer.weights: _weight_grid(wiring, layer, weight_ranges) for layer in layers}


def _weight_grid(wiring: Wiring, layer: Layer, weight_ranges: WeightRanges) -> Grid:
    return weight_grid(weight_reach(np.ascontiguousarray(wiring.weights(layer)), weight_ranges), layer.axis)
