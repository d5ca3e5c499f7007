"""ONNX files as other projects write them: folded, quantized, dynamic, with operators that nobody knows."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from xray_lab import different

from edgecv import models, xray
from edgecv_runtime.errors import BadInput, ModelFileError, ShapeError


def write(path, nodes, shape=("N", 3, "H", "W"), *, weights=None, known=(), opsets=(("", 17),), **options):
    """Save a graph from "x" to "y"."""
    arrays = {"w": np.ones((8, 3, 3, 3), np.float32)} if weights is None else weights
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, known_shape) for name, known_shape in known],
    )
    opset_imports = [helper.make_opsetid(*opset) for opset in opsets]
    onnx.save(helper.make_model(graph, opset_imports=opset_imports, ir_version=8), path, **options)
    return path


def row_facts(table):
    return [(row.name, row.kind, row.parameters, row.macs, row.output_shape, row.field) for row in table.rows]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_folded_torch_is_the_exported_file(name, exported_onnx):
    ours = xray.table(xray.fold(xray.zoo(name))).total
    file = xray.table(xray.read(exported_onnx(name))).total
    assert ours.parameters == file.parameters
    assert ours.activation_bytes == file.activation_bytes - prepared_bytes(name)
    assert ours.peak_inplace_bytes == file.peak_inplace_bytes


def prepared_bytes(name):
    """Bytes of the input's cast, transposition, scale and offset, which edgecv puts into the file."""
    height, width = models.spec(name).size
    return 4 * 4 * 3 * height * width


def test_a_file_that_keeps_its_norms_has_the_published_parameters(tmp_path):
    path = tmp_path / "resnet18.onnx"
    network = models.create("resnet18", seed=0).eval()
    different(network)
    torch.onnx.export(
        network,
        (torch.zeros(1, 3, 224, 224),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    ours, file = xray.table(xray.zoo("resnet18")), xray.table(xray.read(path))
    assert file.total.parameters == models.spec("resnet18").parameters
    # The exporter writes the operator's name behind the module's: 20 convolutions and norms, pooling, classifier.
    named = {row.name: row for row in ours.rows}
    shared = [row for row in file.rows if row.name.rpartition(".")[0] in named]
    assert len(shared) == 42
    for row in shared:
        twin = named[row.name.rpartition(".")[0]]
        assert (row.kind, row.parameters, row.weight_bytes, row.macs, row.activation_bytes, row.field) == (
            twin.kind, twin.parameters, twin.weight_bytes, twin.macs, twin.activation_bytes, twin.field
        )  # fmt: skip
    assert file.total.peak_bytes == ours.total.peak_bytes


def test_an_int8_bundle_counts_what_it_stores(finished):
    """Q/DQ pairs are types, not layers: same layers and MACs, weights and activations of one byte."""
    float32, int8 = (xray.table(xray.read(finished, variant=name)) for name in ("float32", "int8-u8s8"))
    assert int8.total.macs == float32.total.macs
    assert int8.total.parameters == float32.total.parameters
    assert int8.total.field == float32.total.field
    products = [row for row in int8.rows if row.macs]
    assert {row.dtype for row in products} <= {"uint8", "float32"}
    floats = {row.name: row for row in float32.rows}
    narrow = [row for row in products if row.dtype == "uint8"]  # a placement may leave others' outputs in float
    assert narrow
    for row in narrow:
        assert row.activation_bytes == floats[row.name].activation_bytes // 4
    first = next(row for row in float32.rows if row.macs)
    weights = first.parameters - first.output_shape[1]
    assert products[0].weight_bytes < first.weight_bytes
    assert products[0].weight_bytes >= weights


def test_shapes_are_those_that_run(tmp_path):
    """Every shape of a file with branches and odd padding, against ONNX Runtime's own outputs."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], auto_pad="SAME_UPPER", strides=[2, 2]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        helper.make_node("ConvTranspose", ["b", "t"], ["c"], strides=[2, 2], group=2),
        helper.make_node("Conv", ["c", "d"], ["y"], dilations=[2, 1], pads=[0, 1, 2, 3]),
    ]
    weights = {
        name: np.ones(shape, np.float32)
        for name, shape in (("w", (8, 3, 3, 3)), ("t", (8, 2, 2, 3)), ("d", (5, 4, 3, 3)))
    }
    path = write(tmp_path / "odd.onnx", nodes, weights=weights)
    model = onnx.load(path)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in "abc")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(["a", "b", "c", "y"], {"x": np.zeros((1, 3, 37, 22), np.float32)})
    rows = xray.table(xray.read(path, size=(37, 22))).rows
    assert [row.output_shape for row in rows] == [output.shape for output in outputs]
    assert [row.kind for row in rows] == ["conv", "pool", "transposed conv", "conv"]
    # By hand: outputs times inputs per group times kernel; the transposed one counts its input's places.
    a, b, _, y = (np.prod(output.shape) for output in outputs)
    assert [row.macs for row in rows] == [a * 27, 0, b * 2 * 6, y * 4 * 9]


def constant(name, values, dtype):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, dtype), name))


def shape_arithmetic():
    """A pooled picture, made flat by a shape that is cast, sliced and put together, as PaddlePaddle exports it."""
    return [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2]),
        helper.make_node("Shape", ["a"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["cast"], to=TensorProto.INT32),
        *(constant(name, [value], np.int32) for name, value in (("axis", 0), ("start", 0), ("end", 2), ("step", 1))),
        helper.make_node("Slice", ["cast", "start", "end", "axis", "step"], ["first"]),
        helper.make_node("Cast", ["first"], ["back"], to=TensorProto.INT64),
        constant("rest", [-1], np.int64),
        helper.make_node("Concat", ["back", "rest"], ["flat"], axis=-1),
        helper.make_node("Reshape", ["a", "flat"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]


def test_shape_arithmetic_is_computed(tmp_path):
    path = write(tmp_path / "paddle.onnx", shape_arithmetic(), (-1, 3, "?", "?"))
    table = xray.table(xray.read(path, size=(9, 17)))
    assert table.input_shape == (1, 3, 9, 17)  # "?" is no symbol that stands for one size
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": np.zeros((1, 3, 9, 17), np.float32)})
    assert [row.kind for row in table.rows] == ["conv", "reshape", "activation"]
    assert table.rows[-1].output_shape == output.shape == (1, 8, 32)
    assert table.total.parameters * 4 == table.total.weight_bytes == 4 * 8 * 3 * 9


def test_a_shape_that_cannot_be_computed_is_named(tmp_path):
    nodes = shape_arithmetic()
    nodes[9] = constant("rest", [-1, -1], np.int64)
    with pytest.raises(ShapeError, match="'b', which Reshape gives, stays open"):
        xray.read(write(tmp_path / "odd.onnx", nodes, (1, 3, 9, 17)))


def test_a_size_goes_before_a_symbol_that_names_two_axes(tmp_path):
    path = write(tmp_path / "one.onnx", [helper.make_node("Conv", ["x", "w"], ["y"])], ("N", 3, "S", "S"))
    assert xray.table(xray.read(path, size=(20, 30))).input_shape == (1, 3, 20, 30)


def test_nodes_may_stand_in_any_order(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    plain = xray.table(xray.read(write(tmp_path / "plain.onnx", nodes, (1, 3, 8, 8))))
    turned = xray.table(xray.read(write(tmp_path / "turned.onnx", nodes[::-1], (1, 3, 8, 8))))
    assert [row.kind for row in turned.rows] == ["conv", "activation"]
    assert turned.total == plain.total
    circle = [helper.make_node("Add", ["x", "y"], ["a"]), helper.make_node("Relu", ["a"], ["y"])]
    with pytest.raises(ModelFileError, match="wait for each other in a circle"):
        xray.read(write(tmp_path / "circle.onnx", circle, (1, 3, 8, 8)))


def test_open_sizes_are_asked_for(tmp_path):
    path = write(tmp_path / "open.onnx", [helper.make_node("Conv", ["x", "w"], ["y"])])
    with pytest.raises(BadInput, match="leaves 'H' open; give it with --size"):
        xray.read(path)
    by_size = xray.table(xray.read(path, size=(20, 30)))
    assert by_size.rows[0].output_shape == (1, 8, 18, 28)
    by_shape = xray.table(xray.read(path, input_shapes={"x": (2, 3, 20, 30)}))
    assert by_shape.total.macs == 2 * by_size.total.macs
    with pytest.raises(BadInput, match="no input 'image'; it has: x"):
        xray.read(path, input_shapes={"image": (1, 3, 8, 8)})
    with pytest.raises(BadInput, match="axis 1 of input 'x' is 3 in the file, got 4"):
        xray.read(path, input_shapes={"x": (1, 4, 8, 8)})


@pytest.mark.parametrize(("shape", "size"), [((1, 3, 9, 17), (50, 50)), (("N", 3, "T"), (50, 50)), ((1, 3), (50,))])
def test_a_size_that_no_input_can_have_is_refused(shape, size, tmp_path):
    path = write(tmp_path / "fixed.onnx", [helper.make_node("Relu", ["x"], ["y"])], shape)
    with pytest.raises(BadInput, match=f"a size of {'x'.join(map(str, size))} fits no input; the file has 'x'"):
        xray.read(path, size=size)


def test_a_size_may_repeat_what_is_fixed_and_one_number_is_a_length(tmp_path):
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    fixed = write(tmp_path / "fixed.onnx", relu, (1, 3, 9, 17))
    assert xray.table(xray.read(fixed, size=(9, 17))).input_shape == (1, 3, 9, 17)
    signal = write(tmp_path / "signal.onnx", relu, ("N", 3, "T"))
    assert xray.table(xray.read(signal, size=(50,))).input_shape == (1, 3, 50)
    last = write(tmp_path / "last.onnx", relu, ("N", "H", "W", 3))
    assert xray.table(xray.read(last, size=(9,))).input_shape == (1, 9, 9, 3)


def test_too_small_an_input_says_the_smallest(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["y"], kernel_shape=[4, 4]),
    ]
    path = write(tmp_path / "small.onnx", nodes)
    with pytest.raises(ShapeError, match="the smallest square that works is 6x6"):
        xray.read(path, size=(5, 5))
    assert xray.table(xray.read(path, size=(6, 6))).rows[-1].output_shape == (1, 8, 1, 1)


def test_unknown_operators_are_named(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Whiten", ["a"], ["b"], domain="my.own"),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    opsets = (("", 17), ("my.own", 1))
    known = [("b", (1, 8, 6, 6))]
    table = xray.table(xray.read(write(tmp_path / "own.onnx", nodes, (1, 3, 8, 8), known=known, opsets=opsets)))
    assert table.total.uncounted == {"my.own.Whiten": 1}
    assert [row.field.whole for row in table.rows] == [False, True, True]
    with pytest.raises(ShapeError, match="'b', which my.own.Whiten gives, stays open"):
        xray.read(write(tmp_path / "open.onnx", nodes, (1, 3, 8, 8), opsets=opsets))


def test_external_weights_are_not_needed(tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    options = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    path = write(tmp_path / "external.onnx", nodes, (1, 3, 8, 8), **options)
    (tmp_path / "weights.bin").unlink()
    assert xray.table(xray.read(path)).total.parameters == 8 * 3 * 9


def test_exporters_spellings_are_read_as_one_operation(tmp_path):
    """GELU, SiLU and a linear layer with bias come as five, two and two nodes."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x):
            return nn.functional.silu(self.two(nn.functional.gelu(self.one(x))))

    path = tmp_path / "spelled.onnx"
    network = Network().eval()
    torch.onnx.export(network, (torch.zeros(1, 5, 6),), path, dynamo=False, opset_version=17)
    assert len(onnx.load(path).graph.node) > 9
    from edgecv.xray import from_torch

    ours, file = xray.table(from_torch.read(network, (5, 6))), xray.table(xray.read(path))
    assert [row.kind for row in file.rows] == ["linear", "activation"] * 2
    assert [facts[1:] for facts in row_facts(ours)] == [facts[1:] for facts in row_facts(file)]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "the file is empty"), (b"PK\x03\x04", "a zip archive"), (b"\x08\x08 no model", "not a whole ONNX file")],
)
def test_what_is_no_onnx_file_is_refused(content, said, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=said):
        xray.read(tmp_path / "model.onnx")


def test_a_perceptron_sees_the_whole_picture(tmp_path):
    """Without windows nothing has places: the field is what its last layer sees, not what a step before it does."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Flatten", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, (1, 3, 4, 4), weights={"w": np.ones((48, 2), np.float32)})
    field = xray.table(xray.read(path)).total.field
    assert field.whole
    assert max(field.jump) == 0
