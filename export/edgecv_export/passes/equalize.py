"""Cross-layer equalization: channels of two layers in a row are scaled against each other until both reach as far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export.placement import is_depthwise
from edgecv_export.ranges import Statistics
from edgecv_export.wiring import Layer, Wiring, attribute

ROUNDS, CLOSE = 20, 1e-3
REACH = 1e8  # no channel is scaled by more, and dead channels not at all


@dataclass(frozen=True)
class _Couple:
    """Two layers with nothing but a positively homogeneous activation, or nothing at all, between them."""

    first: Layer
    second: Layer
    clip: Any | None


def equalize(wiring: Wiring, _statistics: Mapping[str, Statistics]) -> Wiring | None:
    """Scale channel i between two layers by s_i = sqrt(r1_i r2_i) / r2_i, r being the reach of its weights.

    (Nagel et al. 2019, arXiv:1906.04721, equation 11.) W1 and b1 are divided by s and W2 is multiplied by it, which
    changes nothing when f(s x) = s f(x): through ReLU or no activation. ReLU6 is no such function; as in section 5.1.1
    there, it becomes ReLU where it stands between two layers that are equalized. Chains are gone through until nothing
    moves any more. None when there is no such couple.
    """
    equal = Wiring(wiring.model)
    couples = [couple for layer in equal.layers() if (couple := _couple(equal, layer)) is not None]
    if not couples:
        return None
    for couple in couples:
        if couple.clip is not None:
            _to_relu(couple.clip)
    equal.refresh()
    for _ in range(ROUNDS):
        if max([_balance(equal, couple) for couple in couples]) < CLOSE:
            break
    return equal


def _couple(wiring: Wiring, first: Layer) -> _Couple | None:
    """The layer that alone reads a convolution's or Gemm's output."""
    if first.channels != 1:
        return None
    clip = None
    reader = wiring.only_reader(first.node.output[0])
    if reader is not None and reader.op_type in ("Relu", "Clip"):
        if reader.op_type == "Clip":
            if len(reader.input) < 2 or wiring.constant(reader.input[1]) != 0:
                return None
            clip = reader
        reader = wiring.only_reader(reader.output[0])
    second = wiring.layer(reader) if reader is not None else None
    if second is None or second.channels != 1 or not _one_to_one(wiring, second):
        return None
    return _Couple(first, second, clip)


def _one_to_one(wiring: Wiring, layer: Layer) -> bool:
    """Whether each input channel meets weights of its own: plain layers do, and depthwise ones of as many outputs."""
    groups = attribute(layer.node, "group", 1)
    return groups == 1 or (is_depthwise(wiring, layer.node) and len(wiring.weights(layer)) == groups)


def _balance(wiring: Wiring, couple: _Couple) -> float:
    """Equalize one couple; gives the largest |log s|."""
    first, second = wiring.weights(couple.first), wiring.weights(couple.second)
    depthwise = is_depthwise(wiring, couple.second.node)
    one = np.abs(first.reshape(len(first), -1)).max(axis=1)
    by_input = second if depthwise else np.moveaxis(second, 1, 0)
    two = np.abs(by_input.reshape(len(one), -1)).max(axis=1)
    alive = (one > one.max() / REACH) & (two > two.max() / REACH)
    scale = np.where(alive, np.sqrt(one * np.where(alive, two, 1)) / np.where(alive, two, 1), 1).astype(np.float32)
    wiring.set_weights(couple.first, first / _along(scale, 0, first.ndim))
    if couple.first.bias is not None:
        wiring.set_bias(couple.first, wiring.bias(couple.first) / scale)
    wiring.set_weights(couple.second, second * _along(scale, 0 if depthwise else 1, second.ndim))
    return float(np.abs(np.log(scale)).max())


def _along(scale: NDArray[np.float32], axis: int, dimensions: int) -> NDArray[np.float32]:
    shape = [1] * dimensions
    shape[axis] = -1
    return scale.reshape(shape)


def _to_relu(clip: Any) -> None:
    clip.op_type = "Relu"
    del clip.input[1:]
