"""Every shape of an ONNX graph whose inputs are bound: ONNX's own inference, and the shape arithmetic that it leaves.

Its data propagation does not follow every slice and cast of a shape, as PaddlePaddle's exporter writes them. What can
be computed from known shapes and small constants alone is, by ONNX's reference implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgecv_runtime.errors import ShapeError

_SMALL = 64  # numbers in a shape, or in what is computed of it
# What gives other numbers each time, or is not to be computed here; any other operator may stand in shape arithmetic.
_NOT_COMPUTED = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
                 "Dropout", "Constant", "DequantizeLinear", "QuantizeLinear"}  # fmt: skip
# Operators whose output's shape follows from the value of a float input.
_BY_FLOATS = {"Resize", "Upsample", "Range"}

Values = dict[str, NDArray[Any]]


def infer(model: Any, where: str) -> Any:
    """Infer the shapes of a model -> a copy that holds them; raises ShapeError when they contradict each other.

    As long as shapes stay open, those that were found are put into the arithmetic, and inference tried again.
    """
    values = _small_constants(model)
    while True:
        inferred = _infer(model, where)
        shapes = whole_shapes(inferred)
        if all(name in shapes for node in inferred.graph.node for name in node.output if name):
            return inferred
        computed = _computed(inferred, shapes, values)
        if not computed:
            return inferred
        values |= {name: array for name, array in computed.items() if array.size <= _SMALL}
        _store(model, computed, shapes)


def whole_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Tensor -> its shape, where all of it is known."""
    found = {}
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            found[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return found


def _infer(model: Any, where: str) -> Any:
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False, data_prop=True)
    except Exception as exc:  # onnx documents none of what it raises
        raise ShapeError(f"{where}: shapes cannot be inferred: {str(exc).strip().splitlines()[0]}") from exc


def _small_constants(model: Any) -> Values:
    """What initializers and Constant nodes hold, as far as it can be part of a shape."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            stored[node.output[0]] = node.attribute[0].t
    return {
        name: onnx.numpy_helper.to_array(tensor)
        for name, tensor in stored.items()
        if math.prod(tensor.dims) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL
    }


def _computed(model: Any, shapes: Mapping[str, tuple[int, ...]], known: Values) -> Values:
    """Values that follow from known shapes and small values, and were not known before."""
    found: Values = {}
    for node in model.graph.node:
        inputs = list(dict.fromkeys([name for name in node.input if name] + _captured(node)))
        if node.domain or not node.output[0] or node.output[0] in known or node.op_type in _NOT_COMPUTED:
            continue
        if node.op_type == "Shape" and inputs[0] in shapes:
            feeds = {inputs[0]: np.empty(shapes[inputs[0]], np.bool_)}
        elif inputs and all(name in known or name in found for name in inputs):
            feeds = {name: found[name] if name in found else known[name] for name in inputs}
        else:
            continue
        if any(array.size > _SMALL for array in feeds.values()) and node.op_type != "Shape":
            continue
        array = _run(model, node, feeds)
        if array is not None and (array.size <= _SMALL or node.output[0] not in shapes):
            found[node.output[0]] = array
    return found


def _captured(node: Any) -> list[str]:
    """What the bodies of a branch or loop read from around them."""
    names: list[str] = []
    for attribute in node.attribute:
        body = attribute.g
        made = {each.name for each in (*body.input, *body.initializer)}
        for inner in body.node:
            names += [name for name in [*inner.input, *_captured(inner)] if name and name not in made]
            made.update(inner.output)
        names += [each.name for each in body.output if each.name not in made]
    return names


def _run(model: Any, node: Any, feeds: Values) -> NDArray[Any] | None:
    """What one node gives; None when it cannot be computed, so that the shape stays open and is named."""
    helper = onnx.helper
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    graph = helper.make_graph([node], "arithmetic", inputs, [helper.make_empty_tensor_value_info(node.output[0])])
    opsets = [opset for opset in model.opset_import if not opset.domain]
    try:
        return np.asarray(ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, feeds)[0])
    except Exception:  # nor what its reference operators raise for inputs that do not fit
        return None


def _store(model: Any, computed: Values, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Put what was computed into the model: whole numbers in the place of the nodes that give them, shapes of the rest.

    Floats would look like weights; they are put where a shape follows from them.
    """
    reads_floats = {name for node in model.graph.node if node.op_type in _BY_FLOATS for name in node.input}
    for node in model.graph.node:
        array = computed.get(node.output[0])
        if array is None:
            continue
        name = node.output[0]
        if array.size <= _SMALL and (array.dtype.kind in "iub" or name in reads_floats):
            value = onnx.numpy_helper.from_array(array, name)
            node.CopyFrom(onnx.helper.make_node("Constant", [], [name], name=node.name, value=value))
        elif name not in shapes:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
