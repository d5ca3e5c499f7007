"""Dialects: what the files hold, and that backends compute what the grids say."""

import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from edgecv_export import fp16, qdq
from edgecv_export.calibrate import sample
from edgecv_export.dialects import DIALECTS, activation_grid, half_up, weight_grid
from edgecv_export.graph import Deployed, to_onnx
from edgecv_export.passes import FLOAT_PASSES
from edgecv_export.placement import PLACEMENTS, quantized_nodes
from edgecv_export.plan import ERROR_IMAGES, Plan, Workshop
from edgecv_export.wiring import Wiring
from edgecv_runtime import backends
from edgecv_runtime.backends import Options
from edgecv_runtime.backends.tensorrt import api
from edgecv_runtime.backends.tensorrt.builder import build_engine
from edgecv_runtime.backends.tensorrt.network import Parsed, read_network
from edgecv_runtime.errors import BadInput, ComputationError
from edgecv_runtime.verify import trace
from tests.conftest import NORMALIZATION
from tests.export.test_passes import run
from tests.runtime.tensorrt_lab import TARGETS, PlanText


@pytest.fixture(scope="module")
def workshop(exported, digits):
    return Workshop(onnx.load(exported / "model.onnx"), sample(digits[0], 64))


@pytest.mark.parametrize(("low", "high"), [(-1.5, 3.0), (0.0, 6.0), (-2.0, 0.0), (0.0, 0.0), (1.0, 2.0)])
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda each: each.name)
def test_grids_are_onnxs_own(low, high, dialect):
    """Oracle: ONNX's reference implementation of QuantizeLinear and DequantizeLinear."""
    from onnx.reference import ReferenceEvaluator

    grid = activation_grid(low, high, dialect)
    values = np.random.default_rng(0).uniform(low - 1, high + 1, 1000).astype(np.float32)
    kind = "uint8" if dialect.activations == "uint8" else "int8"
    oracle = ReferenceEvaluator(
        onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["": 19]>
            pair (float[N] x, float scale, {kind} point) => ({kind}[N] q, float[N] y) {{
                q = QuantizeLinear(x, scale, point)
                y = DequantizeLinear(q, scale, point)
            }}"""
        )
    )
    integers, back = oracle.run(None, {"x": values, "scale": grid.scale, "point": grid.zero_point})
    clipped = np.clip(integers.astype(int), grid.lowest, grid.highest)
    assert (grid.quantize(values) == clipped).all()
    assert np.allclose(grid.dequantize(integers), back)
    assert grid.fake(np.zeros(1, np.float32)) == 0  # padding stays padding
    if not dialect.symmetric:
        inside = values[(values >= min(low, 0)) & (values <= max(high, 0))]
        assert np.abs(grid.fake(inside) - inside).max(initial=0) <= grid.scale * 0.501


def test_weights_have_one_step_a_channel_and_keep_the_largest():
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    weights[2] = 0
    grid = weight_grid(np.abs(weights).max(axis=(1, 2, 3)), 0, DIALECTS["int8-u8s8"])
    assert np.abs(grid.fake(weights) - weights).max() <= grid.scale.max() / 2 * 1.001
    assert np.abs(grid.quantize(weights)).max(axis=(1, 2, 3)).tolist() == [127, 127, 0, 127]


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_backends_compute_what_the_simulated_model_computes(workshop, digits, tmp_path, dialect, placement, backend):
    """Oracle: the same grids with float32 arithmetic between Q and DQ: ONNX Runtime without optimizations.

    Integer kernels, and half precision between them, may round a value that lies between two steps the other way; the
    error of quantization itself is the measure of it.
    """
    frames = digits[0][100:164]
    plan = Plan(placement, passes=())
    path = tmp_path / "model.onnx"
    path.write_bytes(workshop.make(plan, DIALECTS[dialect]))
    setting = workshop.setting(plan, DIALECTS[dialect])
    floating = dataclasses.replace(DIALECTS[dialect], islands="float32")
    simulated = run(qdq.write(setting.wiring, setting.nodes, setting.grids, floating), frames)
    floats = run(workshop.form(())[0].model, frames)
    opened = backends.get(backend)(path, Options())
    (got,) = opened.run({"image": frames}).values()
    opened.close()
    allowed = 0.1 if DIALECTS[dialect].islands == "float32" else 0.4
    assert np.abs(got - simulated).mean() < allowed * np.abs(simulated - floats).mean()
    assert (got.argmax(1) == simulated.argmax(1)).mean() > 0.95


@pytest.mark.parametrize("passes", [("bias",), ("equalize", "bias")], ids="+".join)
def test_the_errors_of_layers_are_those_of_the_file(workshop, passes):
    """Oracle: the tensors inside the file and inside the float graph after its float passes, in ONNX Runtime."""
    plan = Plan("layers", passes=passes)
    found = workshop.errors(plan)
    floats, _ = workshop.form(tuple(name for name in FLOAT_PASSES if name in passes))
    feeds = {"image": workshop.images.some(ERROR_IMAGES)}
    wanted = trace.tensors(floats.model.SerializeToString(), feeds)
    got = trace.tensors(workshop.make(plan), feeds)
    assert list(found) == [layer.name for layer in floats.layers()]
    for layer in floats.layers():
        exact, near = (each[layer.node.output[0]] for each in (wanted, got))
        shares = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in zip(exact, near, strict=True)]
        assert found[layer.name] == pytest.approx(np.median(shares), rel=0.05)


def kinds(content):
    model = onnx.ModelProto.FromString(content)
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    return model, makers, constants


def test_the_symmetric_dialect_has_no_zero_points_and_no_quantized_bias(workshop):
    model, makers, constants = kinds(workshop.make(Plan("all"), DIALECTS["int8-s8s8"]))
    points = [constants[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert points
    assert all(point.dtype == np.int8 and point == 0 for point in points)
    assert not any(values.dtype == np.int32 for values in constants.values())
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert all(node.input[2] in constants for node in convolutions)  # bias straight from a float constant
    assert all(makers[node.input[1]].op_type == "DequantizeLinear" for node in convolutions)


def test_tensorrt_builds_the_symmetric_dialect_and_fp16(workshop, exported, tmp_path):
    """The real parser and builder, without a GPU; the network's layers are counted by their precision."""
    path = tmp_path / "int8.onnx"
    for placement in ("all", "layers", "merged"):
        for dialect in ("int8-s8s8", "int8-s8s8-fp16"):
            path.write_bytes(workshop.make(Plan(placement), DIALECTS[dialect]))
            assert read_network(path).layers == {"int8": 5}
            assert build_engine(path, compute_capabilities=[(8, 6)])
    half = tmp_path / "half.onnx"
    half.write_bytes(fp16.converted(onnx.load(exported / "model.onnx")))
    assert read_network(half).layers == {"fp16": 5}
    assert build_engine(half, compute_capabilities=[(8, 6)])


# fp16


@pytest.mark.parametrize(("dialect", "between"), [("int8-s8s8", "float32"), ("int8-s8s8-fp16", "fp16")])
def test_tensorrt_computes_islands_in_their_precision(workshop, tmp_path, dialect, between):
    """What the real parser gives each layer, and what the real builder writes into the engine."""
    path = tmp_path / "model.onnx"
    layers = quantized_nodes(workshop.form(())[0], PLACEMENTS["layers"])
    path.write_bytes(workshop.make(Plan("layers", islands=(layers[1].name,)), DIALECTS[dialect]))
    assert read_network(path).layers == {"int8": 4, between: 1}
    parsed = Parsed(path, api.library(), strong=True)
    outputs = [layer.get_output(0) for layer in parsed.layers if layer.type.name not in ("CONSTANT", "SHAPE", "CAST")]
    floats = {each.dtype.name for each in outputs} - {"INT8", "INT32", "INT64"}
    assert floats == {{"float32": "FLOAT", "fp16": "HALF"}[between]}
    text = PlanText(build_engine(path, compute_capabilities=TARGETS))
    assert text.tensors["logits"][0] == "float"
    assert set(text.operands) == {"int8", {"float32": "float", "fp16": "half"}[between]}


def test_scales_are_rounded_up_to_the_next_half():
    """Oracle: the list of all positive numbers of half precision."""
    known = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    values = np.exp(np.random.default_rng(0).uniform(np.log(1e-9), np.log(65504), 10000)).astype(np.float32)
    assert (half_up(values) == known[np.searchsorted(known, values)]).all()
    assert (half_up(known) == known).all()
    assert (half_up(np.float32([65505, 1e9])) == np.float32([65505, 1e9])).all()  # for the converter to name


def test_a_scale_beyond_half_precision_is_named(workshop):
    setting = workshop.setting(Plan("layers", passes=()))
    name = next(name for name in setting.grids if name in setting.wiring.makers)
    dialect = DIALECTS["int8-s8s8-fp16"]
    grids = {**setting.grids, name: activation_grid(-1e9, 1e9, dialect)}
    with pytest.raises(ComputationError, match=f"constant '{name}:scale' reaches 7.87e.06, half precision ends at 655"):
        qdq.write(setting.wiring, setting.nodes, grids, dialect)


def test_onnxruntime_keeps_a_bias_of_more_steps_than_half_precision_counts(exported, digits, tmp_path):
    """Its own optimizer makes such a bias infinite, and the logits NaN or one label."""
    frames = digits[0][100:132]
    wiring = Wiring(onnx.load(exported / "model.onnx"))
    for layer in wiring.layers()[1:]:
        wiring.set_bias(layer, wiring.bias(layer) + 30)
    large = Workshop(wiring.model, sample(digits[0], 64))
    path = tmp_path / "model.onnx"
    path.write_bytes(large.make(Plan("layers", passes=()), DIALECTS["int8-s8s8-fp16"]))
    broken = onnxruntime.InferenceSession(str(path)).run(None, {"image": frames})[0]
    opened = backends.get("onnxruntime")(path, Options())
    (got,) = opened.run({"image": frames}).values()
    opened.close()
    wanted = run(wiring.model, frames)
    assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()
    assert not np.abs(broken - wanted).max() < 0.1 * np.abs(wanted).max()  # or the optimizer may stay on


def test_half_precision_is_baked_in_and_stays_close(exported, digits):
    frames = digits[0][:32]
    content = fp16.converted(onnx.load(exported / "model.onnx"))
    model = onnx.ModelProto.FromString(content)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert not any(each.data_type == TensorProto.FLOAT for each in model.graph.initializer)
    wanted = run(onnx.load(exported / "model.onnx"), frames)
    assert 1e-6 < np.abs(run(content, frames) - wanted).max() / np.abs(wanted).max() < 5e-3


def test_half_precision_leaves_the_scales_of_a_resize_alone(digits):
    from tests.export.test_graphs import HEAD, MEAN, graph

    model = graph(
        'last = Resize<mode="linear">(first, , scales)' + MEAN + HEAD, scales=np.array([1, 1, 2, 2], np.float32)
    )
    wanted, frames = run(model, digits[0][:32]), digits[0][:32]
    got = run(fp16.converted(model), frames)
    assert np.abs(got - wanted).max() < 5e-3 * np.abs(wanted).max()


def test_an_operator_that_takes_no_half_precision_is_named(exported):
    model = onnx.load(exported / "model.onnx")
    (node,) = (each for each in model.graph.node if each.op_type == "HardSwish")
    noise = onnx.helper.make_node("RandomNormal", [], [f"{node.name}:noise"], shape=[1], dtype=1)
    added = onnx.helper.make_node("Add", [node.output[0], noise.output[0]], ["noisy"], name="noisy")
    for each in model.graph.node:
        each.input[:] = ["noisy" if name == node.output[0] else name for name in each.input]
    place = list(model.graph.node).index(node) + 1
    model.graph.node.insert(place, added)
    model.graph.node.insert(place, noise)
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(ComputationError, match="cannot be converted to half precision: .*noisy"):
        fp16.converted(model)


def test_weights_beyond_half_precision_are_named(exported):
    model = Wiring(onnx.load(exported / "model.onnx"))
    layer = model.layers()[0]
    model.set_weights(layer, model.weights(layer) * 1e6)
    with pytest.raises(ComputationError, match=r"constant '.+' reaches .*, half precision ends at 65504"):
        fp16.converted(model.model)


# Placements


@pytest.fixture(scope="module")
def mobilenet():
    from edgecv import models

    network = models.create("mobilenet_v3_small", classes=4, weights=None, in_channels=3, seed=0).eval()
    return Wiring(to_onnx(Deployed(network, NORMALIZATION), (32, 32), 3, {}))


def test_merged_placements_put_nothing_between_a_convolution_and_its_hard_swish(mobilenet, digits):
    workshop = Workshop(mobilenet.model, sample(digits[0], 8))
    for name, quantized in (("layers", 19), ("merged", 0)):
        model, makers, _ = kinds(workshop.make(Plan(name, passes=())))
        swishes = [node for node in model.graph.node if node.op_type == "HardSwish"]
        between = sum(makers[node.input[0]].op_type == "DequantizeLinear" for node in swishes)
        assert (len(swishes), between) == (19, quantized)


def test_gates_can_stay_in_float(mobilenet):
    every, some = PLACEMENTS["merged"], PLACEMENTS["merged-gates-float"]
    left = {node.name for node in quantized_nodes(mobilenet, every)} - {
        node.name for node in quantized_nodes(mobilenet, some)
    }
    assert len(left) == 18  # two convolutions in each of nine branches
    assert all("fc1" in name or "fc2" in name for name in left)


def test_islands_stay_in_float(mobilenet):
    nodes = quantized_nodes(mobilenet, PLACEMENTS["layers"])
    first, last = nodes[0].name, nodes[-1].name
    rest = quantized_nodes(mobilenet, PLACEMENTS["layers"], islands=(first, last))
    assert [node.name for node in rest] == [node.name for node in nodes[1:-1]]


def test_a_plan_refuses_what_it_does_not_know():
    with pytest.raises(BadInput, match="placements are all, layers"):
        Plan("everywhere")
    with pytest.raises(BadInput, match="passes are fold-batch-norm, .*; got 'rescue'"):
        Plan(passes=("rescue",))
