import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgecv_export import quantize
from edgecv_export.quantize import QuantizeConfig
from edgecv_export.trial import Floats
from edgecv_runtime import Bundle, verify
from edgecv_runtime import bundle as bundles
from edgecv_runtime.errors import BadInput, BundleError, ComputationError
from edgecv_runtime.manifest import TensorSpec

SMALL = QuantizeConfig(images=100, check_images=50, placements=("all", "layers"), ranges=("min-max",), islands=False)


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
    assert variant.calibration.images == 100
    onnx.checker.check_model(model, full_check=True)
    assert variant.calibration.placement == done.chosen.plan.placement
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
    assert {each.placement for each in done.candidates} <= {"all", "layers"}  # one that is far slower is only timed
    for each in done.candidates:
        assert set(each.p50_ms) == set(done.float_ms) == {"onnxruntime", "openvino"}
        assert each.agreement.share.count == 50
        assert each.agreement.share.value > 0.9


@pytest.mark.parametrize(("dialect", "islands"), [("int8-s8s8", "float32"), ("int8-s8s8-fp16", "fp16")])
def test_the_dialect_that_is_asked_for_is_the_one_that_is_searched(dialect, islands, bundle_copy, digits):
    """Oracle: the file in the bundle. Its agreement, on the backend that measured it, is that of the chosen trial."""
    config = msgspec.structs.replace(SMALL, placements=("layers",), dialects=(dialect,))
    done = quantize.quantize(bundle_copy, digits[0][:100], config, check=digits[0][100:150])
    with Bundle(bundle_copy) as opened:
        assert [each.name for each in opened.manifest.variants] == ["float32", dialect]
        assert opened.manifest.variant(dialect).islands == islands
        assert opened.variant_file(dialect).stat().st_size == done.chosen.size_bytes
        with verify.float_reference(opened) as expected:
            found = verify.verify(opened, digits[0][100:150], expected, only=lambda each: each.variant == dialect)
    name = min(done.chosen.p50_ms, key=lambda each: done.chosen.p50_ms[each])
    (kl,) = (each.entry.agreement.divergence for each in found if each.entry.backend == name)
    assert kl == pytest.approx(done.chosen.agreements[name].divergence, rel=1e-3)


def test_only_what_is_float32_in_the_file_runs_in_bf16_where_that_is_faster(bundle_copy, digits, monkeypatch):
    monkeypatch.setattr("edgecv_export.trial.Laboratory.islands", lambda *_: "bf16")
    dialects = ("int8-u8s8", "int8-s8s8-fp16", "int8-s8s8", "fp16")
    quantize.quantize(bundle_copy, digits[0][:150], msgspec.structs.replace(SMALL, dialects=dialects))
    with Bundle(bundle_copy) as opened:
        found = {each.name: each.islands for each in opened.manifest.variants}
    assert found == {
        "float32": "float32",
        "int8-u8s8": "bf16",
        "int8-s8s8-fp16": "fp16",
        "int8-s8s8": "bf16",
        "fp16": "float32",
    }


# Bad input: one line, and the bundle as it was


def test_a_search_for_no_int8_is_refused(bundle_copy, digits):
    config = msgspec.structs.replace(SMALL, dialects=("fp16",))
    with pytest.raises(BadInput, match=r"dialects are fp16: no int8 to search for; convert\(path\) adds fp16"):
        quantize.quantize(bundle_copy, digits[0][:150], config)


@pytest.mark.parametrize("dialects", [("fp16",), ("int8-u8s8", "fp16"), ("int8-s8s8-fp16",)])
def test_what_half_precision_cannot_hold_leaves_the_bundle_as_it_was(bundle_copy, digits, dialects):
    from edgecv_export.wiring import Wiring
    from edgecv_runtime import bundle as bundles

    wiring = Wiring(onnx.load(bundle_copy / "model.onnx"))
    layer = wiring.layers()[0]
    wiring.set_bias(layer, wiring.bias(layer) + 1e5)
    with Bundle(bundle_copy) as opened:
        bundles.update(opened, content={"model.onnx": wiring.model.SerializeToString()})
    before, said = (bundle_copy / "bundle.json").read_bytes(), []
    with pytest.raises(ComputationError, match=r"constant '.+' reaches .*, half precision ends at 65504"):
        if dialects == ("fp16",):
            quantize.convert(bundle_copy)
        else:
            config = msgspec.structs.replace(SMALL, dialects=dialects)
            quantize.quantize(bundle_copy, digits[0][:150], config, said.append)
    assert not any(line.startswith("try ") for line in said) or "fp16" not in dialects  # before the search
    assert (bundle_copy / "bundle.json").read_bytes() == before
    assert not (bundle_copy / "model.fp16.onnx").exists()


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": TensorSpec("image", "float32", ("batch", 32, 32, 3))}, r"'image', float32 \(batch, 32, 32, 3\)"),
        ({"input": TensorSpec("image", "uint8", (1, 32, 32, 3))}, r"'image', uint8 \(1, 32, 32, 3\)"),
    ],
)
def test_a_bundle_that_edgecv_did_not_export_is_refused_at_once(bundle_copy, digits, changes, said):
    from edgecv_runtime import bundle as bundles

    with Bundle(bundle_copy) as opened:
        bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, **changes))
    progress = []
    with pytest.raises(
        BadInput, match=f"wants one input 'image', uint8 with a free batch, as 'edgecv export' .* has .*{said}"
    ):
        quantize.quantize(bundle_copy, digits[0][:64], SMALL, progress.append)
    assert progress == []


def test_a_bundle_without_golden_inputs_is_refused_at_once(bundle_copy, digits, tmp_path):
    from edgecv_runtime import bundle as bundles

    with Bundle(bundle_copy) as opened:
        manifest = msgspec.structs.replace(opened.manifest, files={})
        bundles.write(tmp_path / "bare", manifest, {"model.onnx": opened.variant_file("float32")})
    progress = []
    with pytest.raises(BundleError, match="has no golden inputs; write it with 'edgecv export'"):
        quantize.quantize(tmp_path / "bare", digits[0][:64], SMALL, progress.append)
    assert progress == []


def test_trials_of_another_head_are_not_taken_from_the_book(bundle_copy, digits, monkeypatch):
    class Stop(Exception):
        pass

    keys = []

    def search(workshop, laboratory, book, *_):
        keys.append(book.key("a plan"))
        raise Stop

    monkeypatch.setattr(
        quantize, "Laboratory", lambda *_: SimpleNamespace(floats=Floats({}, {}, {}), close=lambda: None)
    )
    monkeypatch.setattr(quantize, "Search", search)
    for head in ({}, {}, {"scores": "sigmoid-logits"}, {"thresholds": (0.5,)}):
        with Bundle(bundle_copy) as opened:
            manifest = opened.manifest
            changed = msgspec.structs.replace(manifest, head=msgspec.structs.replace(manifest.head, **head))
            bundles.update(opened, manifest=changed)
        with pytest.raises(Stop):
            quantize.quantize(bundle_copy, digits[0][:100], SMALL)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_unknown_placements_are_refused():
    with pytest.raises(ValueError, match="placements are of all, layers, convolutions"):
        QuantizeConfig(placements=("everything",))


def test_nodes_that_shall_stay_in_float_do_whatever_they_cost(bundle_copy, digits):
    with Bundle(bundle_copy) as opened:
        first, *_ = (
            node.name for node in onnx.load(opened.variant_file("float32")).graph.node if node.op_type == "Conv"
        )
    config = msgspec.structs.replace(SMALL, placements=("layers",), keep_float=(first,))
    done = quantize.quantize(bundle_copy, digits[0][:150], config)
    assert all(first in each.plan.islands for each in done.candidates)
    with Bundle(bundle_copy) as opened:
        nodes = {node.name: node for node in onnx.load(opened.variant_file("int8-u8s8")).graph.node}
        assert first in opened.manifest.variant("int8-u8s8").calibration.islands
    assert nodes[first].input[1] not in nodes  # the float weights themselves, not what dequantizes them
    with pytest.raises(BadInput, match=f"the graph has no node '{first}x' to keep in float; did you mean"):
        quantize.quantize(bundle_copy, digits[0][:150], msgspec.structs.replace(config, keep_float=(f"{first}x",)))


def test_labels_and_views_are_of_the_check_images(bundle_copy, digits):
    images = digits[0][:32]
    for given, said in (
        ({"labels": np.arange(32) % 10}, "labels and views are of the check images"),
        ({"views": []}, "labels and views are of the check images"),
        ({"check": images, "labels": np.arange(31) % 10}, "32 frames, 31 labels"),
        ({"check": images, "views": []}, "32 frames, 0 views"),
    ):
        with pytest.raises(BadInput, match=said):
            quantize.quantize(bundle_copy, images, **given)
