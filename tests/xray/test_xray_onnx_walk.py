"""Files of every operator that ONNX itself is tested with: a table or one line, and the numbers of whoever runs them.

`EDGECV_WALK=all` walks all of them (some 2000, minutes); by default, one per operator.
"""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgecv import xray
from edgecv_runtime.errors import EdgecvError

PACKAGE = Path(onnx.backend.test.__file__).parent / "data"


def node_models():
    """The models of ONNX's node tests, by name; by default, the first of each operator."""
    with np.errstate(all="ignore"):
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    seen, models = set(), {}
    for case in cases:
        operators = frozenset(node.op_type for node in case.model.graph.node)
        if os.environ.get("EDGECV_WALK") == "all" or not operators <= seen:
            models[case.name] = case.model
            seen |= operators
    return models


def file_models():
    """The models that ONNX brings as files; by default, those of single operators that no node test has."""
    paths = sorted(PACKAGE.rglob("*.onnx"))
    every = os.environ.get("EDGECV_WALK") == "all"
    return [path for path in paths if every or path.parent.parent.name == "simple"]


def shown(path):
    """The table, or None where the file is refused in one line."""
    try:
        return xray.table(xray.read(path))
    except EdgecvError as exc:
        assert "\n" not in str(exc)
        return None


def runs(model):
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # an operator or type that this version does not run
        return None


def test_every_operator_gives_a_table_or_one_line(tmp_path):
    path = tmp_path / "model.onnx"
    tables = refused = 0
    for model in node_models().values():
        onnx.save(model, path)
        found = shown(path)
        tables, refused = tables + (found is not None), refused + (found is None)
    assert tables > 5 * refused
    assert tables > 100


def test_every_file_of_the_package_gives_a_table_or_one_line():
    found = [shown(path) for path in file_models()]
    assert sum(each is not None for each in found) > len(found) / 3


def counted(model, feeds):
    """MACs of convolutions and linear layers from the shapes that ONNX Runtime really gives."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    nodes = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    names = [name for node in nodes for name in (node.input[1], node.output[0])]
    known = {each.name for each in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in {*names} - known)
    shapes = dict(zip(names, (each.shape for each in runs(model).run(names, feeds)), strict=True))
    return sum(int(np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:])) for node in nodes)


def test_squeezenet_counts_what_runs():
    path = PACKAGE / "light" / "light_squeezenet.onnx"
    table, model = xray.table(xray.read(path)), onnx.load(path)
    stored = {each.name for each in model.graph.initializer}
    (name,) = {each.name for each in model.graph.input} - stored
    assert table.total.macs == counted(model, {name: np.zeros((1, 3, 224, 224), np.float32)})
    floats = [each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT]
    assert table.total.parameters == sum(int(np.prod(each.dims)) for each in floats)  # most weights are fills


def test_alexnet_sees_195_pixels():
    """Local response normalization is over channels. Araujo, Norris and Sim 2019 publish 195."""
    rows = xray.table(xray.read(PACKAGE / "light" / "light_bvlc_alexnet.onnx")).rows
    assert [row.field.size for row in rows if row.kind == "pool"][-1] == (195, 195)
    assert not any(row.field.whole for row in rows if row.op == "LRN")


def saved(path, nodes, inputs, outputs, weights=(), *, opsets=(("", 17),), functions=()):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs]
    stored = [numpy_helper.from_array(array, name) for name, array in weights]
    graph = helper.make_graph(nodes, "graph", values, ends, stored)
    imports = [helper.make_opsetid(*each) for each in opsets]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))
    onnx.save(model, path)
    return model


def pyramid(axis):
    """Two scales, each flattened, one behind the other: along axis 2 as in YOLOv8, or 1 as in YOLOX."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("Conv", ["a", "v"], ["b"], strides=[2, 2], pads=[1] * 4, kernel_shape=[3, 3]),
    ]
    for name in "ab":
        nodes.append(helper.make_node("Reshape", [name, "flat"], [f"{name}_flat"]))
        nodes.append(helper.make_node("Transpose", [f"{name}_flat"], [f"{name}_rows"], perm=[0, 2, 1]))
    parts = ["a_flat", "b_flat"] if axis == 2 else ["a_rows", "b_rows"]
    return [*nodes, helper.make_node("Concat", parts, ["y"], axis=axis)]


@pytest.mark.parametrize("axis", [1, 2])
def test_scales_one_behind_the_other_see_what_moves_them(axis, tmp_path):
    """Every place of a detector's flattened scales, against ONNX Runtime: rows that change it when they change."""
    weights = [("w", np.ones((4, 1, 3, 3), np.float32)), ("v", np.ones((4, 4, 3, 3), np.float32)),
               ("flat", np.array([0, 4, -1], np.int64))]  # fmt: skip
    path = tmp_path / "scales.onnx"
    model = saved(path, pyramid(axis), [("x", (1, 1, 12, 8))], [("y", None)], weights)
    graph = xray.read(path)
    table = xray.table(graph)
    assert table.total.field.size == (7, 7)
    session = runs(model)
    moved = []
    for row in range(12):
        picture = np.zeros((1, 1, 12, 8), np.float32)
        picture[:, :, row] = 1
        moved.append(session.run(None, {"x": picture})[0].max(axis=3 - axis)[0] > 0)
    seen = [(int(rows.min()), int(rows.max())) for rows in (np.flatnonzero(place) for place in np.array(moved).T)]
    extent = xray.extents(graph, 2)["y"]
    low, high = (np.clip(each, 0, 11).reshape(-1).astype(int) for each in (extent.low, extent.high))
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == seen


def test_outputs_without_axes(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a"], ["y"], keepdims=0),
        helper.make_node("ReduceSum", ["a"], ["z"], keepdims=0),
    ]
    saved(tmp_path / "scalar.onnx", nodes, [("x", ("N", 3, 4, 5))], [("y", ()), ("z", ())])
    assert [row.output_shape for row in xray.table(xray.read(tmp_path / "scalar.onnx")).rows] == [(1, 3, 4, 5), (), ()]


def test_a_domain_makes_another_operator(tmp_path):
    """An own "Conv" is none of ONNX's; an own function is what it is made of."""
    own = helper.make_node("Conv", ["x", "w"], ["y"], domain="my.own")
    weights = [("w", np.ones((2,), np.float32))]
    saved(
        tmp_path / "own.onnx",
        [own],
        [("x", (1, 3, 4, 4))],
        [("y", (1, 3, 4, 4))],
        weights,
        opsets=(("", 17), ("my.own", 1)),
    )
    assert xray.table(xray.read(tmp_path / "own.onnx")).total.uncounted == {"my.own.Conv": 1}
    body = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("my.own", "Block", ["x", "w"], ["y"], body, opsets)
    call = helper.make_node("Block", ["x", "w"], ["y"], domain="my.own")
    weights = [("w", np.ones((2, 3, 3, 3), np.float32))]
    saved(tmp_path / "block.onnx", [call], [("x", (1, 3, 4, 4))], [("y", (1, 2, 2, 2))], weights,
          opsets=(("", 17), ("my.own", 1)), functions=[function])  # fmt: skip
    table = xray.table(xray.read(tmp_path / "block.onnx"))
    assert [(row.kind, row.parameters) for row in table.rows] == [("conv", 54), ("activation", 0)]


POINTWISE, BINARY = ("Relu", "Sigmoid", "Neg", "Identity"), ("Add", "Mul", "Sub", "Max")
STEPS = st.tuples(st.sampled_from("pbcrtmg"), st.integers(0, 7), st.integers(0, 7), st.integers(0, 3))


def step(kind, first, other, choice, ranks, made):
    """A node of some kind on earlier tensors, and the rank of what it gives."""
    names = list(ranks)
    x, z = names[first % len(names)], names[other % len(names)]
    axis = choice % max(1, ranks[x])
    if kind == "p" or ranks[x] == 0:
        return helper.make_node(POINTWISE[choice], [x], [made]), ranks[x]
    if kind == "b":
        return helper.make_node(BINARY[choice], [x, "one"], [made]), ranks[x]
    if kind == "c":
        return helper.make_node(
            "Concat", [x, x if ranks[z] != ranks[x] else z, x][: 2 + choice % 2], [made], axis=axis
        ), ranks[x]
    if kind == "r":
        return helper.make_node("ReduceMax", [x], [made], axes=[axis], keepdims=choice % 2), ranks[x] - 1 + choice % 2
    if kind == "t":
        return helper.make_node("Transpose", [x], [made], perm=list(range(ranks[x]))[::-1]), ranks[x]
    if kind == "m":
        return helper.make_node("Reshape", [x, "all"], [made]), 1
    return helper.make_node("Gather", [x, "first"], [made], axis=axis), ranks[x] - 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=6))
def test_whatever_runs_has_the_shapes_that_run(steps, tmp_path):
    """Graphs put together at random: where ONNX Runtime runs one, the table has its shapes, output by output."""
    ranks, nodes = {"x": 4, "s": 4}, []
    for index, (kind, first, other, choice) in enumerate(steps):
        node, ranks[f"t{index}"] = step(kind, first, other, choice, ranks, f"t{index}")
        nodes.append(node)
    weights = [("one", np.ones((), np.float32)), ("all", np.array([-1], np.int64)), ("first", np.array(0, np.int64))]
    ends = [(f"t{index}", None) for index in range(len(steps))]
    path = tmp_path / "random.onnx"
    model = saved(path, nodes, [("x", (1, 3, 6, 4)), ("s", (1, 3, 6, 4))], ends, weights)
    session = runs(model)
    if session is None:
        return  # parts that do not fit
    zeros = np.zeros((1, 3, 6, 4), np.float32)
    outputs = session.run(None, {"x": zeros, "s": zeros})
    graph = xray.read(path)
    xray.table(graph)
    shapes = {name: array.shape for (name, _), array in zip(ends, outputs, strict=True)}
    assert {name: graph.tensors[name].shape for name in shapes if name in graph.tensors} == {
        name: shape for name, shape in shapes.items() if name in graph.tensors
    }
