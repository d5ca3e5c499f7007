"""Batch-norm folding: y = (W x + b - mean) * s + beta with s = gamma / sqrt(var + eps) is one layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgecv_export.ranges import Statistics
from edgecv_export.wiring import Wiring, attribute


def fold_batch_norm(wiring: Wiring, _statistics: Mapping[str, Statistics]) -> Wiring | None:
    """Fold each batch normalization into the convolution or Gemm before it (Jacob et al. 2018, section 3.2).

    One that stands behind anything else, or behind a layer whose output others read too, stays. The layer gets a bias
    when it has none.
    """
    folded = Wiring(wiring.model)
    norms = [node for node in folded.model.graph.node if node.op_type == "BatchNormalization"]
    return folded if sum(_fold(folded, norm) for norm in norms) else None


def _fold(wiring: Wiring, norm: object) -> bool:
    inputs = list(norm.input)  # type: ignore[attr-defined]
    maker = wiring.makers.get(inputs[0])
    layer = wiring.layer(maker) if maker is not None else None
    parameters = [wiring.constant(name) for name in inputs[1:]]
    alone = wiring.only_reader(inputs[0]) is not None
    if layer is None or layer.channels != 1 or not alone or any(each is None for each in parameters):
        return False
    gamma, beta, mean, variance = (np.asarray(each, np.float64) for each in parameters)
    scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    weights = wiring.weights(layer)
    bias = (wiring.bias(layer) - mean) * scale + beta
    wiring.set_weights(layer, (weights * scale.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.float32))
    wiring.set_bias(layer, bias.astype(np.float32))
    wiring.bypass(norm)
    return True
