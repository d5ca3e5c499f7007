"""Graphs as other exporters write them: every way to quantize them computes what the float graph computes."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecv_export.calibrate import sample
from edgecv_export.dialects import DIALECTS
from edgecv_export.passes import FLOAT_PASSES
from edgecv_export.plan import Plan, Workshop
from edgecv_export.wiring import Wiring
from edgecv_runtime import backends
from edgecv_runtime.backends import Options
from tests.export.test_passes import run

PIXELS = """
    cast = Cast<to=1>(image)
    planes = Transpose<perm=[0, 3, 1, 2]>(cast)
    scaled = Mul(planes, step)
    x = Add(scaled, shift)
    first = Conv<strides=[2, 2]>(x, stem)
"""
MEAN = "mean = GlobalAveragePool(last) \n flat = Flatten(mean) \n"
HEAD = "logits = Gemm<transB=1>(flat, head)"


def normal(*shape):
    """Weights that keep the scale of what they meet; channels 100x apart, so that equalization has something to do."""
    random = np.random.default_rng(shape)
    values = random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
    return (values * np.logspace(-1, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))).astype(np.float32)


def graph(text, opset=17, **constants):
    """A model from the text of its nodes behind `first`, (N, 8, 15, 15) with ReLU behind it, and its constants."""
    given = {
        "step": np.full((1, 3, 1, 1), 1 / 64, np.float32),
        "shift": np.full((1, 3, 1, 1), -2, np.float32),
        "stem": normal(8, 3, 3, 3),
        "head": normal(10, 8),
        **constants,
    }
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": {opset}]>
        odd (uint8[N, 32, 32, 3] image) => (float[N, 10] logits) {{ {PIXELS} {text} }}"""
    )
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(each, name) for name, each in given.items() if name in read)
    onnx.checker.check_model(model, full_check=True)
    return model


SHAPES = {
    "one tensor is the weights of two convolutions": graph(
        "a = Relu(first) \n b = Conv(a, same, bias) \n c = Relu(b) \n last = Conv(c, same, bias)" + MEAN + HEAD,
        same=normal(8, 8, 3, 3),
        bias=normal(8, 1)[:, 0],
    ),
    "one tensor is the weights of a Gemm and, transposed, of another": graph(
        "last = Relu(first)"
        + MEAN
        + """code = Gemm<transB=1>(flat, head, wide) \n relu = Relu(code) \n back = Gemm(relu, head, narrow)
             positive = Relu(back) \n logits = Gemm<transB=1>(positive, head, wide)""",
        wide=normal(10, 1)[:, 0],
        narrow=normal(8, 1)[:, 0],
    ),
    "a Gemm with factors of its own": graph(
        "last = Relu(first)"
        + MEAN
        + """y = Gemm<alpha=2.0, beta=3.0>(flat, plain, bias)
             logits = BatchNormalization(y, gamma, bias, bias, variance)""",
        plain=normal(8, 10),
        bias=normal(10, 1)[:, 0],
        gamma=np.linspace(0.5, 2, 10, dtype=np.float32),
        variance=np.linspace(0.1, 3, 10, dtype=np.float32),
    ),
    "a Gemm of a transposed input": graph(
        "last = Relu(first)" + MEAN + "turned = Transpose<perm=[1, 0]>(flat) \n logits = Gemm<transA=1>(turned, plain)",
        plain=normal(8, 10),
    ),
    "a Gemm whose bias has two dimensions": graph(
        "last = Relu(first)" + MEAN + "logits = Gemm<transB=1>(flat, head, bias)", bias=normal(1, 10)
    ),
    "a convolution whose bias is computed": graph(
        "a = Relu(first) \n twice = Add(bias, bias) \n b = Conv(a, wide, twice) \n c = Relu(b) \n last = Conv(c, wide)"
        + MEAN
        + HEAD,
        wide=normal(8, 8, 3, 3),
        bias=normal(8, 1)[:, 0],
    ),
    "padding by rule": graph(
        """a = Relu(first) \n b = Conv<auto_pad="SAME_UPPER", group=8, strides=[2, 2]>(a, depthwise)
           last = Relu(b)"""
        + MEAN
        + HEAD,
        depthwise=normal(8, 1, 3, 3),
    ),
    "convolutions over one dimension": graph(
        "a = Relu(first) \n rows = Reshape(a, shape) \n last = Conv(rows, wide)" + MEAN + HEAD,
        shape=np.array([0, 8, -1], np.int64),
        wide=normal(8, 8, 3),
    ),
    "clips without bounds": graph(
        """a = Clip(first) \n b = Conv<group=8>(a, depthwise) \n c = Clip(b, , six) \n d = Conv<group=8>(c, depthwise)
           last = Clip(d, zero)"""
        + MEAN
        + HEAD,
        depthwise=normal(8, 1, 3, 3),
        six=np.float32(6),
        zero=np.float32(0),
    ),
    "arithmetic on shapes": graph(
        """shape = Shape(first) \n n = Gather(shape, zero) \n c = Gather(shape, one) \n h = Gather(shape, two)
           pixels = Mul(h, h) \n values = Mul(c, pixels) \n flattened = Concat<axis=0>(n, values)
           flat = Reshape(first, flattened) \n logits = MatMul(flat, matrix)""",
        zero=np.array([0]),
        one=np.array([1]),
        two=np.array([2]),
        matrix=normal(8 * 15 * 15, 10),
    ),
    "a transposed convolution between others": graph(
        "a = Relu(first) \n b = Conv<group=2>(a, grouped) \n last = ConvTranspose<strides=[2, 2]>(b, up)" + MEAN + HEAD,
        grouped=normal(8, 4, 3, 3),
        up=normal(8, 8, 2, 2),
    ),
    "opset 13": graph("last = Relu(first)" + MEAN + HEAD, opset=13),
    "opset 21": graph(
        "last = Relu(first) \n mean = ReduceMean(last, axes) \n flat = Flatten(mean) \n" + HEAD,
        opset=21,
        axes=np.array([2, 3]),
    ),
}


@pytest.fixture(scope="module")
def frames(digits):
    return digits[0][:32]


def error(content, model, frames):
    wanted = run(model, frames)
    return float(np.abs(run(content, frames) - wanted).mean() / wanted.std())


@pytest.mark.parametrize("what", SHAPES)
def test_float_passes_keep_what_any_graph_computes(what, frames):
    model = SHAPES[what]
    _, statistics = Workshop(model, sample(frames)).form(())
    for change in FLOAT_PASSES.values():
        changed = change(Wiring(model), statistics)
        assert changed is None or error(changed.model, model, frames) < 1e-4


@pytest.mark.parametrize("passes", [(), ("bias",), ("equalize", "bias")], ids="+".join)
@pytest.mark.parametrize("what", SHAPES)
def test_any_graph_is_quantized(what, passes, frames):
    """Oracle: the float graph, and every kernel of ONNX Runtime as it is written."""
    workshop = Workshop(SHAPES[what], sample(frames))
    for dialect in DIALECTS.values():
        assert error(workshop.make(Plan("all", passes=passes), dialect), SHAPES[what], frames) < 0.05


def test_layers_that_share_weights_stay_int8_when_each_is_scaled_by_itself(frames):
    model = SHAPES["one tensor is the weights of two convolutions"]
    content = Workshop(model, sample(frames)).make(Plan("all", passes=("equalize",)))
    nodes = onnx.ModelProto.FromString(content).graph.node
    makers = {output: node.op_type for node in nodes for output in node.output}
    weights = [node.input[1] for node in nodes if node.op_type in ("Conv", "Gemm")]
    assert [makers.get(name) for name in weights] == ["DequantizeLinear"] * 4


def nearly_dead():
    """Channels that training has given up: next to no weights, or none, and a bias that still counts."""
    weights = normal(8, 8, 3, 3)
    for channel, factor in ((1, 1e-12), (2, 1e-30), (3, 1e-44), (4, 0)):
        weights[channel] *= np.float32(factor)
    return graph(
        "a = Relu(first) \n b = Conv(a, dying, bias) \n last = Relu(b)" + MEAN + HEAD,
        dying=weights,
        bias=np.array([0.1, 0.7, 0.6, 0.5, 0.9, 0.3, -0.2, 0.1], np.float32),
    )


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_channel_with_next_to_no_weights_keeps_its_bias(name, backend, frames, tmp_path):
    """Its int32 bias, in steps of its weights', would need more than 32 bits; backends quantize a float one alike."""
    model, path = nearly_dead(), tmp_path / "model.onnx"
    path.write_bytes(Workshop(model, sample(frames)).make(Plan("all"), DIALECTS[name]))
    opened = backends.get(backend)(path, Options())
    (got,) = opened.run({"image": frames}).values()
    opened.close()
    wanted = run(model, frames)
    assert np.abs(got - wanted).mean() < 0.05 * wanted.std()
    steps = [numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer if each.name.endswith(":scale")]
    assert min(step.min() for step in steps) >= np.finfo(np.float32).tiny
