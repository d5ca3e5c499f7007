"""Forms as nodes of a graph: the operations of `edgecv_runtime.forms.ways`, each one or two ONNX operators.

Every tensor carries what it is for an example, so that ranks, types and lengths are known without shape inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgecv_runtime.forms.ways import Arrays, Constant

PREFIX = "edgecv."  # of the names of tensors and nodes that are put to a graph
READING = "output."  # behind it, of those that read the outputs of a network from elsewhere


@dataclass(frozen=True, eq=False)
class Node:
    """A tensor of the graph; example: its values for some frames."""

    name: str
    example: NDArray[Any]


class Nodes:
    """The operations as nodes that are added to a graph of opset 17 or later; their names begin with `prefix`."""

    def __init__(self, graph: Any, prefix: str = "") -> None:
        self._graph = graph
        self._prefix = f"{PREFIX}{prefix}"
        self._arrays = Arrays()
        self._count = 0

    def node(self, kind: str, inputs: Sequence[Node | NDArray[Any]], example: NDArray[Any], **attributes: Any) -> Node:
        """Add a node and the constants among its inputs."""
        self._count += 1
        name = f"{self._prefix}{kind.lower()}{self._count}"
        names = []
        for place, each in enumerate(inputs):
            if isinstance(each, Node):
                names.append(each.name)
                continue
            names.append(f"{name}.{place}")
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(each), names[-1]))
        self._graph.node.append(helper.make_node(kind, names, [name], name=name, **attributes))
        return Node(name, example)

    def shape(self, x: Node) -> tuple[int, ...]:
        return x.example.shape[1:]

    def dtype(self, x: Node) -> str:
        return x.example.dtype.name

    def cast(self, x: Node, dtype: str) -> Node:
        if self.dtype(x) == dtype:
            return x
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", [x], self._arrays.cast(x.example, dtype), to=kind)

    def classes(self, x: Node, strange: int) -> Node:
        example = self._arrays.classes(x.example, strange)
        if self.dtype(x) == "uint8":
            return x
        # a Cast alone wraps: 256 would be class 0
        x = self.cast(x, "float32" if x.example.dtype.kind == "f" else "int64")
        bounds = [np.array(each, x.example.dtype) for each in (-2, 256)]
        x = self.cast(self.node("Clip", [x, *bounds], x.example), "int64")
        place = self.node("Add", [x, np.array(2, np.int64)], x.example)
        table = np.array([strange, 255, *range(256), strange], np.uint8)
        return self.node("Gather", [table, place], example)

    def reshape(self, x: Node, shape: tuple[int, ...]) -> Node:
        return self.node("Reshape", [x, np.array([0, *shape], np.int64)], self._arrays.reshape(x.example, shape))

    def transpose(self, x: Node, axes: tuple[int, ...]) -> Node:
        return self.node("Transpose", [x], self._arrays.transpose(x.example, axes), perm=axes)

    def columns(self, x: Node, first: int, last: int) -> Node:
        if (first, last) == (0, x.example.shape[-1]):
            return x
        bounds = [np.array([each], np.int64) for each in (first, last, x.example.ndim - 1)]
        return self.node("Slice", [x, *bounds], self._arrays.columns(x.example, first, last))

    def join(self, parts: Sequence[Node], axis: int) -> Node:
        return self.node("Concat", parts, self._arrays.join([part.example for part in parts], axis), axis=axis)

    def add(self, x: Node, y: Node | Constant) -> Node:
        return self.node("Add", [x, y], self._arrays.add(x.example, _example(y)))

    def subtract(self, x: Node | Constant, y: Node) -> Node:
        return self.node("Sub", [x, y], self._arrays.subtract(_example(x), y.example))

    def multiply(self, x: Node, y: Node | Constant) -> Node:
        return self.node("Mul", [x, y], self._arrays.multiply(x.example, _example(y)))

    def exp(self, x: Node) -> Node:
        return self.node("Exp", [x], self._arrays.exp(x.example))

    def sigmoid(self, x: Node) -> Node:
        return self.node("Sigmoid", [x], self._arrays.sigmoid(x.example))

    def softmax(self, x: Node) -> Node:
        return self.node("Softmax", [x], self._arrays.softmax(x.example), axis=-1)

    def equal(self, x: Node, y: Constant) -> Node:
        rounded = self.node("Round", [x], x.example)
        return self._shares("Equal", rounded, y, self._arrays.equal(x.example, y))

    def above(self, x: Node, limit: Node | Constant) -> Node:
        return self._shares("Greater", x, limit, self._arrays.above(x.example, _example(limit)))

    def refused(self, x: Node, where: Node, told: str) -> Node:
        self._arrays.refused(x.example, where.example, told)
        # e^0 is 1 and 1 - 1 is 0; e^1000 is infinite, and infinite less infinite is NaN
        loud = self.exp(self.multiply(where, np.array(1000, np.float32)))
        return self.add(x, self.subtract(loud, loud))

    def argmax(self, x: Node, axis: int) -> Node:
        return self.node("ArgMax", [x], self._arrays.argmax(x.example, axis), axis=axis, keepdims=0)

    def enlarge(self, x: Node, size: tuple[int, int], mode: str) -> Node:
        # by scales, for sizes would have to name the batch; they are exact in float32 for whole factors
        scales = np.array([1, 1, *(np.array(size) / x.example.shape[-2:])], np.float32)
        how = {"mode": mode, "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
        found = self._arrays.enlarge(x.example, size, mode)
        return self.node("Resize", [x, np.zeros(0, np.float32), scales], found, **how)

    def _shares(self, kind: str, x: Node, y: Node | Constant, example: NDArray[Any]) -> Node:
        truth = self.node(kind, [x, y], example.astype(bool))
        return self.node("Cast", [truth], example, to=onnx.TensorProto.FLOAT)


def _example(x: Node | NDArray[Any]) -> NDArray[Any]:
    return x.example if isinstance(x, Node) else x
