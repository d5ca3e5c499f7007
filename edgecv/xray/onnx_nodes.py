"""An ONNX file as a list of nodes with shapes: loaded without its weights, batch bound to 1, constants told apart."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray

from edgecv.xray.extent import Shape
from edgecv.xray.onnx_shapes import infer, whole_shapes
from edgecv_runtime import onnxfile
from edgecv_runtime.errors import BadInput, ModelFileError

KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft")
_SMALL = 4096  # numbers up to which a constant's values are kept: shapes, axes, scales


@dataclass
class Node:
    """One operation: type, inputs and outputs by name ("" for one left out), attributes."""

    name: str
    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Constant:
    """A stored tensor, or what was computed from stored tensors alone.

    stored: names of the initializers behind it. values: of small ones.
    """

    shape: Shape
    dtype: str
    item_bytes: float
    stored: frozenset[str]
    values: NDArray[Any] | None = None


@dataclass
class File:
    """What the reader works on; the fusions change `nodes`. others: what is no tensor, by name, and what it is."""

    nodes: list[Node]
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    constants: dict[str, Constant]
    inputs: list[str]
    outputs: list[str]
    others: dict[str, str] = field(default_factory=dict)

    def readers(self) -> dict[str, list[Node]]:
        """Tensor -> nodes that read it."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    def makers(self) -> dict[str, Node]:
        """Tensor -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs}

    def values(self, name: str) -> NDArray[Any] | None:
        """A small constant's numbers."""
        constant = self.constants.get(name)
        return None if constant is None else constant.values


def load(
    path: str | Path, *, input_shapes: Mapping[str, Sequence[int]] | None = None, size: Shape | None = None
) -> File:
    """Load a file and infer every shape at batch 1.

    input_shapes: whole shapes of inputs by name. size: (height, width), or (length,), for what a 4-D or 3-D input
    leaves open. Raises ModelFileError when it is no ONNX file, BadInput when a shape stays open.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    onnxfile.parse(data, str(path))
    model = onnx.load_model_from_string(data)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _sort(model, str(path))
    _drop_weights(model)
    _open_sizes(model)
    bindings = _bind_inputs(model, str(path), input_shapes or {}, size)
    _bind_symbols(model, bindings)
    return _file(infer(model, str(path)), str(path))


def _sort(model: Any, where: str) -> None:
    """Put the nodes into an order in which they can run, as near as can be to the file's: quantizers append theirs."""
    nodes = list(model.graph.node)
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{makers[name] for name in node.input if name in makers} for node in nodes]
    readers: dict[int, list[int]] = {}
    for index, needed in enumerate(waits):
        for each in needed:
            readers.setdefault(each, []).append(index)
    ready = [index for index, needed in enumerate(waits) if not needed]
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for index in readers.get(order[-1], ()):
            waits[index].discard(order[-1])
            if not waits[index]:
                heapq.heappush(ready, index)
    if len(order) < len(nodes):
        raise ModelFileError(f"{where}: its operators wait for each other in a circle; export it again")
    del model.graph.node[:]
    model.graph.node.extend(nodes[index] for index in order)


def _drop_weights(model: Any) -> None:
    """Forget the contents of large weights: shape inference, which copies the model, needs none of them."""
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > _SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
            for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(name)


def _open_sizes(model: Any) -> None:
    """PaddlePaddle writes -1 and "?" where a size is open; "?" is no symbol, and each one is another size."""
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0 or dim.dim_param == "?":
                dim.Clear()


def _bind_inputs(model: Any, where: str, given: Mapping[str, Sequence[int]], size: Shape | None) -> dict[str, int]:
    """Give every input of the graph a whole shape; returns what that says of the symbols."""
    bindings: dict[str, int] = {}
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    unknown = sorted(set(given) - {value.name for value in inputs})
    if unknown:
        names = ", ".join(value.name for value in inputs)
        raise BadInput(f"{where}: no input '{unknown[0]}'; it has: {names}")
    if size and not any(_takes(value.type.tensor_type.shape.dim, size) for value in inputs):
        shown = ", ".join(f"'{value.name}' {_shown(value.type.tensor_type.shape.dim)}" for value in inputs)
        raise BadInput(f"{where}: a size of {'x'.join(map(str, size))} fits no input; the file has {shown}")
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        wanted = list(given.get(value.name, ()))
        if wanted and len(wanted) != len(dims):
            raise BadInput(f"{where}: input '{value.name}' has {len(dims)} axes, got {len(wanted)}: {wanted}")
        for axis, dim in enumerate(dims):
            fixed = dim.dim_value if dim.HasField("dim_value") else 0
            number = wanted[axis] if wanted else fixed or _sizes(dims, size).get(axis) or bindings.get(dim.dim_param, 0)
            if number == 0 and axis == 0 and len(dims) > 1:
                number = 1  # the batch
            if number < 1 and dim.HasField("dim_value") and dim.dim_value == 0:
                raise BadInput(
                    f"{where}: input '{value.name}' {_shown(dims)} holds no numbers: there is nothing to show"
                )
            if number < 1:
                symbol = dim.dim_param or "?"
                raise BadInput(
                    f"{where}: input '{value.name}' {_shown(dims)} leaves '{symbol}' open; give it with --size HxW or "
                    f"--input-shape {value.name}=1x..."
                )
            if wanted and fixed and fixed != number and axis > 0:
                raise BadInput(f"{where}: axis {axis} of input '{value.name}' is {fixed} in the file, got {number}")
            if dim.dim_param:
                bindings[dim.dim_param] = number
            dim.dim_value = number
    return bindings


def _sizes(dims: Any, size: Shape | None) -> dict[int, int]:
    """What `size` says of axes: the last ones, or those before channels that stand last; one number says it of all."""
    channels_last = len(dims) == 4 and 0 < dims[-1].dim_value <= 4
    places = range(1, len(dims) - 1) if channels_last else range(2, len(dims))
    numbers = (size or ()) * (len(places) if len(size or ()) == 1 else 1)
    return dict(zip(places, numbers, strict=True)) if len(numbers) == len(places) else {}


def _takes(dims: Any, size: Shape) -> bool:
    """Whether an input can have this size: it is open or the same."""
    sizes = _sizes(dims, size)
    return bool(sizes) and all(dims[axis].dim_value in (0, number) for axis, number in sizes.items())


def _shown(dims: Any) -> str:
    sizes = (str(each.dim_value) if each.HasField("dim_value") else "?" for each in dims)
    return f"[{', '.join(each.dim_param or size for each, size in zip(dims, sizes, strict=True))}]"


def _bind_symbols(model: Any, bindings: Mapping[str, int]) -> None:
    """Put numbers for the symbols that the inputs have bound; forget what else the file says of inner shapes."""
    for value in list(model.graph.value_info) + list(model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in bindings:
                dim.dim_value = bindings[dim.dim_param]
    kept = [value for value in model.graph.value_info if not _is_dynamic(value)]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)


def _is_dynamic(value: Any) -> bool:
    dims = value.type.tensor_type.shape.dim
    return any(not dim.HasField("dim_value") for dim in dims)


def _file(model: Any, where: str) -> File:
    graph = model.graph
    shapes = whole_shapes(model)
    dtypes: dict[str, str] = {}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        dtypes[value.name] = _dtype(value.type.tensor_type.elem_type)
    constants = {tensor.name: _constant(tensor) for tensor in graph.initializer}
    nodes = []
    for index, proto in enumerate(graph.node):
        attributes = {each.name: _attribute(each) for each in proto.attribute}
        node = Node(
            proto.name or f"{proto.op_type}_{index}",
            _operator(proto),
            list(proto.input),
            list(proto.output),
            attributes,
        )
        if node.op == "CastLike":
            node.inputs = node.inputs[:1]  # of the other, only the type matters
        if not _fold(node, shapes, dtypes, constants):
            nodes.append(node)
    inputs = [value.name for value in graph.input if value.name not in constants]
    others = {value.name: _no_tensor(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    others = {name: what for name, what in others.items() if what}
    file = File(nodes, shapes, dtypes, constants, inputs, [value.name for value in graph.output], others)
    if not inputs:
        raise BadInput(f"{where}: the graph has no input")
    return file


def _no_tensor(value: Any) -> str:
    """What a value is, if it is no tensor."""
    kind = value.type.WhichOneof("value") or "tensor_type"
    return "" if kind == "tensor_type" else f"a {kind.removesuffix('_type').replace('_', ' ')}"


def _operator(proto: Any) -> str:
    """An operator's name, with its domain where that is nobody's whose operators are known: "Conv" may be another."""
    return proto.op_type if proto.domain in KNOWN_DOMAINS else f"{proto.domain}.{proto.op_type}"


def _fold(node: Node, shapes: dict[str, Shape], dtypes: dict[str, str], constants: dict[str, Constant]) -> bool:
    """Take a node that reads constants or shapes alone as a constant."""
    if node.op == "Constant":
        value = next(iter(node.attributes.values()), None)
        array = np.asarray(value) if value is not None else np.zeros(0)
        stored = frozenset(node.outputs) if array.size > 1 and array.dtype.kind == "f" else frozenset[str]()
        constants[node.outputs[0]] = Constant(array.shape, str(array.dtype), array.itemsize, stored, array)
        return True
    if node.op in ("Shape", "Size"):
        shape = shapes.get(node.inputs[0])
        values = (
            None if shape is None else np.array(shape[node.attributes.get("start", 0) : node.attributes.get("end")])
        )
        constants[node.outputs[0]] = Constant((len(shape or ()),), "int64", 8, frozenset(), values)
        return True
    used = [name for name in node.inputs if name]
    if (
        not used
        or any(name not in constants for name in used)
        or any(isinstance(each, Subgraph) for each in node.attributes.values())
    ):
        return False
    # What is filled in by a number is stored as that number: the shape is no part of it.
    stored = frozenset[str]() if node.op == "ConstantOfShape" else _stored(used, constants)
    for name in node.outputs:
        first = constants[used[0]]
        dtype = first.dtype if node.op == "DequantizeLinear" else dtypes.get(name, first.dtype)
        constants[name] = Constant(
            shapes.get(name, first.shape), dtype, first.item_bytes, stored, _computed(node, constants)
        )
    return True


def _stored(names: Sequence[str], constants: Mapping[str, Constant]) -> frozenset[str]:
    return frozenset[str]().union(*(constants[name].stored for name in names))


def _computed(node: Node, constants: Mapping[str, Constant]) -> NDArray[Any] | None:
    """Values of a small constant that others read as axes or sizes; None where only the shape is of interest."""
    if node.op == "Cast" and constants[node.inputs[0]].values is not None:
        return constants[node.inputs[0]].values
    return None


class Subgraph:
    """An attribute that is a graph: the body of a loop or branch, which is not read."""


def _attribute(proto: Any) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, onnx.GraphProto):
        return Subgraph()
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _constant(tensor: Any) -> Constant:
    shape = tuple(tensor.dims)
    external = tensor.data_location == onnx.TensorProto.EXTERNAL
    values = None if external or math.prod(shape) > _SMALL else onnx.numpy_helper.to_array(tensor)
    dtype = _dtype(tensor.data_type)
    return Constant(shape, dtype, item_bytes(dtype), frozenset({tensor.name}), values)


def _dtype(number: int) -> str:
    name = onnx.TensorProto.DataType.Name(number).lower() if number else "unknown"
    return {"float": "float32", "double": "float64"}.get(name, name)


def item_bytes(dtype: str) -> float:
    if dtype in ("float32", "int32", "uint32", "unknown"):
        return 4
    digits = "".join(each for each in dtype.split("e")[0] if each.isdigit())
    return {"bool": 1, "string": 1}.get(dtype, int(digits or 32) / 8)
