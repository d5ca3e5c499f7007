"""A copy of an ONNX file for runtimes that read less of the format than ONNX Runtime does.

OpenVINO 2026.4 has no rule for functions that a file defines itself, and takes no input whose shape was left out: here
a call of a function becomes its nodes (ONNX IR, "Model-local functions"), and such an input four open dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from edgecv_runtime.protobuf import encode, fields, integer, message, spans, text

_RANK = 4  # of an image input; `inputs.fitting` has seen to it


@dataclass(frozen=True)
class _Function:
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[memoryview, ...]
    defaults: dict[str, memoryview]  # attribute's name -> AttributeProto


@dataclass
class _Inliner:
    functions: dict[tuple[str, str], _Function]
    numbers: Iterator[int] = field(default_factory=count)

    def graph(self, data: memoryview) -> bytes:
        """A GraphProto in which every call is expanded."""
        parts = (
            b"".join(encode(1, node) for node in self.expanded(message(value))) if number == 1 else bytes(whole)
            for number, value, whole in spans(data)
        )
        return b"".join(parts)

    def expanded(self, node: memoryview) -> Iterator[bytes]:
        """A NodeProto, or the nodes of the function that it calls."""
        taken, made, attributes = [], [], {}
        kind = domain = ""
        for number, value in fields(node):
            if number == 1:
                taken.append(text(value))
            elif number == 2:
                made.append(text(value))
            elif number == 4:
                kind = text(value)
            elif number == 5:
                attributes[_name(message(value), 1)] = message(value)
            elif number == 7:
                domain = text(value)
        function = self.functions.get((domain, kind))
        if function is None:
            yield _with_graphs(node, self.graph)
            return
        scope = _Scope(
            {
                **dict.fromkeys(function.inputs, ""),
                **dict(zip(function.inputs, taken, strict=False)),
                **{inner: outer for inner, outer in zip(function.outputs, made, strict=False) if outer},
            },
            f"{kind}.{next(self.numbers)}/",
            {**function.defaults, **attributes},
        )
        for inner, source in zip(function.inputs, taken, strict=False):
            if inner in function.outputs:  # handed through
                yield _node("Identity", source, scope.renamed(inner))
        for each in function.nodes:
            yield from self.expanded(memoryview(scope.node(each)))


@dataclass(frozen=True)
class _Scope:
    """Names inside of one call: those of its inputs and outputs are the caller's, others get a prefix."""

    names: Mapping[str, str]
    prefix: str
    attributes: Mapping[str, memoryview]

    def renamed(self, name: str) -> str:
        return self.names.get(name, self.prefix + name) if name else ""

    def node(self, data: memoryview) -> bytes:
        parts = []
        for number, value, whole in spans(data):
            if number in (1, 2):
                parts.append(encode(number, self.renamed(text(value)).encode()))
            elif number == 3:
                parts.append(encode(3, (self.prefix + text(value)).encode()))
            elif number == 5:
                parts.append(self._attribute(message(value)))
            else:
                parts.append(bytes(whole))
        return b"".join(parts)

    def _attribute(self, data: memoryview) -> bytes:
        """An attribute that refers to one of the call's becomes that one, under its own name."""
        reference = _name(data, 21)
        if not reference:
            return encode(5, _graphs_changed(data, self.graph))
        given = self.attributes.get(reference)
        if given is None:
            return b""
        rest = b"".join(bytes(whole) for number, _, whole in spans(given) if number != 1)
        return encode(5, encode(1, _name(data, 1).encode()) + rest)

    def graph(self, data: memoryview) -> bytes:
        """A graph inside of a function: its constants (5), inputs, outputs and values are named anew, too."""
        parts = []
        for number, value, whole in spans(data):
            if number == 1:
                parts.append(encode(1, self.node(message(value))))
            elif number in (5, 11, 12, 13):
                parts.append(encode(number, self._named(message(value), 8 if number == 5 else 1)))
            else:
                parts.append(bytes(whole))
        return b"".join(parts)

    def _named(self, data: memoryview, at: int) -> bytes:
        return b"".join(
            encode(at, self.renamed(text(value)).encode()) if number == at else bytes(whole)
            for number, value, whole in spans(data)
        )


def rewritten(data: bytes) -> bytes | None:
    """A copy of a model's bytes without functions and with a rank for every input; None where it has nothing of these.

    Raises ValueError where a function calls itself.
    """
    functions, known, wanted = {}, set(), {}
    for number, value in fields(memoryview(data)):
        if number == 8:
            known.add(_name(message(value), 1))
        elif number == 25:
            key, functions[key], imports = _function(message(value))
            wanted.update(imports)
    inliner = _Inliner(functions)
    parts, changed = [], bool(functions)
    for number, value, whole in spans(memoryview(data)):
        if number == 7:
            ranked = _with_ranks(message(value))
            changed = changed or ranked != message(value)
            try:
                parts.append(encode(7, inliner.graph(memoryview(ranked))))
            except RecursionError as exc:
                raise ValueError("a function in it calls itself") from exc
        elif number != 25:
            parts.append(bytes(whole))
    parts += [encode(8, entry) for domain, entry in wanted.items() if domain not in known]
    return b"".join(parts) if changed else None


def _function(data: memoryview) -> tuple[tuple[str, str], _Function, dict[str, bytes]]:
    name = domain = ""
    inputs, outputs, nodes = [], [], []
    defaults, imports = {}, {}
    for number, value in fields(data):
        if number == 1:
            name = text(value)
        elif number == 4:
            inputs.append(text(value))
        elif number == 5:
            outputs.append(text(value))
        elif number == 7:
            nodes.append(message(value))
        elif number == 9:
            imports[_name(message(value), 1)] = bytes(message(value))
        elif number == 10:
            domain = text(value)
        elif number == 11:
            defaults[_name(message(value), 1)] = message(value)
    return (domain, name), _Function(tuple(inputs), tuple(outputs), tuple(nodes), defaults), imports


def _with_ranks(graph: memoryview) -> bytes:
    """A GraphProto whose inputs without a shape have open dimensions: type (2), tensor_type (1), shape (2)."""
    parts = []
    for number, value, whole in spans(graph):
        part = bytes(whole)
        if number == 11:
            info = dict(fields(message(value)))
            tensor = dict(fields(message(dict(fields(message(info.get(2, b"")))).get(1, b""))))
            if 1 in tensor and 2 not in tensor:
                shape = encode(2, b"".join(encode(1, encode(2, f"axis{axis}".encode())) for axis in range(_RANK)))
                kind = encode(2, encode(1, encode(1, integer(tensor[1])) + shape))
                part = encode(11, encode(1, bytes(message(info[1]))) + kind)
        parts.append(part)
    return b"".join(parts)


def _with_graphs(node: memoryview, change: Callable[[memoryview], bytes]) -> bytes:
    return b"".join(
        encode(5, _graphs_changed(message(value), change)) if number == 5 else bytes(whole)
        for number, value, whole in spans(node)
    )


def _graphs_changed(attribute: memoryview, change: Callable[[memoryview], bytes]) -> bytes:
    """An AttributeProto whose graphs (6, 11) are changed."""
    return b"".join(
        encode(number, change(message(value))) if number in (6, 11) else bytes(whole)
        for number, value, whole in spans(attribute)
    )


def _node(kind: str, source: str, target: str) -> bytes:
    return encode(1, source.encode()) + encode(2, target.encode()) + encode(4, kind.encode())


def _name(data: memoryview, number: int) -> str:
    return text(dict(fields(data)).get(number))
