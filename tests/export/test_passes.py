"""Rescue passes: each keeps its promise by itself, checked by running graphs and by brute force."""

import dataclasses
import functools
import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgecv_export import qdq
from edgecv_export.calibrate import calibrate
from edgecv_export.dialects import DIALECTS, weight_grid
from edgecv_export.graph import Deployed, to_onnx
from edgecv_export.grids import calibrated
from edgecv_export.lockstep import Lockstep
from edgecv_export.passes import CORRECTIONS, FLOAT_PASSES, moments, rounding
from edgecv_export.passes.moments import Moments
from edgecv_export.passes.setting import Setting
from edgecv_export.placement import PLACEMENTS, quantized_nodes
from edgecv_export.wiring import Wiring
from edgecv_runtime.verify import trace
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
    return Setting(wiring, nodes, calibrated(wiring, PLACEMENTS[placement], nodes, statistics, U8S8), statistics)


def written(setting, wiring):
    return qdq.write(wiring, [wiring.nodes[node.name] for node in setting.nodes], setting.grids, U8S8)


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
    return to_onnx(Deployed(network.eval(), NORMALIZATION), (32, 32), 3, {})


def error(outputs, wanted):
    return float(np.abs(outputs - wanted).mean() / wanted.std())


# Float passes: what the graph computes stays, what is hard to quantize goes


ACTIVATIONS = [nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish]


class Capped(nn.Module):
    """A network as MobileNets are, with batch norms, whose activations reach what cuts them off in some channels."""

    def __init__(self, act):
        super().__init__()
        torch.manual_seed(4)

        def block(inputs, outputs, size=1, groups=1):
            norm = nn.BatchNorm2d(outputs)
            with torch.no_grad():
                norm.weight.copy_(torch.logspace(-1, 0.7, outputs)[torch.randperm(outputs)])
                norm.bias.copy_(torch.rand(outputs))
            return [nn.Conv2d(inputs, outputs, size, 1, size // 2, groups=groups, bias=False), norm, act()]

        self.features = nn.Sequential(*block(3, 16, 3), *block(16, 16, 3, 16), *block(16, 32), *block(32, 32, 3, 32))
        self.head = nn.Conv2d(32, 10, 1)

    def forward(self, x):
        return self.head(self.features(x)).mean((2, 3))


@pytest.fixture(scope="module")
def capped(digits):
    """The graph of such a network with an activation, its batch norms as real images leave them."""

    @functools.cache
    def made(act):
        network = Capped(act).train()
        with torch.no_grad():
            network(pixels(digits[0][:256]))
        return exported_graph(network)

    return made


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_float_passes_leave_the_outputs_where_they_are(act, capped, digits):
    """Oracle: the graph as PyTorch exported it, on images that no pass has seen."""
    model, frames = capped(act), digits[0]
    changed = {name: change(Wiring(model), calibrate(model, [frames[:128]])) for name, change in FLOAT_PASSES.items()}
    assert (changed["equalize"] is not None) == (act is nn.ReLU)  # what is not homogeneous is left alone
    wanted = run(model, frames[256:512])
    for graph in filter(None, changed.values()):
        assert error(run(graph.model, frames[256:512]), wanted) < 1e-5


def pixels(frames):
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (NORMALIZATION.mean, NORMALIZATION.std))
    return (torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - mean) / std


def test_equalization_fills_the_grid_of_every_channel_and_brings_int8_closer(capped, digits):
    model, frames = capped(nn.ReLU), digits[0]
    equal = FLOAT_PASSES["equalize"](Wiring(model), calibrate(model, [frames[:128]]))
    before, after = (calibrate(each, [frames[:128]]) for each in (model, equal.model))
    first = next(node for node in model.graph.node if node.op_type == "Relu").output[0]  # a depthwise follows
    reach = [np.sort(each[first].channel_ranges()[1]) for each in (before, after)]
    assert reach[0][0] < 0.3 * reach[0][-1]
    assert (reach[1] > 0.94 * reach[0][-1]).all()

    wanted = run(model, frames[256:512])
    errors = [
        error(run(written(made, CORRECTIONS["bias"](made)), frames[256:512]), wanted)
        for made in (setting_of(each, frames[:128]) for each in (model, equal.model))
    ]
    assert errors[1] < 0.8 * errors[0]


class Residual(nn.Module):
    """Residual blocks whose stage ends in a pool and a linear layer; the channels of the stage reach unequally far."""

    def __init__(self, linear):
        super().__init__()
        torch.manual_seed(5)
        self.after = nn.Identity() if linear else nn.ReLU()  # MobileNetV2's bottlenecks are linear, ResNet's are not
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 32, 1), nn.ReLU6(), nn.Conv2d(32, 32, 3, 1, 1, 1, 32), nn.ReLU6(), nn.Conv2d(32, 16, 1)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(16, 10)
        factors = torch.logspace(-1.5, 1, 16)[torch.randperm(16)]
        with torch.no_grad():
            for layer in (self.stem, *(block[4] for block in self.blocks)):
                layer.weight.mul_(factors.reshape(-1, 1, 1, 1))
                layer.bias.mul_(factors)
            for layer in (*(block[0] for block in self.blocks), self.head):
                layer.weight.div_(factors.reshape(1, -1, *[1] * (layer.weight.ndim - 2)))

    def forward(self, x):
        x = self.after(self.stem(x))
        for block in self.blocks:
            x = self.after(x + block(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("linear", [True, False], ids=["linear", "relu"])
def test_what_a_residual_sum_joins_is_equalized_together(linear, digits):
    """Oracle: the float outputs of both graphs, and of the int8 files made of them."""
    model, frames = exported_graph(Residual(linear)), digits[0]
    equal = FLOAT_PASSES["equalize"](Wiring(model), calibrate(model, [frames[:128]]))
    wanted = run(model, frames[256:512])
    assert error(run(equal.model, frames[256:512]), wanted) < 1e-5
    sums = [node.output[0] for node in model.graph.node if node.op_type == "Add"][1:]  # the first one normalizes
    assert len(sums) == 2
    before, after = (calibrate(each, [frames[:128]]) for each in (model, equal.model))
    for name in sums:
        spread = [np.ptp(np.log(np.max(np.abs(each[name].channel_ranges()), axis=0))) for each in (before, after)]
        assert spread[1] < 0.7 * spread[0]
    errors = [
        error(run(written(made, CORRECTIONS["bias"](made)), frames[256:512]), wanted)
        for made in (setting_of(each, frames[:128], "all") for each in (model, equal.model))
    ]
    assert errors[1] < 0.8 * errors[0]


def lost(before, after, rows):
    """Variance of what rounding a layer's weights (outputs, inputs) adds to each output, on rows (N, inputs)."""
    return (rows @ (after - before).T).var(axis=0)


def test_rounding_comes_near_the_best_of_all_ways_to_round():
    """Oracle: brute force over every way to round the nine weights of a filter up or down, on correlated inputs."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(4000, 1)) * 3 + random.normal(size=(4000, 9)) * 0.3
    weights = random.normal(size=(40, 9))
    weights -= weights.mean(axis=1, keepdims=True)  # filters that find edges
    grid = weight_grid(np.abs(weights).max(axis=1) * 8, 0, U8S8)  # 16 steps, where rounding counts
    seen = Moments(np.zeros((1, 9)), np.zeros((1, 9, 9)))
    seen.add(rows[None])
    after, shift = rounding._rounded(weights, seen, grid)
    after = after.reshape(weights.shape)
    assert np.allclose(grid.fake(after), after)
    assert np.allclose(shift, rows.mean(axis=0) @ (after - weights).T, atol=1e-5)

    scale = grid.scale[:, None]
    ways = np.floor(weights / scale)[:, None, :] + np.array(list(itertools.product((0, 1), repeat=9)))
    best = np.array([lost(each, way * step, rows).min() for each, way, step in zip(weights, ways, scale, strict=True)])
    nearest, learned = lost(weights, np.round(weights / scale) * scale, rows), lost(weights, after, rows)
    assert (learned <= nearest * (1 + 1e-3)).all()
    assert learned.mean() < 1.5 * best.mean()
    assert learned.mean() < 0.2 * nearest.mean()


def test_rounding_takes_inputs_whose_covariance_float32_does_not_tell():
    """They lie a million times further from zero than they vary; where they are not finite, the nearest is taken."""
    random = np.random.default_rng(0)
    rows, weights = (1e6 + random.normal(size=(500, 6))).astype(np.float32), random.normal(size=(4, 6))
    grid = weight_grid(np.abs(weights).max(axis=1), 0, U8S8)
    for far in (1.0, np.inf):
        seen = Moments(np.zeros((1, 6)), np.zeros((1, 6, 6)))
        seen.add(rows[None])
        seen.products *= far
        with np.errstate(invalid="ignore"):
            after, _ = rounding._rounded(weights, seen, grid)
        assert np.abs(after / grid.scale[:, None] - weights / grid.scale[:, None]).max() < 3
    assert np.allclose(after, grid.fake(weights))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_rounding_brings_the_layers_of_a_written_file_closer(act, capped, digits):
    """Oracle: each layer's input in float, and the weights in the file, multiplied by PyTorch."""
    model, frames = capped(act), digits[0]
    setting = setting_of(model, frames[:128])
    seen = moments.observe(setting.wiring, [frames[:64]])
    rounded = CORRECTIONS["rounding"](dataclasses.replace(setting, moments=seen))
    sources = trace.tensors(model.SerializeToString(), {"image": frames[256:320]})
    for layer in setting.wiring.layers():
        source = torch.from_numpy(sources[layer.node.input[0]])
        exact, grid = setting.wiring.constant(layer.weights), setting.grids[layer.weights]
        ways = (grid.fake(exact), rounded.constant(layer.weights))
        groups, pad = source.shape[1] if exact.shape[1] == 1 else 1, exact.shape[2] // 2
        off = [
            nn.functional.conv2d(source, torch.from_numpy(np.array(way - exact)), padding=pad, groups=groups)
            for way in ways
        ]
        nearest, learned = (each.var(dim=(0, 2, 3)).mean().item() for each in off)
        assert np.allclose(grid.fake(ways[1]), ways[1], atol=1e-6)
        assert learned < nearest


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_bias_correction_brings_the_outputs_mean_closer(act, capped, digits):
    """Oracle: the mean of every output over images, of the written file and of the float one."""
    model, frames = capped(act), digits[0]
    setting = setting_of(model, frames[:128])
    wanted = run(model, frames[:512]).mean(0)
    shifts = [
        np.abs(run(written(setting, wiring), frames[:512]).mean(0) - wanted).mean()
        for wiring in (setting.wiring, CORRECTIONS["bias"](setting))
    ]
    assert shifts[1] < shifts[0]


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
        walked = Lockstep(setting.wiring, setting.nodes, setting.grids).walk(frames)
        exact, moved = (each["logits"] for each in walked)
        assert np.abs(exact - run(model, frames)).max() < 1e-4
        content = qdq.write(setting.wiring, setting.nodes, setting.grids, DIALECTS["int8-s8s8"])  # bias in float
        assert np.abs(moved - run(content, frames)).max() < 1e-4


def test_a_walk_gives_every_output(exported, digits):
    """Boxes and scores, say; here the logits twice."""
    model, frames = onnx.load(exported / "model.onnx"), digits[0][:4]
    model.graph.node.append(onnx.helper.make_node("Relu", ["logits"], ["other"], name="other"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, ("batch", 10)))
    setting = setting_of(model, frames, "layers")
    for outputs in Lockstep(setting.wiring, setting.nodes, setting.grids).walk(frames):
        assert np.array_equal(outputs["other"], np.maximum(outputs["logits"], 0))


def test_a_walk_takes_lists_of_sizes_that_are_computed(digits):
    """Of a Resize, a Reshape and an Expand. Oracle: ONNX Runtime on the whole graph."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        sizes (uint8[batch, 32, 32, 3] image) => (float[batch, channels, height, width] logits)
        <int64[1] one = {1}, int64[1] none = {0}, int64[2] half = {16, 16}, int64[2] whole = {32, 32},
         int64[1] two = {2}>
        {
            pixels = Cast <to = 1> (image)
            x = Transpose <perm = [0, 3, 1, 2]> (pixels)
            shape = Shape (x)
            outer = Slice (shape, none, two)
            smaller = Concat <axis = 0> (outer, half)
            same = Concat <axis = 0> (outer, whole)
            little = Resize (x, , , smaller)
            large = Resize (little, , , same)
            flat = Reshape (large, shape)
            logits = Expand (flat, same)
        }
    """
    model = onnx.parser.parse_model(text)
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}{number}"
    frames = digits[0][:3]
    for outputs in Lockstep(Wiring(model), [], {}).walk(frames):
        assert np.array_equal(outputs["logits"], run(model, frames))


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


def test_a_pass_leaves_the_graph_that_it_was_given_alone(exported, digits):
    model, frames = onnx.load(exported / "model.onnx"), digits[0][:16]
    setting = setting_of(model, frames)
    before = setting.wiring.model.SerializeToString()
    for change in FLOAT_PASSES.values():
        change(setting.wiring, setting.statistics)
    for correct in CORRECTIONS.values():
        correct(setting)
    assert setting.wiring.model.SerializeToString() == before
