import shutil

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from edgecv_export import calibrate, quantize
from edgecv_export.quantize import QuantizeConfig
from edgecv_runtime import Bundle
from edgecv_runtime.errors import BadInput, ComputationError
from tests.export.test_export import damaged

SMALL = QuantizeConfig(images=100, check_images=50, placements=("all", "layers"), ranges=("min-max",))


# Calibration


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=200), st.integers(1, 7))
@settings(deadline=None)
def test_streamed_statistics_equal_a_two_pass_oracle(values, pieces):
    array = np.array(values, np.float32).reshape(1, 1, -1)
    seen = calibrate.Statistics()
    for part in np.array_split(array, min(pieces, array.size), axis=2):
        seen.add(part)
    assert seen.range("min-max") == (array.min(), array.max())
    assert seen.counts.sum() == (array.size if array.any() else 0)
    low, high = seen.range("percentile")
    bin_width = 2 * seen.width / calibrate.BINS
    assert array.min() <= low <= high <= array.max()
    assert low <= np.quantile(array, 5e-5) + bin_width
    assert high >= np.quantile(array, 1 - 5e-5, method="lower") - bin_width


def test_percentile_ranges_equal_numpys_within_a_bin():
    values = np.random.default_rng(0).normal(size=(20, 4, 50_0)).astype(np.float32)
    values[0, 0, 0] = 1000.0  # one outlier
    seen = calibrate.Statistics()
    for image in values:
        seen.add(image[None])
    low, high = seen.range("percentile")
    bin_width = 2 * seen.width / calibrate.BINS
    assert abs(low - np.quantile(values, 5e-5)) <= bin_width
    assert abs(high - np.quantile(values, 1 - 5e-5)) <= bin_width
    assert seen.high == 1000.0


def test_a_histogram_that_widens_keeps_every_count_in_its_place():
    seen = calibrate.Statistics()
    seen.add(np.linspace(-1, 1, 1000, dtype=np.float32).reshape(1, 1, -1))
    seen.add(np.full((1, 1, 10), 7.9, np.float32))
    assert seen.width == 8.0
    whole = np.concatenate([np.linspace(-1, 1, 1000), np.full(10, 7.9)]).astype(np.float32)
    wanted = np.histogram(whole, calibrate.BINS, (-8, 8))[0]
    assert seen.counts.sum() == wanted.sum()
    assert np.abs(np.cumsum(seen.counts) - np.cumsum(wanted)).max() <= 4  # a value on an edge may fall to either side


def test_channel_means_are_the_means():
    values = np.random.default_rng(0).normal(size=(6, 3, 5, 4)).astype(np.float32)
    seen = calibrate.Statistics()
    for batch in (values[:4], values[4:]):
        seen.add(batch)
    assert np.abs(seen.channel_means - values.mean((0, 2, 3))).max() < 1e-6


def test_calibration_memory_does_not_grow_with_the_images(exported, digits):
    """Python's and numpy's own allocations, after 100 and after 1,000 images."""
    import tracemalloc

    model = onnx.load(exported / "model.onnx")
    frames = digits[0]
    held = {}
    for count in (100, 1000):
        tracemalloc.start()
        statistics = calibrate.calibrate(model, (frames[at : at + 4] for at in range(0, count, 4)))
        held[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(statistics) > 10
    assert held[1000] < 1.05 * held[100]


def test_calibration_names_the_node_that_gives_nan(exported, digits):
    def change(values):
        values[0] = np.nan

    model = damaged(exported / "model.onnx", "depthwise", change)
    with pytest.raises(ComputationError, match=r"calibration: node '.*depthwise.*Conv' gives NaN"):
        calibrate.calibrate(model, [digits[0][:4]])


# Bias correction


def test_bias_correction_takes_back_the_mean_shift(exported, digits):
    """Oracle: brute force. The mean output of a layer with rounded weights, with and without the correction."""
    import onnxruntime

    model = onnx.load(exported / "model.onnx")
    frames = digits[0][:64]
    statistics = calibrate.calibrate(model, [frames])
    corrected = quantize.correct_biases(model, statistics)
    node = next(each for each in model.graph.node if each.op_type == "Conv" and "point" in each.name)
    wanted = statistics[node.output[0]].channel_means

    def mean_output(graph):
        graph = onnx.ModelProto.FromString(graph.SerializeToString())
        weights = next(each for each in graph.graph.initializer if each.name == node.input[1])
        rounded = quantize._rounded(numpy_helper.to_array(weights))
        weights.CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), weights.name))
        bias = next(each for each in model.graph.initializer if each.name == node.input[2])
        for other in graph.graph.initializer:  # the layer's own bias only: its input stays that of the float model
            original = next(each for each in model.graph.initializer if each.name == other.name)
            if other.name not in (node.input[1], bias.name):
                other.CopyFrom(original)
        graph.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None))
        (found,) = onnxruntime.InferenceSession(graph.SerializeToString()).run([node.output[0]], {"image": frames})
        return found.mean((0, 2, 3))

    before = np.abs(mean_output(model) - wanted).max()
    after = np.abs(mean_output(corrected) - wanted).max()
    assert after < before / 50


# The variant


@pytest.fixture(scope="module")
def quantized(exported, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantized") / "bundle"
    shutil.copytree(exported, path)
    return path, quantize.quantize(path, digits[0][:150], SMALL)


def test_the_variant_is_int8_on_both_sides_of_every_layer(quantized):
    path, done = quantized
    with Bundle(path) as opened:
        variant = opened.manifest.variant("int8-u8s8")
        model = onnx.load(opened.variant_file("int8-u8s8"))
    assert variant.precision == "int8"
    assert variant.backends == ()  # offered nowhere before it is judged
    assert variant.calibration.images == 100
    onnx.checker.check_model(model, full_check=True)
    kinds = {each.name: each.data_type for each in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear", "DequantizeLinear"]
        weights = makers[node.input[1]].input
        assert kinds[weights[0]] == onnx.TensorProto.INT8
        scales = next(each for each in model.graph.initializer if each.name == weights[1])
        assert scales.dims[0] == len(
            numpy_helper.to_array(next(each for each in model.graph.initializer if each.name == weights[0]))
        )  # one scale per output channel
    assert {prop.key: prop.value for prop in model.metadata_props}["edgecv.name"] == "tiny"
    assert done.chosen in done.candidates


def test_every_candidate_was_measured_on_every_backend(quantized):
    _, done = quantized
    assert len(done.candidates) == 2
    for each in done.candidates:
        assert set(each.p50_ms) == set(done.float_ms) == {"onnxruntime", "openvino"}
        assert each.agreement.top1.count == 50
        assert each.agreement.top1.value > 0.9


def candidate(name, distance, ms):
    """A candidate whose logits are that far from the float ones: KL grows with the square of the distance."""
    from edgecv_runtime import verify

    logits = np.random.default_rng(0).normal(size=(200, 10)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    found = verify.agreement(logits, logits + np.float32(distance) * noise, "x")
    return quantize.Candidate(name, "min-max", b"", found, {"a": ms, "b": ms})


def test_the_fastest_of_those_that_stay_as_close_is_chosen():
    close, as_close, far = candidate("close", 0.5, 9), candidate("as close", 0.51, 5), candidate("far", 0.8, 1)
    assert far.agreement.kl > 1.1 * close.agreement.kl > as_close.agreement.kl > close.agreement.kl > 1e-3
    assert quantize.choose([close, as_close, far]).placement == "as close"
    assert quantize.choose([close, far]).placement == "close"


def test_below_a_thousandth_of_a_nat_only_speed_counts():
    exact, near = candidate("exact", 0.001, 9), candidate("near", 0.02, 5)
    assert near.agreement.kl > 100 * exact.agreement.kl
    assert quantize.choose([exact, near]).placement == "near"


# Bad input: one line, and the bundle as it was


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda frames: frames[:10], "quantization wants at least 32 real images, got 10"),
        (lambda frames: np.random.default_rng(0).integers(0, 256, frames[:64].shape, np.uint8), "look like noise"),
        (lambda frames: np.zeros_like(frames[:64]), "are all the same"),
        (lambda frames: np.repeat(frames[:1], 64, axis=0), "are all the same"),
    ],
)
def test_images_that_calibrate_nothing_are_refused(bundle_copy, digits, make, said):
    before = (bundle_copy / "bundle.json").read_bytes()
    with pytest.raises(BadInput, match=said):
        quantize.quantize(bundle_copy, make(digits[0]), SMALL)
    assert (bundle_copy / "bundle.json").read_bytes() == before


def test_a_quantized_float_file_is_refused(quantized, tmp_path):
    from edgecv_runtime import bundle as bundles

    path = tmp_path / "bundle"
    shutil.copytree(quantized[0], path)
    with Bundle(path) as opened:
        bundles.update(opened, content={"model.onnx": opened.variant_file("int8-u8s8").read_bytes()})
    with pytest.raises(BadInput, match="is already quantized"), Bundle(path) as opened:
        quantize.quantize(path, np.repeat(opened.golden().images, 8, axis=0), SMALL)


def test_unknown_placements_are_refused():
    with pytest.raises(ValueError, match="placements are of all, layers, convolutions"):
        QuantizeConfig(placements=("everything",))
