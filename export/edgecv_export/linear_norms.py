"""Batch norms of tokens become part of the matrix product before them (LeViT, Graham et al. 2021, arXiv:2104.01136).

A batch norm takes rows of channels, (N, C), so that the tokens of all images are laid out as rows between the two; the
exporter folds only what directly follows a convolution or Gemm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_export.wiring import Layer, Wiring, attribute

Numbers = NDArray[np.float64]


def merge_linear_norms(model: Any) -> tuple[Any, int]:
    """Fold each norm of rows into the matrix product that made them -> (the model, or a copy, and how many)."""
    wiring, count = Wiring(model), 0
    for name in [node.name for node in wiring.model.graph.node if node.op_type == "BatchNormalization"]:
        norm = wiring.nodes[name]
        layer, affine = _layer_of_rows(wiring, norm), _affine(wiring, norm)
        if layer is not None and affine is not None:
            _fold(wiring, layer, *affine)
            wiring.bypass(norm)
            count += 1
    return (wiring.model, count) if count else (model, 0)


def _layer_of_rows(wiring: Wiring, norm: Any) -> Layer | None:
    """The matrix product whose outputs (..., C) a norm of C channels takes as rows, (tokens, C); None where there is
    none, or others read what is between.
    """
    rows = wiring.makers.get(norm.input[0])
    if rows is None or not _are_rows(wiring, rows) or wiring.only_reader(norm.input[0]) is None:
        return None
    made, channels = wiring.makers.get(rows.input[0]), wiring.constant(norm.input[1])
    if made is None or channels is None or wiring.only_reader(rows.input[0]) is None:
        return None
    for layer in wiring.layers():
        ends = layer.bias[0] if layer.bias is not None else layer.node
        if ends is made and layer.node.op_type == "MatMul":
            return layer if len(channels) == len(wiring.weights(layer)) else None
    return None


def _are_rows(wiring: Wiring, node: Any) -> bool:
    """Whether a node lays its input out in two dimensions."""
    shape = wiring.constant(node.input[1]) if node.op_type == "Reshape" else None
    return node.op_type == "Flatten" or (shape is not None and shape.shape == (2,))


def _affine(wiring: Wiring, norm: Any) -> tuple[Numbers, Numbers] | None:
    """What a norm multiplies each channel with and adds to it; None where that is no constant."""
    parameters = [wiring.constant(name) for name in norm.input[1:5]]
    if any(each is None for each in parameters) or attribute(norm, "training_mode", 0):
        return None
    gamma, beta, mean, variance = (np.asarray(each, np.float64) for each in parameters)
    scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _fold(wiring: Wiring, layer: Layer, scale: Numbers, offset: Numbers) -> None:
    """Let a layer give its outputs times a scale per channel, plus an offset; one without a bias gets one behind it."""
    import onnx

    weights = wiring.weights(layer).astype(np.float64)
    bias = wiring.bias(layer) * scale + offset
    wiring.set_weights(layer, (weights * scale.reshape(-1, *[1] * (weights.ndim - 1))).astype(np.float32))
    if layer.bias is not None:
        wiring.set_bias(layer, bias.astype(np.float32))
        return
    graph, node = wiring.model.graph, wiring.nodes[layer.name]
    output, product = node.output[0], f"{node.output[0]}:product"
    node.output[0] = product
    graph.initializer.append(onnx.numpy_helper.from_array(bias.astype(np.float32), f"{layer.name}:bias"))
    added = onnx.helper.make_node("Add", [product, f"{layer.name}:bias"], [output], name=f"{layer.name}/bias")
    place = next(index for index, each in enumerate(graph.node) if each.name == layer.name)
    graph.node.insert(place + 1, added)
    wiring.refresh()
