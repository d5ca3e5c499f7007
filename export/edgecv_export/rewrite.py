"""Graphs from elsewhere, changed from outside: names, a first axis that was fixed, our input put in front."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgecv_export.interface import BATCH, INPUT
from edgecv_export.nodes import PREFIX, READING, Node, Nodes
from edgecv_runtime.forms import Form
from edgecv_runtime.head import Head
from edgecv_runtime.preprocess import Normalization


def subgraphs(graph: Any) -> Iterator[Any]:
    """A graph, and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from subgraphs(inner)


def rename(graph: Any, names: dict[str, str]) -> None:
    """Give tensors other names, wherever they are made or read."""
    for part in subgraphs(graph):
        for node in part.node:
            for lists in (node.input, node.output):
                lists[:] = [names.get(name, name) for name in lists]
        for each in (*part.input, *part.output, *part.value_info, *part.initializer):
            each.name = names.get(each.name, each.name)


def free(graph: Any, taken: tuple[str, ...]) -> dict[str, str]:
    """Make room for names that we give: a tensor of the graph that has one becomes "NAME.theirs" -> by its old one."""
    used = {name for part in subgraphs(graph) for node in part.node for name in (*node.input, *node.output)}
    used |= {each.name for each in (*graph.input, *graph.output)}
    names = {name: f"{name}.theirs" for name in taken if name in used}
    rename(graph, names)
    return names


def name_nodes(graph: Any) -> None:
    """Give a name to every node that has none, or another one's: plans and findings name nodes."""
    seen: set[str] = set()
    for part in subgraphs(graph):
        for node in part.node:
            name, count = node.name or node.op_type, 0
            while not node.name or node.name in seen:
                count += 1
                node.name = f"{name}_{count}"
            seen.add(node.name)


def with_free_batch(model: Any, rows: int) -> Any:
    """A copy whose first axis is free where it was fixed to `rows`; whether it computes right is to be tried.

    A Reshape to so many rows keeps those of its input, or counts them.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    known = onnx.shape_inference.infer_shapes(model).graph
    first = {
        each.name: each.type.tensor_type.shape.dim[0].dim_value
        for each in (*known.value_info, *known.input, *known.output)
        if each.type.tensor_type.shape.dim
    }
    graph = changed.graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(attribute.t)
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    for number, node in enumerate(graph.node):
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" and len(node.input) > 1 else None
        if shape is None or not shape.size or shape[0] != rows:
            continue
        keeps = first.get(node.input[0]) == rows
        if not keeps and -1 in shape:
            continue
        name = f"{PREFIX}shape{number}"
        graph.initializer.append(numpy_helper.from_array(np.array([0 if keeps else -1, *shape[1:]], np.int64), name))
        node.input[1] = name
    del graph.value_info[:]
    for each in (*graph.input, *graph.output):
        if each.type.tensor_type.shape.dim:
            dimension = each.type.tensor_type.shape.dim[0]
            dimension.Clear()
            dimension.dim_param = BATCH
    return changed


def put_input(
    model: Any, size: tuple[int, int], channels: int, layout: str, normalization: Normalization | None, rows: int
) -> None:
    """Put "image", (N, H, W, C) uint8, before the one input of a graph: Cast, Transpose, and the normalization.

    normalization: None of an input that is uint8 itself. rows: of a fixed batch; 0: free.
    """
    graph = model.graph
    constants = {each.name for each in graph.initializer}
    (given,) = (each for each in graph.input if each.name not in constants)
    kind = given.type.tensor_type.elem_type
    shape = (rows or BATCH, *size, channels)
    own = helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, shape)
    front = onnx.GraphProto()
    nodes = Nodes(front, "input.")
    x = nodes.cast(Node(INPUT, np.zeros((1, *size, channels), np.uint8)), "float32")
    if layout == "NCHW":
        x = nodes.transpose(x, (0, 3, 1, 2))
    if normalization is not None:
        axes = (1, -1, 1, 1) if layout == "NCHW" else (1, 1, 1, -1)
        mean, std = (np.array(each, np.float64) for each in (normalization.mean, normalization.std))
        x = nodes.multiply(x, (1 / (255 * std)).astype(np.float32).reshape(axes))
        x = nodes.add(x, (-mean / std).astype(np.float32).reshape(axes))
    for node in graph.node:  # a Cast of pixels to what they are cast to already falls away
        wanted = next((each.i for each in node.attribute if each.name == "to"), None)
        if kind == onnx.TensorProto.UINT8 and node.op_type == "Cast" and node.input[0] == given.name:
            node.input[0] = x.name
            if wanted == onnx.TensorProto.FLOAT:
                node.op_type = "Identity"
                del node.attribute[:]
    theirs = nodes.cast(x, helper.tensor_dtype_to_np_dtype(kind).name)
    name = given.name
    rename(front, {theirs.name: name})
    graph.input.remove(given)
    graph.input.insert(0, own)
    before = [*front.node, *graph.node]
    del graph.node[:]
    graph.node.extend(before)
    graph.initializer.extend(front.initializer)


def put_outputs(
    graph: Any,
    form: Form,
    head: Head,
    size: tuple[int, int],
    given: Mapping[str, NDArray[Any]],
    *,
    names: Mapping[str, str] | None = None,
    lacking: Collection[str] = (),
    rows: int = 0,
) -> None:
    """Make the outputs of a graph those of a task, in the place of its own.

    given: those it has, by name, with what they are for some frames. names: what they are called now, where that is
    another name. lacking: those that have no axis for frames. rows: of a fixed batch; 0: free.
    """
    nodes = Nodes(graph, READING)
    found: dict[str, Node] = {}
    for name, each in given.items():
        node = Node((names or {}).get(name, name), each)
        found[name] = nodes.node("Unsqueeze", [node, np.zeros(1, np.int64)], each) if name in lacking else node
    made = form.make(nodes, found, head, size)
    del graph.output[:]
    del graph.value_info[:]
    for name, node in made.items():
        graph.node.append(helper.make_node("Identity", [node.name], [name], name=f"{PREFIX}{name}"))
        kind = helper.np_dtype_to_tensor_dtype(node.example.dtype)
        shape = (rows or BATCH, *node.example.shape[1:])
        graph.output.append(helper.make_tensor_value_info(name, kind, shape))
