"""Bias correction: the mean shift that rounding the weights causes in each channel is taken off the bias."""

from __future__ import annotations

import numpy as np

from edgecv_export.passes.setting import Setting
from edgecv_export.wiring import Wiring, attribute


def correct(setting: Setting) -> Wiring:
    """Take back the mean shift that rounding the weights causes.

    Rounding W to W + dW shifts the mean output by dW * E[x] (Nagel et al. 2019, arXiv:1906.04721, section 4.2, with
    E[x] measured in calibration). Zero padding at the border is left out of account. Layers without a bias are left as
    they are.
    """
    corrected = Wiring(setting.wiring.model)
    for node in setting.nodes:
        layer = corrected.layer(corrected.nodes[node.name])
        seen = setting.statistics.get(node.input[0])
        grid = setting.grids.get(layer.weights) if layer is not None else None
        if layer is None or layer.bias is None or seen is None or seen.channel_means is None or grid is None:
            continue
        values = corrected.constant(layer.weights)
        assert values is not None
        error = np.moveaxis(grid.fake(values) - values, layer.axis, 0)
        error = error.reshape(*error.shape[:2], -1).sum(axis=2)  # (outputs, inputs a group)
        groups = attribute(node, "group", 1)
        means = seen.channel_means.reshape(groups, -1)
        shift = np.einsum("goi,gi->go", error.reshape(groups, -1, error.shape[1]), means).reshape(-1)
        corrected.set_bias(layer, (corrected.bias(layer) - shift).astype(np.float32))
    return corrected
