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
# What exporters do with shapes.
_ARITHMETIC = {"Add", "Cast", "Ceil", "Concat", "Div", "Floor", "Gather", "Identity", "Max", "Min", "Mul", "Reshape",
               "Slice", "Squeeze", "Sub", "Unsqueeze"}  # fmt: skip

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
        values |= computed
        _store(model, computed)


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
    """Values that follow from known shapes and values, and were not known before."""
    found: Values = {}
    for node in model.graph.node:
        inputs = [name for name in node.input if name]
        if node.domain or node.output[0] in known:
            continue
        if node.op_type == "Shape" and inputs[0] in shapes:
            feeds = {inputs[0]: np.empty(shapes[inputs[0]], np.bool_)}
        elif node.op_type in _ARITHMETIC and inputs and all(name in known or name in found for name in inputs):
            feeds = {name: found[name] if name in found else known[name] for name in inputs}
        else:
            continue
        array = _run(model, node, feeds)
        if array is not None and array.size <= _SMALL:
            found[node.output[0]] = array
    return found


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


def _store(model: Any, computed: Values) -> None:
    """Replace nodes that give whole numbers by these: floats would look like weights."""
    for node in model.graph.node:
        array = computed.get(node.output[0])
        if array is not None and array.dtype.kind in "iu":
            name = node.output[0]
            value = onnx.numpy_helper.from_array(array, name)
            node.CopyFrom(onnx.helper.make_node("Constant", [], [name], name=node.name, value=value))
