"""The network as a compiler leaves it: normalizations folded into the convolutions before them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from edgecv.xray.graph import WEIGHTED, Graph, Layer

_OPS = ("batch_norm", "BatchNormalization")


def fold(graph: Graph) -> Graph:
    """Fold each batch normalization that alone reads a layer with weights into that layer.

    w' = w g / sqrt(v + e), b' = (b - m) g / sqrt(v + e) + h for scale g, offset h, mean m, variance v of a channel: the
    layer keeps its weights' number, and gets one offset per channel where it had none. MACs stay the same.
    """
    reads = Counter(name for layer in graph.layers for name in layer.inputs) + Counter(graph.outputs)
    makers = {layer.outputs[0]: layer for layer in graph.layers}
    folded: dict[str, Layer] = {}  # output of the convolution -> the normalization that goes into it
    for layer in graph.layers:
        maker = makers.get(layer.inputs[0])
        if layer.op in _OPS and maker is not None and maker.kind in WEIGHTED and reads[layer.inputs[0]] == 1:
            folded[layer.inputs[0]] = layer
    layers = []
    for layer in graph.layers:
        if layer.outputs[0] in folded:
            layers.append(_with_norm(layer, folded[layer.outputs[0]], graph))
        elif layer not in folded.values():
            layers.append(layer)
    kept = {name for layer in layers for name in (*layer.inputs, *layer.outputs)} | set(graph.inputs)
    return replace(
        graph, layers=tuple(layers), tensors={name: graph.tensors[name] for name in graph.tensors if name in kept}
    )


def _with_norm(layer: Layer, norm: Layer, graph: Graph) -> Layer:
    offsets = 0 if layer.bias else layer.channels[1]
    item = graph.output_of(layer).item_bytes
    return replace(
        layer,
        outputs=norm.outputs,
        bias=True,
        parameters=layer.parameters + offsets,
        weight_bytes=layer.weight_bytes + offsets * item,
    )
