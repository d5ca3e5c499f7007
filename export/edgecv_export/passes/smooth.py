"""SmoothQuant: what is hard to quantize in the input of linear layers moves into their weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgecv_export.ranges import Statistics
from edgecv_export.wiring import Layer, Wiring

ALPHA = 0.5


def smooth(wiring: Wiring, statistics: Mapping[str, Statistics]) -> Wiring | None:
    """Divide each channel j of a layer norm's output by s_j = max|x_j|^a / max|w_j|^(1 - a), a = 0.5.

    The layer norm's own scale and shift take 1 / s, the linear layers behind it take s: nothing else changes (Xiao et
    al. 2023, arXiv:2211.10438, equation 4). Only where all readers of the layer norm are linear layers; None when there
    is no such place.
    """
    smoothed = Wiring(wiring.model)
    norms = [node for node in smoothed.model.graph.node if node.op_type == "LayerNormalization"]
    return smoothed if sum(_smooth(smoothed, norm, statistics) for norm in norms) else None


def _smooth(wiring: Wiring, norm: object, statistics: Mapping[str, Statistics]) -> bool:
    output, inputs = norm.output[0], list(norm.input)  # type: ignore[attr-defined]
    layers = [wiring.layer(reader) for reader in wiring.readers[output]]
    seen = statistics.get(output)
    linear = [layer for layer in layers if layer is not None and layer.node.op_type in ("MatMul", "Gemm")]
    parameters = [wiring.constant(name) for name in inputs[1:]]
    if not linear or len(linear) != len(layers) or output in wiring.outputs or seen is None:
        return False
    if len(parameters) != 2 or any(values is None or values.ndim != 1 for values in parameters):
        return False
    reach = np.maximum(*(np.abs(side) for side in seen.channel_ranges()))
    weights = np.max([np.abs(_by_input(wiring, layer)).max(axis=1) for layer in linear], axis=0)
    usable = (reach > 0) & (weights > 0)
    scale = np.where(usable, np.maximum(reach, 1e-5) ** ALPHA / np.maximum(weights, 1e-5) ** (1 - ALPHA), 1)
    for place, values in enumerate(parameters, start=1):
        wiring.set_constant(norm, place, (values / scale).astype(np.float32))
    for layer in linear:
        wiring.set_weights(layer, wiring.weights(layer) * scale)
    return True


def _by_input(wiring: Wiring, layer: Layer) -> np.ndarray:
    """Weights with the input channels first."""
    return wiring.weights(layer).T
