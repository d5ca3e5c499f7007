"""Equalization: between two layers, each channel is scaled until it fills the one grid that all of them share.

An activation has one scale for all its channels, as every backend wants it: one that reaches a tenth as far as the
widest is left a tenth of the steps. Weights have a scale per output channel, so that it costs them nothing to be
multiplied by what makes their channel reach as far as the widest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgecv_export.placement import is_depthwise
from edgecv_export.ranges import Statistics
from edgecv_export.wiring import Layer, Wiring, attribute

LARGEST = 64.0  # no channel is scaled by more: one that is next to dead tells nothing
LEAST = 1.05  # what is scaled by less is left alone
# How much of the difference is taken off: where a dense layer follows, its weights of one output share a scale, and
# what the activation gains they lose; half and half is SmoothQuant's choice (Xiao et al. 2023, arXiv:2211.10438).
DEPTHWISE, DENSE = 1.0, 0.5


@dataclass(frozen=True)
class _Couple:
    """Two layers with nothing between them but ReLU, or nothing at all; the second reads `between`."""

    first: Layer
    second: Layer
    between: str


def equalize(wiring: Wiring, statistics: Mapping[str, Statistics]) -> Wiring | None:
    """Multiply channel i between two layers by s_i >= 1: the first layer's weights and bias, the second's by 1 / s_i.

    Nothing changes where f(s x) = s f(x): through ReLU or no activation (Nagel et al. 2019, arXiv:1906.04721, equation
    6). ReLU6 is no such function, and to make it ReLU is another network: of EfficientNet-Lite0's answers 78 % change.
    None when there is no such couple.
    """
    equal = Wiring(wiring.model)
    couples = [couple for layer in equal.layers() if (couple := _couple(equal, layer)) is not None]
    return equal if sum([_fill(equal, couple, statistics) for couple in couples]) else None


def _couple(wiring: Wiring, first: Layer) -> _Couple | None:
    """The layer that alone reads a convolution's or Gemm's output."""
    if first.channels != 1:
        return None
    between = first.node.output[0]
    reader = wiring.only_reader(between)
    if reader is not None and reader.op_type == "Relu":
        between = reader.output[0]
        reader = wiring.only_reader(between)
    second = wiring.layer(reader) if reader is not None else None
    if second is None or second.channels != 1 or not _one_to_one(wiring, second):
        return None
    return _Couple(first, second, between)


def _one_to_one(wiring: Wiring, layer: Layer) -> bool:
    """Whether each input channel meets weights of its own: plain layers do, and depthwise ones of as many outputs."""
    groups = attribute(layer.node, "group", 1)
    return groups == 1 or (is_depthwise(wiring, layer.node) and len(wiring.weights(layer)) == groups)


def _fill(wiring: Wiring, couple: _Couple, statistics: Mapping[str, Statistics]) -> bool:
    """Scale the channels of one couple; tells whether any was."""
    seen = statistics.get(couple.between)
    if seen is None:
        return False
    reach = np.maximum(*(np.abs(side) for side in seen.channel_ranges())).astype(np.float64)
    depthwise = is_depthwise(wiring, couple.second.node)
    with np.errstate(divide="ignore"):
        wanted = (reach.max() / reach) ** (DEPTHWISE if depthwise else DENSE)
    scale = np.where((reach > 0) & (wanted > LEAST), np.minimum(wanted, LARGEST), 1).astype(np.float32)
    if (scale == 1).all():
        return False
    first, second = wiring.weights(couple.first), wiring.weights(couple.second)
    wiring.set_weights(couple.first, first * _along(scale, 0, first.ndim))
    if couple.first.bias is not None:
        wiring.set_bias(couple.first, wiring.bias(couple.first) * scale)
    wiring.set_weights(couple.second, second / _along(scale, 0 if depthwise else 1, second.ndim))
    return True


def _along(scale: NDArray[np.float32], axis: int, dimensions: int) -> NDArray[np.float32]:
    shape = [1] * dimensions
    shape[axis] = -1
    return scale.reshape(shape)
