"""Rounding: each weight is rounded with a view to what the others of its output lose, so that the sum comes out right.

Neighbouring pixels are alike, and a depthwise filter that finds edges takes large numbers from each other: rounded to
the nearest, one by one, its nine weights no longer sum to what they did, and every bright picture shifts the output.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgecv_export.dialects import Float, Grid
from edgecv_export.passes.moments import Moments
from edgecv_export.passes.setting import Setting
from edgecv_export.wiring import Wiring

BLOCK = 64  # inputs whose losses are handed on to all that are behind them at once
# Of the mean variance, added to each: inputs that never vary would make the matrix singular. More of it where inputs
# lie so far from zero that float32 does not tell how they vary.
DAMPING = (0.01, 0.1, 1.0)


def round_weights(setting: Setting) -> Wiring:
    """Put the weights of every quantized layer on their grids, one input after the other.

    What an input's rounding loses is made up for by the inputs that are not rounded yet, in proportion to how they vary
    together (Frantar et al. 2022, arXiv:2210.17323, GPTQ, equations 2 and 3). The mean, which the bias can take, is
    left out of it and goes into the bias. An output whose squared error does not get smaller is rounded to the nearest.
    """
    rounded = Wiring(setting.wiring.model)
    for node in setting.nodes:
        layer = rounded.layer(rounded.nodes[node.name])
        moments = setting.moments.get(node.name)
        grid = setting.grids.get(layer.weights) if layer is not None else None
        if layer is None or moments is None or grid is None:
            continue
        before = rounded.weights(layer)
        key = grid.scale.tobytes()
        if key not in moments.rounded:  # the same under all ranges of the activations
            moments.rounded[key] = _rounded(np.array(before, np.float64), moments, grid)
        after, shift = moments.rounded[key]
        rounded.set_weights(layer, after.reshape(before.shape))
        if layer.bias is not None:
            rounded.set_bias(layer, (rounded.bias(layer) - shift).astype(np.float32))
    return rounded


def _rounded(weights: NDArray[np.float64], moments: Moments, grid: Grid) -> tuple[Float, Float]:
    """Weights (outputs, ...) on their grid, and by how much that shifts the mean of each output."""
    groups, inputs = moments.sums.shape
    scale = np.broadcast_to(grid.scale.reshape(-1), (len(weights),)).reshape(groups, -1, 1)
    before = weights.reshape(groups, -1, inputs)
    after = scale * _places(before / scale, moments.covariances, grid)
    shift = (after - before) @ moments.means[:, :, None]
    return after.astype(np.float32), shift.reshape(-1).astype(np.float32)


def _places(wanted: NDArray[np.float64], covariances: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Whole steps for weights given in steps: (groups, outputs, inputs), covariances (groups, inputs, inputs)."""
    inputs = wanted.shape[2]
    variances = np.einsum("gii->gi", covariances)
    order = np.argsort(-variances, axis=1)  # those that count most are rounded while others can still make up for it
    factors = _factors(np.take_along_axis(np.take_along_axis(covariances, order[:, :, None], 1), order[:, None, :], 2))
    nearest = np.clip(np.round(wanted), grid.lowest, grid.highest)
    if factors is None:
        return nearest
    left = np.take_along_axis(wanted, order[:, None, :], 2)
    places = np.empty_like(left)
    for start in range(0, inputs, BLOCK):
        end = min(start + BLOCK, inputs)
        lost = np.empty((*left.shape[:2], end - start))
        for index in range(start, end):
            places[:, :, index] = np.clip(np.round(left[:, :, index]), grid.lowest, grid.highest)
            lost[:, :, index - start] = (left[:, :, index] - places[:, :, index]) / factors[:, index, index, None]
            left[:, :, index + 1 : end] -= lost[:, :, index - start, None] * factors[:, None, index, index + 1 : end]
        left[:, :, end:] -= lost @ factors[:, start:end, end:]
    found = np.empty_like(places)
    np.put_along_axis(found, np.broadcast_to(order[:, None, :], places.shape), places, 2)
    errors = [(((each - wanted) @ covariances) * (each - wanted)).sum(axis=2) for each in (found, nearest)]
    return np.where((errors[0] < errors[1])[:, :, None], found, nearest)


def _factors(covariances: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Upper Cholesky factors of the inverses, whose rows are for what comes behind; None where there are none."""
    variances = np.maximum(np.einsum("gii->gi", covariances).mean(axis=1), 1e-12)
    for damping in DAMPING:
        damped = covariances + damping * variances[:, None, None] * np.eye(covariances.shape[1])
        try:
            return np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
        except np.linalg.LinAlgError:
            continue
    return None
