"""Operators that exporters write as several ONNX nodes, read as the one that they are."""

from __future__ import annotations

from collections.abc import Callable

from edgecv.xray.onnx_nodes import File, Node

Match = tuple[Node, list[Node]]  # what stands for the nodes, and the nodes


def fuse(file: File) -> None:
    """Join nodes: Q/DQ pairs, the bias of linear layers, GELU, SiLU and hard-swish, cyclic shifts."""
    _drop_dequantize(file)
    for pattern in (_linear_bias, _gelu, _gated, _roll):
        _join(file, pattern)


def _join(file: File, pattern: Callable[[Surroundings, Node], Match | None]) -> None:
    """Put one node in the place of the last one of every match."""
    around = Surroundings(file)
    replaced: dict[int, Node | None] = {}
    for last in file.nodes:
        found = pattern(around, last)
        if found is not None and not any(id(part) in replaced for part in found[1]):
            replaced.update((id(part), None) for part in found[1])
            replaced[id(last)] = found[0]
    nodes = [replaced.get(id(node), node) for node in file.nodes]
    file.nodes = [node for node in nodes if node is not None]


class Surroundings:
    """Who makes and who reads each tensor."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.makers = {name: node for node in file.nodes for name in node.outputs}
        self.readers: dict[str, list[Node]] = {}
        for node in file.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)

    def maker(self, name: str, *ops: str) -> Node | None:
        """The node that makes a tensor for one reader only, if it is one of some types."""
        node = self.makers.get(name)
        if node is None or node.op not in ops or len(self.readers[name]) != 1 or name in self.file.outputs:
            return None
        return node

    def scalar(self, node: Node) -> tuple[str, float] | None:
        """The activation and the number of a node that combines an activation with one number."""
        for number, other in ((1, 0), (0, 1)):
            values = self.file.values(node.inputs[number]) if len(node.inputs) == 2 else None
            if values is not None and values.size == 1 and node.inputs[other] not in self.file.constants:
                return node.inputs[other], float(values.reshape(-1)[0])
        return None


def _drop_dequantize(file: File) -> None:
    """Let layers read and write the stored types: a tensor behind DequantizeLinear is the one before it.

    A QuantizeLinear goes where it alone reads what a layer gives; elsewhere, as at a float input, it stays.
    """
    around = Surroundings(file)
    same: dict[str, str] = {}
    kept: dict[str, Node] = {}  # tensor -> the node that makes it, of those that stay
    nodes = []
    for node in file.nodes:
        source = node.inputs[0] if node.inputs else ""
        if node.op == "DequantizeLinear" and source not in file.constants:
            same[node.outputs[0]] = same.get(source, source)
            continue
        if node.op == "QuantizeLinear" and source in kept and len(around.readers[source]) == 1:
            maker = kept.pop(source)
            maker.outputs = [node.outputs[0] if name == source else name for name in maker.outputs]
            continue
        node.inputs = [same.get(name, name) for name in node.inputs]
        kept.update((name, node) for name in node.outputs)
        nodes.append(node)
    file.nodes = nodes
    file.outputs = [same.get(name, name) for name in file.outputs]


def _linear_bias(around: Surroundings, last: Node) -> Match | None:
    """MatMul with a constant, then Add of one number per column."""
    if last.op != "Add":
        return None
    for product, bias in ((last.inputs[0], last.inputs[1]), (last.inputs[1], last.inputs[0])):
        node, constant = around.maker(product, "MatMul"), around.file.constants.get(bias)
        if node is None or constant is None or node.inputs[1] not in around.file.constants:
            continue
        if constant.shape == around.file.constants[node.inputs[1]].shape[-1:]:
            return Node(node.name, "MatMul", [*node.inputs, bias], last.outputs), [node, last]
    return None


def _gelu(around: Surroundings, last: Node) -> Match | None:
    """x (1 + erf(x / sqrt 2)) / 2."""
    if last.op != "Mul":
        return None
    half = around.scalar(last)
    inner = around.maker(half[0], "Mul") if half is not None and half[1] == 0.5 else None
    found = None if inner is None else _erf(around, inner)
    if found is None:
        return None
    x, parts = found
    return Node(parts[0].name, "Gelu", [x], last.outputs), [*parts, last]


def _erf(around: Surroundings, product: Node) -> tuple[str, list[Node]] | None:
    """x and the nodes of x (1 + erf(x / sqrt 2)), where `product` is the multiplication."""
    for other, gate in ((0, 1), (1, 0)):
        one = around.maker(product.inputs[gate], "Add")
        shifted = None if one is None else around.scalar(one)
        erf = None if shifted is None else around.maker(shifted[0], "Erf")
        scale = None if erf is None else around.maker(erf.inputs[0], "Div", "Mul")
        scaled = None if scale is None else around.scalar(scale)
        if one and erf and scale and scaled and scaled[0] == product.inputs[other]:
            return scaled[0], [scale, erf, one, product]
    return None


_GATES = {"Sigmoid": "Silu", "HardSigmoid": "HardSwish"}


def _gated(around: Surroundings, last: Node) -> Match | None:
    """x gate(x)."""
    if last.op != "Mul":
        return None
    for other, gated in ((0, 1), (1, 0)):
        gate = around.maker(last.inputs[gated], *_GATES)
        if gate is not None and gate.inputs[0] == last.inputs[other]:
            return Node(gate.name, _GATES[gate.op], [gate.inputs[0]], last.outputs), [gate, last]
    return None


def _roll(around: Surroundings, last: Node) -> Match | None:
    """Concat of the end and the beginning of one tensor: a cyclic shift."""
    if last.op != "Concat" or len(last.inputs) != 2:
        return None
    parts = [around.maker(name, "Slice") for name in last.inputs]
    end, start = parts
    if end is None or start is None or end.inputs[0] != start.inputs[0]:
        return None
    shape = around.file.shapes.get(end.inputs[0])
    if shape is None:
        return None
    axis = last.attributes["axis"] % len(shape)
    sizes = [around.file.shapes.get(name, ()) for name in last.inputs]
    if any(len(size) != len(shape) for size in sizes) or sum(size[axis] for size in sizes) != shape[axis]:
        return None
    first = around.file.values(end.inputs[1])
    if first is None or int(first.reshape(-1)[0]) % shape[axis] != sizes[1][axis]:
        return None
    shift = {"axis": axis, "shift": sizes[0][axis]}
    return Node(last.name, "Roll", [end.inputs[0]], last.outputs, shift), [end, start, last]
