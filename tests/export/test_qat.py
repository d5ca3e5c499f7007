"""Fake quantization and the network that computes on a file's grid, against ONNX Runtime and autograd."""

import copy
import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgecv_export.calibrate import sample
from edgecv_export.dialects import DIALECTS
from edgecv_export.graph import Deployed, reference, to_onnx
from edgecv_export.plan import Plan, Workshop
from edgecv_export.qat import fake, norms
from edgecv_export.qat.network import FakeQuantized, write
from edgecv_export.qat.operators import OPERATORS
from edgecv_export.wiring import Wiring
from edgecv_runtime.errors import BadInput
from tests.conftest import NORMALIZATION

EXAMPLE = torch.zeros(2, 3, 32, 32)


def run(content, feeds):
    """A file's outputs in ONNX Runtime, node by node as it is written."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, settings).run(None, feeds)[0]


# Fake quantization


def single(kind, inputs, attributes=None, axis=None):
    """One node, or Q and DQ in a row for kind "Q/DQ", whose inputs are all fed -> its output."""
    names = [f"in{index}" if each.size else "" for index, each in enumerate(inputs)]  # empty: left out
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        for name, each in zip(names, inputs, strict=True)
        if name
    ]
    axes = {} if axis is None else {"axis": axis}
    nodes = [helper.make_node(kind, names, ["out"], **(attributes or {}))]
    if kind == "Q/DQ":
        nodes = [
            helper.make_node("QuantizeLinear", names, ["q"], **axes),
            helper.make_node("DequantizeLinear", ["q", *names[1:]], ["out"], **axes),
        ]
    output = helper.make_tensor_value_info("out", TensorProto.INT64 if kind == "Shape" else TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "one", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return run(model.SerializeToString(), {name: each for name, each in zip(names, inputs, strict=True) if name})


@pytest.mark.parametrize(("kind", "zero_point"), [(np.uint8, 0), (np.uint8, 113), (np.uint8, 255), (np.int8, 0)])
def test_fake_quantization_is_onnx_bit_for_bit(kind, zero_point):
    draw = np.random.default_rng(0)
    for scale in np.array([0.1, 1 / 3, 0.5, 7e-4], np.float32):
        halves = (np.arange(-300, 300) + 0.5).astype(np.float32) * scale  # ties, and far outside
        x = np.concatenate([halves, draw.normal(0, 200 * scale, 20_000).astype(np.float32), [0, -0.0]]).astype("f4")
        wanted = single("Q/DQ", [x, np.array(scale), np.array(zero_point, kind)])
        limits = np.iinfo(kind)
        got = fake.fake_quantize(torch.from_numpy(x), torch.tensor(scale), zero_point, limits.min, limits.max)
        assert np.array_equal(got.numpy(), wanted)


@pytest.mark.parametrize(("shape", "axis"), [((8, 5, 3, 3), 0), ((6, 9), 1), ((4, 7), 0)])
def test_weights_lie_on_the_writers_grid_bit_for_bit(shape, axis):
    weights = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    weights[(slice(None),) * axis + (0,)] = 0  # a dead channel
    others = tuple(each for each in range(len(shape)) if each != axis)
    reach = np.abs(weights).max(axis=others)
    scale = np.where(reach == 0, np.float32(1), reach / np.float32(127)).astype(np.float32)
    wanted = single("Q/DQ", [weights, scale, np.zeros(scale.shape, np.int8)], axis=axis)
    scale = fake.weight_scale(torch.from_numpy(weights), axis)
    assert np.array_equal(fake.fake_weights(torch.from_numpy(weights), scale).numpy(), wanted)


def test_gradients_are_those_of_autograd_with_the_rounding_taken_as_the_identity():
    torch.manual_seed(0)
    x = torch.randn(4, 50) * 3
    for zero_point in (0, 40):
        for lowest, highest in ((0, 255), (-128, 127)):
            one, scale = x.clone().requires_grad_(), torch.tensor(0.02, requires_grad=True)
            fake.fake_quantize(one, scale, zero_point, lowest, highest).pow(2).sum().backward()
            two, other = x.clone().requires_grad_(), torch.tensor(0.02, requires_grad=True)
            steps = two / other
            rounded = steps + (steps.round() - steps).detach()
            ((rounded + zero_point).clamp(lowest, highest) - zero_point).mul(other).pow(2).sum().backward()
            assert torch.allclose(one.grad, two.grad)
            assert torch.allclose(scale.grad * (50 * highest) ** 0.5, other.grad, rtol=1e-4)


def test_the_gradient_is_one_inside_and_zero_outside():
    x = torch.tensor([[-1.0, 0.0, 3.3, 25.5, 25.6, 99.0]], requires_grad=True)
    fake.fake_quantize(x, torch.tensor(0.1), 0, 0, 255).sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 1, 0, 0]]


def test_a_bias_lies_on_its_int32_grid_and_its_gradient_goes_through():
    bias = torch.tensor([0.1234567, -5.0], requires_grad=True)
    scale = np.array([1e-3, 2e-3], np.float32)
    moved = fake.fake_bias(bias, torch.from_numpy(scale))
    assert np.array_equal(moved.detach().numpy(), np.array([123, -2500], np.float32) * scale)
    moved.sum().backward()
    assert bias.grad.tolist() == [1, 1]


# Operators


def floats(*shape):
    return np.random.default_rng(sum(shape)).normal(0, 2, shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


IMAGE = floats(2, 4, 9, 9)
POOL = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
NONE = np.zeros(0, np.float32)
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
CASES = [
    ("Conv", [IMAGE, floats(6, 4, 3, 3), floats(6)], {"pads": [0, 0, 1, 1], "strides": [2, 2]}),
    ("Conv", [IMAGE, floats(8, 1, 3, 3)], {"pads": [2, 2, 2, 2], "dilations": [2, 2], "group": 4}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 2, 2), floats(3)], {"strides": [2, 2]}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 3, 3)], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("Gemm", [floats(3, 5), floats(4, 5), floats(4)], {"transB": 1}),
    ("Gemm", [floats(5, 3), floats(5, 4)], {"transA": 1, "alpha": 0.5}),
    ("MatMul", [floats(2, 3, 4), floats(4, 5)], {}),
    *[(kind, [IMAGE, floats(4, 1, 1)], {}) for kind in ("Add", "Sub", "Mul", "Div")],
    ("Pow", [np.abs(IMAGE), np.array(2.0, np.float32)], {}),
    ("Sqrt", [np.abs(IMAGE)], {}),
    *[(kind, [IMAGE], {}) for kind in ("Relu", "HardSwish", "Sigmoid", "Tanh", "Erf", "GlobalAveragePool", "Identity")],
    ("HardSigmoid", [IMAGE], {"alpha": 1 / 6}),
    ("HardSigmoid", [IMAGE], {}),
    ("Clip", [IMAGE, np.array(0, np.float32), np.array(6, np.float32)], {}),
    ("Softmax", [IMAGE], {"axis": 1}),
    ("LayerNormalization", [IMAGE, floats(9), floats(9)], {"axis": -1, "epsilon": 1e-6}),
    ("BatchNormalization", [IMAGE, floats(4), floats(4), floats(4), np.abs(floats(4))], {"epsilon": 1e-3}),
    ("ReduceMean", [IMAGE], {"axes": [2, 3], "keepdims": 0}),
    ("MaxPool", [IMAGE], {**POOL, "ceil_mode": 1}),
    ("AveragePool", [IMAGE], POOL),
    ("AveragePool", [IMAGE], {**POOL, "count_include_pad": 1}),
    ("Resize", [IMAGE, NONE, np.array([1, 1, 2, 3], np.float32)], NEAREST),
    ("Resize", [IMAGE, NONE, NONE, ints(2, 4, 20, 31)], LINEAR),
    ("Expand", [floats(2, 4, 1, 1), ints(2, 4, 3, 5)], {}),
    ("Shape", [IMAGE], {}),
    ("Reshape", [IMAGE, ints(0, 2, -1)], {}),
    ("Transpose", [IMAGE], {"perm": [0, 2, 3, 1]}),
    ("Flatten", [IMAGE], {"axis": 2}),
    ("Squeeze", [floats(2, 1, 3, 1), ints(1, 3)], {}),
    ("Unsqueeze", [floats(2, 3), ints(0, -1)], {}),
    ("Gather", [IMAGE, np.array(2)], {"axis": 1}),
    ("Gather", [floats(5, 3), np.array([[0, -1], [2, 2]])], {}),
    ("Slice", [IMAGE, ints(1, -5), ints(9, 99), ints(2, 3), ints(3, 1)], {}),
    ("Concat", [floats(2, 3), floats(2, 4)], {"axis": 1}),
    ("Pad", [floats(2, 3), ints(0, 1, 2, 0), np.array(-1, np.float32)], {}),
]


@pytest.mark.parametrize(("kind", "inputs", "attributes"), CASES, ids=[row[0] for row in CASES])
def test_operators_compute_what_onnx_runtime_computes(kind, inputs, attributes):
    node = helper.make_node(kind, [], [], **attributes)
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    got = OPERATORS[kind]([torch.from_numpy(np.array(each)) if each.size else None for each in inputs], given)
    wanted = single(kind, inputs, attributes)
    assert got.shape == wanted.shape
    assert np.abs(got.numpy() - wanted).max() < 1e-4


def test_every_operator_has_a_case():
    assert {row[0] for row in CASES} == set(OPERATORS)


def test_other_ways_to_enlarge_are_refused_and_not_computed_otherwise():
    with pytest.raises(BadInput, match="a Resize by 'linear' with 'align_corners' cannot be trained through"):
        corners = {"mode": b"linear", "coordinate_transformation_mode": b"align_corners"}
        OPERATORS["Resize"]([torch.from_numpy(IMAGE), None, None, torch.tensor([2, 4, 20, 31])], corners)
    with pytest.raises(BadInput, match="uneven padding"):
        weights = torch.zeros(4, 3, 2, 2)
        OPERATORS["ConvTranspose"]([torch.from_numpy(IMAGE), weights], {"pads": [0, 0, 1, 1]})


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_a_pooling_with_uneven_padding_is_refused_and_not_computed_otherwise(kind):
    with pytest.raises(BadInput, match="padded by 0, 0, 1, 1 cannot be trained through"):
        OPERATORS[kind]([torch.from_numpy(IMAGE)], {**POOL, "pads": [0, 0, 1, 1]})


# The network and its file


class Attention(nn.Module):
    """Patches, one attention block with layer norms and GELU, mean, linear: what transformers are made of."""

    def __init__(self, width=32):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.into, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)  # (N, C, H, W) -> (N, tokens, width)
        query, key, value = self.into(self.norms[0](x)).chunk(3, -1)
        x = x + self.out((query @ key.transpose(1, 2) / 6).softmax(-1) @ value)
        x = x + self.mlp(self.norms[1](x))
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def attention():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attention().eval()


def made(network, frames, dialect="int8-u8s8", placement="all", live=0, rate=1.0):
    """The fake-quantized network with the setting it was made of."""
    model = to_onnx(Deployed(network, NORMALIZATION), (32, 32), 3, {})
    setting = Workshop(model, sample(frames[:100])).setting(Plan(placement=placement, passes=()), DIALECTS[dialect])
    normed = norms.find(network, setting.wiring, EXAMPLE)
    return FakeQuantized(setting, DIALECTS[dialect], normed, live, rate), setting, model


def trained(quantized, frames, labels, steps=12):
    """The network after a few steps, with everything moved: weights, norms and scales."""
    optimizer = torch.optim.AdamW(quantized.parameters(), 3e-3)
    scale, offset = Deployed(nn.Identity(), NORMALIZATION).scale, Deployed(nn.Identity(), NORMALIZATION).offset
    quantized.train()
    for step in range(steps):
        pick = slice(step * 32, step * 32 + 32)
        x = torch.from_numpy(frames[pick]).float().permute(0, 3, 1, 2) * scale + offset
        loss = nn.functional.cross_entropy(quantized(x), torch.from_numpy(labels[pick]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return quantized.eval()


@pytest.mark.parametrize("kind", ["network", "attention"])
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("placement", ["all", "merged"])
def test_the_file_gives_what_the_trained_network_gives_up_to_rounding(kind, dialect, placement, digits, request):
    frames, labels = digits
    quantized, setting, model = made(request.getfixturevalue(kind), frames, dialect, placement, live=6)
    trained(quantized, frames, labels)
    assert (quantized.moved != 0).float().mean() > 0.9
    held = frames[1400:1500]
    content = write(quantized, setting, DIALECTS[dialect])
    wanted = reference(Deployed(quantized, NORMALIZATION), held)
    errors = np.abs(run(content, {"image": held}) - wanted).max(axis=1) / np.abs(wanted).max()
    moved = np.abs(wanted - run(model.SerializeToString(), {"image": held})).max() / np.abs(wanted).max()
    assert errors.max() < 0.03 < moved  # where float sums differ at a tie, a value lands a step away
    if DIALECTS[dialect].islands == "float32":
        assert np.median(errors) < 1e-5  # most images meet no tie
    else:
        held = {each.name: numpy_helper.to_array(each) for each in onnx.load_from_string(content).graph.initializer}
        grids = quantized.grids().items()
        assert all(held[f"{name}:scale"] == grid.scale for name, grid in grids if f"{name}:scale" in held)
        assert {held[f"{name}:scale"].dtype for name, _ in grids if f"{name}:scale" in held} == {np.dtype(np.float16)}
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


@pytest.mark.parametrize("kind", ["network", "attention"])
def test_it_starts_as_the_file_that_calibration_gives(kind, digits, request):
    frames, _ = digits
    quantized, _, model = made(request.getfixturevalue(kind), frames)
    plain = Workshop(model, sample(frames[:100])).make(Plan(passes=()))
    wanted = run(plain, {"image": frames[:50]})
    errors = np.abs(reference(Deployed(quantized, NORMALIZATION), frames[:50]) - wanted).max(axis=1)
    assert np.median(errors) < 0.01 * np.abs(wanted).max()


def test_a_channel_with_next_to_no_weights_trains_as_it_is_written(network, digits):
    frames, labels = digits
    dying = copy.deepcopy(network)
    with torch.no_grad():
        dying.point[0].weight[:4] *= torch.tensor([1e-12, 1e-30, 1e-44, 0]).reshape(4, 1, 1, 1)
        dying.point[0].bias[:4] = torch.tensor([0.9, 1.5, 0.7, 2.0])
    quantized, setting, model = made(dying.eval(), frames)
    floats = run(model.SerializeToString(), {"image": frames[:50]})
    for fresh in (True, False):
        wanted = reference(Deployed(quantized, NORMALIZATION), frames[:50])
        if fresh:
            assert np.abs(wanted - floats).mean() < 0.05 * floats.std()
        errors = np.abs(run(write(quantized, setting, DIALECTS["int8-u8s8"]), {"image": frames[:50]}) - wanted)
        assert np.median(errors.max(axis=1)) < 1e-5 * np.abs(wanted).max()
        trained(quantized, frames, labels, steps=3)


@pytest.mark.parametrize(("kind", "lr"), [(torch.optim.SGD, 1.0), (torch.optim.AdamW, 1e-3)])
def test_the_rate_of_the_scales_is_that_of_the_optimizer_times_theirs(kind, lr, network, digits):
    """As if the scales were a group of parameters with a learning rate of their own, whatever the optimizer."""
    frames, labels = digits
    steps = []
    for rate in (1.0, 20.0):
        quantized, _, _ = made(network, frames, rate=rate)
        before = torch.stack([torch.tensor(grid.scale) for grid in quantized.grids().values()]).log()
        x = torch.from_numpy(frames[:32]).permute(0, 3, 1, 2) / 127.5 - 1
        nn.functional.cross_entropy(quantized.train()(x), torch.from_numpy(labels[:32])).backward()
        kind([quantized.moved], lr=lr).step()
        after = torch.stack([torch.tensor(grid.scale) for grid in quantized.grids().values()]).log()
        steps.append(after - before)
    slow, fast = steps
    assert (fast.abs() > 1e-4).any()
    assert torch.allclose(fast, 20 * slow, rtol=0.02, atol=2e-5)


# Batch norms


def test_batch_norms_are_found_by_the_values_that_export_folded(network, digits):
    wiring = Wiring(to_onnx(Deployed(network, NORMALIZATION), (32, 32), 3, {}))
    found = norms.find(network, wiring, EXAMPLE)
    assert [each.norm.num_features for each in found.values()] == [16, 16]
    for name, pair in found.items():
        layer = wiring.layer(wiring.nodes[name])
        weights, bias, _ = pair.folded()
        assert np.allclose(weights.detach().numpy(), wiring.weights(layer), atol=1e-5)
        assert np.allclose(bias.detach().numpy(), wiring.bias(layer), atol=1e-5)


def test_a_live_batch_norm_is_that_of_pytorch(network):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    nn.init.uniform_(norm.weight, 0.5, 2)
    pair = norms.Normed(conv, norm)
    x = torch.randn(4, 3, 9, 9)
    weights, _, factor = pair.folded()
    got = pair.normalize(nn.functional.conv2d(x, weights), factor)
    assert torch.allclose(got, norm(conv(x)), atol=1e-5)
    assert torch.allclose(pair.norm.running_mean, norm.running_mean, atol=1e-6)
    assert torch.allclose(pair.norm.running_var, norm.running_var, atol=1e-6)


def test_batch_norms_are_frozen_late(network, digits):
    frames, labels = digits
    quantized, _, _ = made(network, frames, live=3)

    def statistics():
        return [each.norm.running_mean.clone() for each in quantized.normed.values()]

    seen = [statistics()]
    for _ in range(5):
        trained(quantized, frames, labels, steps=1)
        seen.append(statistics())
    changed = [not all(map(torch.equal, one, two)) for one, two in itertools.pairwise(seen)]
    assert changed == [True, True, True, False, False]


# Bad input


def test_a_graph_of_another_exporter_is_refused(network, digits):
    model = to_onnx(Deployed(network, NORMALIZATION), (32, 32), 3, {})
    setting = Workshop(model, sample(digits[0][:32])).setting(Plan(passes=()))
    next(node for node in setting.wiring.model.graph.node if node.op_type == "Add").op_type = "Sub"
    with pytest.raises(BadInput, match="wants a graph that edgecv exported"):
        FakeQuantized(setting, DIALECTS["int8-u8s8"], {}, 0)


def test_an_operator_that_cannot_be_trained_through_is_named(network, digits):
    model = to_onnx(Deployed(network, NORMALIZATION), (32, 32), 3, {})
    setting = Workshop(model, sample(digits[0][:32])).setting(Plan(passes=()))
    node = next(node for node in setting.wiring.model.graph.node if node.op_type == "HardSwish")
    node.op_type = "Mish"
    with pytest.raises(BadInput, match=f"node '{node.name}': operator Mish cannot be trained through"):
        FakeQuantized(setting, DIALECTS["int8-u8s8"], {}, 0)
