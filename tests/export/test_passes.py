"""Rescue passes: each keeps its promise by itself, checked by running graphs and by brute force."""

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgecv_export import qdq
from edgecv_export.calibrate import calibrate
from edgecv_export.dialects import DIALECTS
from edgecv_export.graph import Deployed, to_onnx
from edgecv_export.grids import calibrated
from edgecv_export.lockstep import Lockstep
from edgecv_export.passes import CORRECTIONS, FLOAT_PASSES
from edgecv_export.passes.setting import Setting
from edgecv_export.placement import PLACEMENTS, quantized_nodes
from edgecv_export.wiring import Wiring
from tests.conftest import NORMALIZATION

U8S8 = DIALECTS["int8-u8s8"]


def run(model, frames):
    """Outputs of a graph as it is written, without any optimization."""
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"]).run(
        None, {"image": frames}
    )[0]


def setting_of(model, frames, placement="layers"):
    wiring, statistics = Wiring(model), calibrate(model, [frames])
    nodes = quantized_nodes(wiring, PLACEMENTS[placement])
    return Setting(
        wiring, nodes, calibrated(wiring, PLACEMENTS[placement], nodes, statistics, U8S8), statistics, frames
    )


def written(setting, wiring):
    return qdq.write(wiring, [wiring.nodes[node.name] for node in setting.nodes], setting.grids, U8S8)


class Uneven(nn.Module):
    """Convolutions whose channels reach from 0.03 to 30: what one step size per tensor cannot hold."""

    def __init__(self, act=nn.ReLU):
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), act())
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), act())
        self.point = nn.Conv2d(16, 10, 1)
        factors = torch.logspace(-1.5, 1.5, 16)
        with torch.no_grad():
            self.stem[0].weight.mul_(factors.reshape(-1, 1, 1, 1))
            self.stem[0].bias.mul_(factors)
            self.depthwise[0].weight.mul_(factors.flip(0).reshape(-1, 1, 1, 1))
            self.point.weight.div_((factors * factors.flip(0)).reshape(1, -1, 1, 1))

    def forward(self, x):
        return self.point(self.depthwise(self.stem(x))).mean((2, 3))


class Attention(nn.Module):
    """Layer norm with outlying channels before linear layers, as transformers have it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.patch, self.norm = nn.Conv2d(3, 24, 8, 8), nn.LayerNorm(24)
        self.wide, self.head = nn.Linear(24, 48), nn.Linear(48, 10)
        with torch.no_grad():
            self.norm.weight[3] = 60.0
            self.wide.weight[:, 3] /= 60.0

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(nn.functional.gelu(self.wide(self.norm(x)))).mean(1)


def exported_graph(network):
    return to_onnx(Deployed(network.eval(), NORMALIZATION), (32, 32), 3, "logits", {})


def error(outputs, wanted):
    return float(np.abs(outputs - wanted).mean() / wanted.std())


# Float passes: what the graph computes stays, what is hard to quantize goes


def test_equalization_keeps_the_function_and_evens_the_reach(digits):
    model, frames = exported_graph(Uneven()), digits[0][:64]
    statistics = calibrate(model, [frames])
    equal = FLOAT_PASSES["equalize"](Wiring(model), statistics)
    wanted = run(model, frames)
    assert np.abs(run(equal.model, frames) - wanted).max() < 1e-4 * np.abs(wanted).max()
    first, second, third = (equal.weights(layer) for layer in equal.layers())
    reach = [np.abs(first).max((1, 2, 3)), np.abs(second).max((1, 2, 3))]
    assert np.allclose(*reach, rtol=0.02)  # the fixed point: both layers reach as far in every channel
    assert np.allclose(reach[1], np.abs(third).max((0, 2, 3)), rtol=0.02)
    plain, rescued = setting_of(model, frames), setting_of(equal.model, frames)
    before = error(run(written(plain, plain.wiring), frames), wanted)
    after = error(run(written(rescued, rescued.wiring), frames), wanted)
    assert after < before / 3


def test_relu6_becomes_relu_only_between_equalized_layers(digits):
    model = exported_graph(Uneven(nn.ReLU6))
    equal = FLOAT_PASSES["equalize"](Wiring(model), {})
    assert [node.op_type for node in model.graph.node].count("Clip") == 2
    assert [node.op_type for node in equal.model.graph.node].count("Clip") == 0
    swish = exported_graph(Uneven(nn.Hardswish))
    assert FLOAT_PASSES["equalize"](Wiring(swish), {}) is None  # not positively homogeneous


def test_smoothing_keeps_the_function_and_helps_the_linear_layers(digits):
    model, frames = exported_graph(Attention()), digits[0][:64]
    statistics = calibrate(model, [frames])
    smoothed = FLOAT_PASSES["smooth"](Wiring(model), statistics)
    wanted = run(model, frames)
    assert np.abs(run(smoothed.model, frames) - wanted).max() < 1e-4 * np.abs(wanted).max()
    plain, rescued = setting_of(model, frames), setting_of(smoothed.model, frames)
    before = error(run(written(plain, plain.wiring), frames), wanted)
    after = error(run(written(rescued, rescued.wiring), frames), wanted)
    assert after < before / 1.5


def normalized_graph():
    """uint8 pixels -> cast, transpose, convolution without a bias, batch normalization: as other exporters leave it."""
    random = np.random.default_rng(0)
    constants = {
        "weight": random.normal(size=(4, 3, 3, 3)),
        "gamma": random.uniform(0.5, 2, 4),
        "beta": random.normal(size=4),
        "mean": random.normal(size=4) * 100,
        "variance": random.uniform(10, 1e4, 4),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight"], ["features"]),
        helper.make_node("BatchNormalization", ["features", "gamma", "beta", "mean", "variance"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 6, 6])
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "normalized", [image], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_batch_norm_is_folded_into_the_layer_before_it():
    model = normalized_graph()
    frames = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    folded = FLOAT_PASSES["fold-batch-norm"](Wiring(model), {})
    assert [node.op_type for node in folded.model.graph.node] == ["Cast", "Transpose", "Conv"]
    wanted = run(model, frames)
    assert np.abs(run(folded.model, frames) - wanted).max() < 1e-4 * np.abs(wanted).max()
    assert FLOAT_PASSES["fold-batch-norm"](folded, {}) is None


# Corrections


def test_the_walk_equals_the_written_file_bit_by_bit(exported, digits):
    """Oracle: ONNX Runtime on the Q/DQ file, without optimizations; the walk computes on grids in numpy."""
    model, frames = onnx.load(exported / "model.onnx"), digits[0][:16]
    for placement in ("all", "layers", "merged"):
        setting = setting_of(model, frames, placement)
        exact, moved = Lockstep(setting.wiring, setting.nodes, setting.grids).walk(frames)
        assert np.abs(exact - run(model, frames)).max() < 1e-4
        content = qdq.write(setting.wiring, setting.nodes, setting.grids, DIALECTS["int8-s8s8"])  # bias in float
        assert np.abs(moved - run(content, frames)).max() < 1e-4


def test_analytic_bias_correction_takes_back_what_rounding_the_weights_shifts(exported, digits):
    """Oracle: brute force. The mean output of a pointwise layer with rounded weights, with and without correction."""
    model, frames = onnx.load(exported / "model.onnx"), digits[0][:64]
    setting = setting_of(model, frames)
    layer = next(each for each in setting.wiring.layers() if "point" in each.name)
    wanted = setting.statistics[layer.node.output[0]].channel_means
    corrected = CORRECTIONS["bias"](setting)

    def mean_output(bias):
        graph = Wiring(model)
        own = graph.layer(graph.nodes[layer.name])
        graph.set_constant(own.node, 1, setting.grids[own.weights].fake(graph.constant(own.weights)))
        graph.set_bias(own, bias)
        return calibrate(graph.model, [frames])[own.node.output[0]].channel_means

    before = np.abs(mean_output(setting.wiring.bias(layer)) - wanted).max()
    after = np.abs(mean_output(corrected.bias(corrected.layer(corrected.nodes[layer.name]))) - wanted).max()
    assert after < before / 50


def test_empirical_bias_correction_takes_back_the_mean_shift_of_the_whole_network(digits):
    """Oracle: the mean of every output over the images, of the written file and of the float one."""
    model, frames = exported_graph(Uneven(nn.Hardswish)), digits[0][:64]
    setting = setting_of(model, frames)
    wanted = run(model, frames).mean(0)
    before = np.abs(run(written(setting, setting.wiring), frames).mean(0) - wanted).max()
    corrected = CORRECTIONS["full-bias"](setting)
    assert np.abs(run(written(setting, corrected), frames).mean(0) - wanted).max() < before / 2


def test_adaround_rounds_to_the_next_step_and_brings_the_layers_closer(exported, digits):
    model, frames = onnx.load(exported / "model.onnx"), digits[0][:32]
    setting = setting_of(model, frames)
    rounded = CORRECTIONS["adaround"](setting)
    moved = 0
    for layer in setting.wiring.layers():
        grid = setting.grids[layer.weights]
        before, after = setting.wiring.constant(layer.weights), rounded.constant(layer.weights)
        scale, _ = grid.shaped(before.ndim)
        assert np.abs(after - before).max() <= scale.max() * 1.001
        assert np.allclose(grid.fake(after), after, atol=1e-6)
        moved += int((grid.quantize(after) != grid.quantize(before)).sum())
    assert moved > 10
    pair = {}
    for name, wiring in (("nearest", setting.wiring), ("learned", rounded)):
        layer_errors = []

        def visit(each, into=layer_errors):
            into.append(float(((each.got - each.wanted) ** 2).mean() / each.wanted.var()))
            return False

        nodes = [wiring.nodes[node.name] for node in setting.nodes]
        Lockstep(wiring, nodes, setting.grids, Wiring(model)).walk(frames, visit)
        pair[name] = np.mean(layer_errors)
    assert pair["learned"] < pair["nearest"]


def test_a_pass_leaves_the_graph_that_it_was_given_alone(exported, digits):
    model, frames = onnx.load(exported / "model.onnx"), digits[0][:16]
    setting = setting_of(model, frames)
    before = setting.wiring.model.SerializeToString()
    for change in FLOAT_PASSES.values():
        change(setting.wiring, setting.statistics)
    for correct in CORRECTIONS.values():
        correct(setting)
    assert setting.wiring.model.SerializeToString() == before
