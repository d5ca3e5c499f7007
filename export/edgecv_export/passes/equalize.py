"""Equalization: each channel is scaled until it fills the one grid that all channels of a tensor share.

An activation has one scale for all its channels, as every backend wants it: one that reaches a tenth as far as the
widest is left a tenth of the steps. Weights have a scale per output channel, so that it costs them nothing to be
multiplied by what makes their channel reach as far as the widest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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
# f(s x) = s f(x) for every s > 0, channel by channel.
_HOMOGENEOUS = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity")
_FLATTENING = ("Flatten", "Reshape", "Squeeze")


@dataclass
class _Cluster:
    """Tensors whose channels are scaled together, the layers that make them, and the layers that read them."""

    tensors: list[str] = field(default_factory=list)
    makers: list[Layer] = field(default_factory=list)
    readers: list[Layer] = field(default_factory=list)


def equalize(wiring: Wiring, statistics: Mapping[str, Statistics]) -> Wiring | None:
    """Multiply channel i of a cluster by s_i >= 1: its makers' weights and biases; its readers' weights by 1 / s_i.

    Nothing changes where f(s x) = s f(x): through ReLU, pools, nothing at all (Nagel et al. 2019, arXiv:1906.04721,
    equation 6), and through sums whose terms are scaled alike: all outputs of a stage of residual blocks are one
    cluster. ReLU6 is no such function, and to make it ReLU is another network: of EfficientNet-Lite0's answers 78 %
    change. Nor can a channel be scaled that calibration never saw come near the 6: even with room for three times what
    was seen, Lite0's float outputs move by 0.0026 nats on other pictures. None when there is nothing to scale.
    """
    equal = Wiring(wiring.model)
    return equal if sum([_fill(equal, cluster, statistics) for cluster in _clusters(equal, statistics)]) else None


def _clusters(wiring: Wiring, statistics: Mapping[str, Statistics]) -> Iterator[_Cluster]:
    """Every cluster that begins with some layer's output, once."""
    seen: set[str] = set()
    for layer in wiring.layers():
        output = layer.node.output[0]
        if layer.channels == 1 and output not in seen:
            cluster = _Cluster()
            whole = _gather(wiring, output, cluster, statistics)
            seen.update(cluster.tensors)
            if whole and cluster.readers:
                yield cluster


def _gather(wiring: Wiring, start: str, cluster: _Cluster, statistics: Mapping[str, Statistics]) -> bool:
    """Everything that is tied to a tensor; tells whether nothing forbids to scale it."""
    waiting, whole = [start], True
    while waiting:
        name = waiting.pop()
        if name in cluster.tensors:
            continue
        cluster.tensors.append(name)
        maker = wiring.makers.get(name)
        whole &= maker is not None and name not in wiring.outputs and name in statistics
        for node in [*([maker] if maker is not None else []), *wiring.readers[name]]:
            layer = wiring.layer(node)
            if layer is not None and layer.channels == 1 and name == node.output[0]:
                cluster.makers.append(layer)
            elif layer is not None and layer.channels == 1 and _one_to_one(wiring, layer):
                cluster.readers.append(layer)
            elif _tied(wiring, node, statistics):
                waiting += [each for each in (*node.input, *node.output) if each and each not in wiring.constants]
            else:
                whole = False
    return whole


def _tied(wiring: Wiring, node: Any, statistics: Mapping[str, Statistics]) -> bool:
    """Whether a node gives s y for s x, channel by channel."""
    if node.op_type == "Add":
        return not any(name in wiring.constants for name in node.input) and len(_widths(node, statistics)) == 1
    if node.op_type == "ReduceMean":
        return attribute(node, "axes", None) in ([2, 3], [-2, -1], [-1, -2])
    if node.op_type in _FLATTENING:  # one value a channel stays one
        pool = wiring.makers.get(node.input[0])
        pooled = pool is not None and pool.op_type in ("GlobalAveragePool", "ReduceMean")
        return pooled and len(_widths(node, statistics)) == 1
    return node.op_type in _HOMOGENEOUS


def _widths(node: Any, statistics: Mapping[str, Statistics]) -> set[int]:
    """Numbers of channels of what a node takes and gives."""
    known = (statistics[name] for name in (node.input[0], *node.input[1:2], node.output[0]) if name in statistics)
    return {len(each.channel_means) for each in known if each.channel_means is not None}


def _one_to_one(wiring: Wiring, layer: Layer) -> bool:
    """Whether each input channel meets weights of its own: plain layers do, and depthwise ones of as many outputs."""
    groups = attribute(layer.node, "group", 1)
    return groups == 1 or (is_depthwise(wiring, layer.node) and len(wiring.weights(layer)) == groups)


def _fill(wiring: Wiring, cluster: _Cluster, statistics: Mapping[str, Statistics]) -> bool:
    """Scale the channels of one cluster; tells whether any was."""
    reach = _reach(cluster, statistics)
    if reach is None:
        return False
    depthwise = all(is_depthwise(wiring, layer.node) for layer in cluster.readers)
    with np.errstate(divide="ignore"):
        wanted = (1 / reach) ** (DEPTHWISE if depthwise else DENSE)
    scale = np.where((reach > 0) & (wanted > LEAST), np.minimum(wanted, LARGEST), 1).astype(np.float32)
    if (scale == 1).all():
        return False
    for layer in cluster.makers:
        weights = wiring.weights(layer)
        wiring.set_weights(layer, weights * _along(scale, 0, weights.ndim))
        if layer.bias is not None:
            wiring.set_bias(layer, wiring.bias(layer) * scale)
    for layer in cluster.readers:
        weights = wiring.weights(layer)
        axis = 0 if is_depthwise(wiring, layer.node) else 1
        wiring.set_weights(layer, weights / _along(scale, axis, weights.ndim))
    return True


def _reach(cluster: _Cluster, statistics: Mapping[str, Statistics]) -> NDArray[np.float64] | None:
    """How far each channel reaches, as a share of the widest one, in the tensor where it reaches farthest."""
    shares = []
    for name in cluster.tensors:
        if statistics[name].channel_low is None:
            return None
        own = np.maximum(*(np.abs(side) for side in statistics[name].channel_ranges())).astype(np.float64)
        shares.append(own / own.max() if own.max() > 0 else own)
    return np.max(shares, axis=0) if len({len(each) for each in shares}) == 1 else None


def _along(scale: NDArray[np.float32], axis: int, dimensions: int) -> NDArray[np.float32]:
    shape = [1] * dimensions
    shape[axis] = -1
    return scale.reshape(shape)
