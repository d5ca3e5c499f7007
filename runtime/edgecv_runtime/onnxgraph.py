"""The inside of an ONNX file, and copies of it that show more: no onnx package is needed on a device.

Field numbers are those of onnx.proto3. The files read here have passed `onnxfile.read`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from edgecv_runtime.onnxfile import DTYPES
from edgecv_runtime.protobuf import encode, fields, integer, message, spans, text, varints

_FLOAT = 1  # onnx.TensorProto.FLOAT
_HANDING_ON = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"}  # operators that leave positions as they are
_LITTLE = {4, 10}  # float_data and double_data: packed little-endian values, as raw_data has them


@dataclass(frozen=True)
class Node:
    """One operator of the graph."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def readable(self) -> str:
        """Its name, or that of its first output, and what it does: "'/head/Gemm' (Gemm)"."""
        return f"'{self.name or next(iter(self.outputs), '')}' ({self.operator})"


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they run, the CRC-32 of each constant's values, and the names of the outputs."""

    nodes: tuple[Node, ...]
    constants: dict[str, int]
    outputs: frozenset[str]


def read(data: bytes) -> Graph:
    """Read the graph of a model's bytes."""
    nodes, constants, outputs = [], {}, set()
    for number, value in fields(_graph(memoryview(data))):
        if number == 1:
            nodes.append(_node(message(value)))
        elif number == 5:
            name, digest = _constant(message(value))
            constants[name] = digest
        elif number == 12:
            outputs.add(text(dict(fields(message(value))).get(1)))
    return Graph(tuple(nodes), constants, frozenset(outputs))


def chosen_from(data: bytes) -> dict[str, str]:
    """Of each output that says where the largest of several values is, the tensor of these: logits, of a class map."""
    graph = read(data)
    makers = {name: node for node in graph.nodes for name in node.outputs}
    found = {}
    for output in graph.outputs:
        node = makers.get(output)
        while node is not None and node.operator in _HANDING_ON:
            node = makers.get(node.inputs[0])
        if node is not None and node.operator == "ArgMax":
            found[output] = node.inputs[0]
    return found


def exposing(data: bytes, names: Iterable[str]) -> bytes:
    """A copy of a model in which the tensors of these names are outputs too; backends infer their types."""
    added = b"".join(encode(12, encode(1, name.encode())) for name in names)
    return _with_graph(data, lambda graph: bytes(graph) + added)


def with_float_input(data: bytes) -> bytes:
    """A copy of a model whose first input is float32: it takes pixels that no uint8 can hold."""

    def change(graph: memoryview) -> bytes:
        parts, done = [], False
        for number, value, whole in spans(graph):
            is_first = number == 11 and not done
            parts.append(encode(11, _as_float(message(value))) if is_first else bytes(whole))
            done = done or is_first
        return b"".join(parts)

    return _with_graph(data, change)


def _as_float(info: memoryview) -> bytes:
    """A ValueInfoProto whose tensor type (type.tensor_type.elem_type) is float32."""
    parts = dict(fields(info))
    tensor = dict(fields(message(dict(fields(message(parts[2])))[1])))
    kind = encode(1, _FLOAT) + encode(2, bytes(message(tensor[2])))
    return encode(1, bytes(message(parts[1]))) + encode(2, encode(1, kind))


def _with_graph(data: bytes, change: Callable[[memoryview], bytes]) -> bytes:
    return b"".join(
        encode(7, change(message(value))) if number == 7 else bytes(whole)
        for number, value, whole in spans(memoryview(data))
    )


def _graph(data: memoryview) -> memoryview:
    return next(message(value) for number, value in fields(data) if number == 7)


def _node(data: memoryview) -> Node:
    found: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: []}
    for number, value in fields(data):
        if number in found:
            found[number].append(text(value))
    return Node("".join(found[3][-1:]), "".join(found[4][-1:]), tuple(found[1]), tuple(found[2]))


def _constant(data: memoryview) -> tuple[str, int]:
    """Name of a TensorProto, and the CRC-32 of its values however they are stored."""
    name, dtype, digest = "", "uint8", 0
    numbers: list[int] = []
    for number, value in fields(data):
        if number == 2:
            dtype = DTYPES.get(integer(value), "uint8")
        elif number == 8:
            name = text(value)
        elif number == 9 or (number in _LITTLE and not isinstance(value, int)):
            digest = zlib.crc32(message(value), digest)
        elif number in (5, 7, 11):
            numbers += [value] if isinstance(value, int) else varints(value)
    if numbers:
        whole = np.array(numbers, np.uint64).astype("int64" if dtype in ("float16", "bfloat16", "unknown") else dtype)
        digest = zlib.crc32(whole.tobytes(), digest)
    return name, digest
