"""Placements: which nodes of a graph compute in int8, and on which tensors Q/DQ stands."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edgecv_export.nodes import PREFIX, READING
from edgecv_export.wiring import Wiring, attribute
from edgecv_runtime.records import Record

# They move values without changing them: what they give lies on the grid of what they take.
MOVING = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity")
# Steps on the way from x to f(x) in activations of the form x * f(x): SiLU, hard-swish in two nodes, GELU.
_GATING = ("Sigmoid", "HardSigmoid", "Erf", "Div", "Add", "Mul")


class Placement(Record, frozen=True):
    """One rule for where Q/DQ stands.

    operators: types that compute in int8. merged: activations that backends merge into the layer before them, so that
    no Q/DQ comes between the two; "Sigmoid" and "Erf" stand for SiLU and GELU.
    gates: whether squeeze-and-excitation branches are quantized too. depthwise: whether depthwise convolutions are.
    outputs: whether a quantized layer's output is int8 also where only float operators read it, as ONNX Runtime wants.
    """

    operators: tuple[str, ...]
    merged: tuple[str, ...] = ("Relu", "Clip")
    gates: bool = True
    depthwise: bool = True
    outputs: bool = True


MERGED = ("Relu", "Clip", "HardSwish", "Sigmoid", "HardSigmoid", "Erf")
POOLS = ("GlobalAveragePool", "AveragePool", "MaxPool", "ReduceMean")
PLACEMENTS: dict[str, Placement] = {
    "all": Placement(("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat", *POOLS)),
    "layers": Placement(("Conv", "Gemm", "MatMul", "MaxPool")),
    "convolutions": Placement(("Conv", "MaxPool")),
    "merged": Placement(("Conv", "Gemm", "MatMul", "MaxPool"), MERGED, outputs=False),
    "merged-gates-float": Placement(("Conv", "Gemm", "MatMul", "MaxPool"), MERGED, gates=False, outputs=False),
}


def quantized_nodes(wiring: Wiring, placement: Placement, islands: Collection[str] = ()) -> list[Any]:
    """The nodes that compute in int8, in the graph's order; `islands` are names of nodes that stay in float.

    Shape arithmetic, operations with constants and the parts of merged activations stay in float by themselves, and so
    does what reads the outputs of a network from elsewhere: pixels, classes and NaN do not lie on one grid.
    """
    left_out = set(islands) | (set() if placement.gates else gate_nodes(wiring)) | _gating_nodes(wiring, placement)
    return [
        node
        for node in wiring.model.graph.node
        if node.op_type in placement.operators
        and node.name not in left_out
        and not node.name.startswith(f"{PREFIX}{READING}")
        and _can(wiring, node)
        and (placement.depthwise or not is_depthwise(wiring, node))
    ]


def cut_points(wiring: Wiring, placement: Placement, nodes: list[Any]) -> list[str]:
    """The activations on which Q/DQ stands, in the graph's order."""
    cut: set[str] = set()
    for node in nodes:
        end = chain(wiring, node, placement)[-1]
        if placement.outputs and end not in wiring.outputs:
            cut.add(end)
    for node in nodes:
        cut |= set(activations(wiring, node))
    for node in reversed(wiring.model.graph.node):
        if node.op_type in MOVING and node.output[0] in cut and node.input[0] in wiring.makers:
            cut.add(node.input[0])
    return [name for node in wiring.model.graph.node for name in node.output if name in cut]


def activations(wiring: Wiring, node: Any) -> list[str]:
    """The inputs of a node that are no constants."""
    return [name for name in dict.fromkeys(node.input) if name and name not in wiring.constants]


def chain(wiring: Wiring, node: Any, placement: Placement) -> list[str]:
    """A node's output, behind the bias that is added to it, and behind the activation that is merged into it."""
    names = [node.output[0]]
    layer = wiring.layer(node)
    if layer is not None and layer.bias is not None and layer.bias[0] is not node:
        names.append(layer.bias[0].output[0])
    after = wiring.only_reader(names[-1])
    kind, gated = _gated(wiring, names[-1])
    if after is not None and after.op_type in placement.merged:
        names.append(after.output[0])
    elif kind in placement.merged:
        names += gated
    return names


def gate_nodes(wiring: Wiring) -> set[str]:
    """Nodes of squeeze-and-excitation branches: from a mean over the picture to the product with its gate."""
    found: set[str] = set()
    for node in wiring.model.graph.node:
        if node.op_type in ("ReduceMean", "GlobalAveragePool"):
            found |= _branch(wiring, node)
    return found


def is_depthwise(wiring: Wiring, node: Any) -> bool:
    """Whether a convolution filters each channel by itself."""
    weights = wiring.constants.get(node.input[1]) if node.op_type == "Conv" else None
    return weights is not None and attribute(node, "group", 1) > 1 and weights.dims[1] == 1


def _can(wiring: Wiring, node: Any) -> bool:
    """Whether a node of a quantizable type works on float activations alone, but for a layer's weights."""
    if node.op_type in ("Conv", "Gemm") or (node.op_type == "MatMul" and wiring.layer(node)):
        return wiring.layer(node) is not None
    return node.op_type in MOVING or all(name in wiring.floats and name not in wiring.constants for name in node.input)


def _gating_nodes(wiring: Wiring, placement: Placement) -> set[str]:
    """Products inside GELU, which no backend computes in int8, and inside activations that are merged."""
    found = set()
    for name in wiring.makers:
        kind, tensors = _gated(wiring, name)
        if kind == "Erf" or kind in placement.merged:
            found |= {wiring.makers[each].name for each in tensors}
    return found


def _gated(wiring: Wiring, name: str) -> tuple[str, list[str]]:
    """The activation x * f(x) behind a tensor x: the operator that tells its kind, and the tensors it makes."""
    readers = wiring.readers[name]
    if len(readers) != 2 or name in wiring.outputs:
        return "", []
    for start in readers:
        kind, tensors, node = "", [], start
        while node is not None and node.op_type in _GATING and name not in node.input[1:]:
            kind = node.op_type if node.op_type in ("Sigmoid", "HardSigmoid", "Erf") else kind
            tensors.append(node.output[0])
            node = wiring.only_reader(tensors[-1])
            if node is not None and node.op_type == "Mul" and name in node.input:
                return (kind, _with_factor(wiring, [*tensors, node.output[0]])) if kind else ("", [])
    return "", []


def _with_factor(wiring: Wiring, tensors: list[str]) -> list[str]:
    """GELU's factor one half may come last."""
    after = wiring.only_reader(tensors[-1])
    halves = after is not None and after.op_type == "Mul" and any(name in wiring.constants for name in after.input)
    return [*tensors, after.output[0]] if after is not None and halves else tensors


def _branch(wiring: Wiring, pool: Any) -> set[str]:
    """The nodes behind a pool up to the product with what was pooled; empty when there is no such product."""
    source, names, here = pool.input[0], {pool.name}, [pool]
    while here:
        here = [reader for node in here for reader in wiring.readers[node.output[0]]]
        if len(here) > 2 or any(node.op_type in ("Softmax", "MatMul") for node in here):
            return set()
        names |= {node.name for node in here}
        if any(node.op_type == "Mul" and source in node.input for node in here):
            return names
    return set()
