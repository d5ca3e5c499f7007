"""`edgecv build` for tasks whose results lie in places of the frame: every step, a bundle that runs, a page."""

from __future__ import annotations

import json
import re
import shutil

import cv2
import msgspec
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import edgecv_runtime as rt
from edgecv import recipe
from edgecv.build import build
from edgecv.cli.app import app
from edgecv.data import load
from edgecv.run import drawn, folder
from edgecv.steps import UNFITTED
from edgecv_runtime import bundle as bundles
from edgecv_runtime.errors import BadInput
from edgecv_runtime.target import targets
from edgecv_runtime.tasks.segmentation import Segmentation
from edgecv_runtime.verify import chosen, fit_thresholds, float_logits, verify, wants_thresholds

QUICK = ["train.epochs=1", "quantize.budget_s=4", "quantize.images=16", "quantize.check_images=16", "verify.frames=24"]
QUICK += ["bench.seconds=0.05", "bench.rounds=1", "quantize.placements=[layers]", "quantize.ranges=[min-max]"]
QUICK += ["quantize.passes=[bias]", "quantize.islands=false"]


def _is_plain(target):
    return (target.variant, target.backend, target.hint) == ("float32", "onnxruntime", "float32")


@pytest.fixture(scope="module")
def ink(tmp_path_factory, pytestconfig):
    """A run of the recipe `ink`, short."""
    asked = recipe.read(pytestconfig.rootpath / "recipes" / "ink.yaml", QUICK)
    return build(asked, tmp_path_factory.mktemp("ink") / "run", progress=False)


def test_a_segmenter_goes_from_masks_to_a_bundle(ink):
    assert ink.ran == ("train", "export", "quantize", "verify", "bench", "report")
    with rt.Bundle(ink.bundle) as opened:
        assert opened.manifest.task == "segmentation"
        assert [(each.name, each.dtype) for each in opened.manifest.outputs] == [("mask", "uint8")]
        entries = opened.evidence().entries
    assert {each.variant for each in entries} >= {"float32", "int8-u8s8"}
    for each in entries:
        assert each.score.metric == each.agreement.metric == "mIoU"
        assert each.finding is None
        if (each.variant, each.hint) == ("float32", "float32"):
            assert each.agreement.share.value > 0.999
            assert each.score.value == pytest.approx(each.score.reference, abs=1e-3)
        assert each.score.low < each.score.value < each.score.high  # over frames, none of which is all right


def test_the_logits_behind_its_classes_are_compared(ink):
    """A class that changed is one that could; by how much tells before one does. Oracle: what rounding may do."""
    with rt.Bundle(ink.bundle) as opened:
        entries = opened.evidence().entries
        golden = verify(opened, only=lambda target: target.variant == "float32")
    behind = {each.target: each.agreement.behind for each in entries}
    plain = [each for (variant, _, hint), each in behind.items() if (variant, hint) == ("float32", "float32")]
    assert all(each.count == 16 and each.max_abs < 1e-3 * each.largest for each in plain)
    int8 = [each.divergence for (variant, *_), each in behind.items() if variant == "int8-u8s8"]
    assert min(int8) > 10 * max(each.divergence for each in plain)
    assert all(each.entry.agreement.behind is None for each in golden)  # which hold classes alone


def test_logits_that_are_large_are_compared_of_fewer_frames(ink, monkeypatch):
    monkeypatch.setattr(chosen, "BYTES", 3 * 2 * 64 * 64 * 4)
    with rt.Bundle(ink.bundle) as opened:
        golden = opened.golden()
        asked = {"logits": float_logits(opened), "only": _is_plain}
        (found,) = verify(opened, golden.images, golden.outputs, **asked)
    assert found.entry.agreement.behind.count == 3


def test_nan_behind_a_class_is_found(ink, tmp_path):
    """An argmax makes a class of NaN like any other."""
    shutil.copytree(ink.bundle, tmp_path / "bundle")
    with rt.Bundle(tmp_path / "bundle") as opened:
        model = onnx.load(opened.variant_file("float32"))
        name = next(node.input[0] for node in model.graph.node if node.op_type == "ArgMax")
        last = next(node for node in model.graph.node if name in node.output)
        bias = next(each for each in model.graph.initializer if each.name == last.input[-1])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.float32([np.nan, 0]), bias.name))
        bundles.update(opened, content={"model.onnx": model.SerializeToString()})
    with rt.Bundle(ink.bundle) as whole, rt.Bundle(tmp_path / "bundle") as opened:
        golden = whole.golden()
        (found,) = verify(
            opened,
            golden.images,
            golden.outputs,
            logits=float_logits(whole),
            only=_is_plain,
        )
    assert "hold NaN or infinite values" in found.entry.failed
    assert found.entry.agreement is None


def test_its_masks_are_those_of_the_network_and_lie_in_the_frames_own_pixels(ink):
    """Oracle: the file run directly, and OpenCV's nearest pixels."""
    dataset = load(recipe.read(ink.folder / "recipe.yaml").data)
    frame = cv2.resize(dataset.val[0], (128, 64))
    with rt.load(ink.bundle, precision="float32", backend="onnxruntime") as model:
        found = model(frame)
        raw = model.run({"image": model.preprocess(frame)[None]})["mask"][0]
    assert isinstance(found, Segmentation)
    assert found.mask.shape == (64, 128)
    assert (found.mask == np.repeat(raw, 2, axis=1)).all()


def test_the_golden_inputs_prove_it_again(ink):
    with rt.Bundle(ink.bundle) as opened:
        for each in verify(opened, only=lambda target: (target.variant, target.hint) == ("float32", "float32")):
            assert each.entry.agreement.share.value == 1
    rt.load(ink.bundle, precision="float32", self_test=True).close()


def test_its_report_shows_frames_beside_their_truth(ink):
    shown = folder.read(ink.folder).drawn
    assert {each.source for each in shown.told} >= {drawn.PYTORCH, "float32 on onnxruntime"}
    assert set(shown.told[0].by_class) == {"background", "ink"}
    for one in (*shown.worst, *shown.best):
        assert [pane.source for pane in one.panes[:2]] == ["true", drawn.PYTORCH]
        assert all(cv2.imdecode(np.frombuffer(pane.jpeg, np.uint8), 1) is not None for pane in one.panes)
    scores = [[one.panes[-1].score for one in some] for some in (shown.worst, shown.best)]
    assert max(scores[0]) <= min(scores[1])
    val = load(recipe.read(ink.folder / "recipe.yaml").data).val.take(shown.count)
    known = np.concatenate([np.asarray(val.truths[index]).ravel() for index in range(shown.looked_at)])
    assert np.sum(shown.confused.counts, axis=1).tolist() == np.bincount(known, minlength=2)[:2].tolist()
    page = ink.report.read_text()
    assert "percent of a row" in page
    assert "The frames on which it does worst" in page
    assert "mIoU" in page


def test_predict_keeps_masks_and_stream_draws_them(ink, photos, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), photos[0])
    given = [str(ink.bundle), str(tmp_path / "photo.png"), "--save", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, ["predict", *given])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    assert {each["label"] for each in result["classes"]} <= {"background", "ink"}
    mask = cv2.imread(str(tmp_path / "out" / "photo.png.mask.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == photos[0].shape[:2]
    assert set(np.unique(mask)) <= {0, 1}
    assert (tmp_path / "out" / "photo.png.jpg").is_file()
    done = CliRunner().invoke(
        app, ["stream", str(ink.bundle), "fake:size=160x120,5", "--sink", str(tmp_path / "out.mp4"), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["sinks"][0]["delivered"] == 5


def test_a_model_for_another_task_than_the_data_is_refused_before_anything_is_written(pytestconfig, tmp_path):
    asked = recipe.read(pytestconfig.rootpath / "recipes" / "ink.yaml", ["model.name=mobilenet_v3_small"])
    with pytest.raises(BadInput, match="mobilenet_v3_small is a model for classification, and data source 'ink'"):
        build(asked, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def boxes(tmp_path_factory, pytestconfig):
    """A run of the recipe `digit-boxes`, short and small: it learns little, and a search would take minutes."""
    small = ["model.weights=null", "model.name=det_mobilenet_v2", "preprocess.size=[96, 128]", "train.epochs=1"]
    small += ["train.batch=32", "train.bn_images=32", "verify.frames=8", "quantize.dialects=[fp16]"]
    asked = recipe.read(pytestconfig.rootpath / "recipes" / "digit-boxes.yaml", [*QUICK, *small])
    return build(asked, tmp_path_factory.mktemp("boxes") / "run", progress=False)


def test_a_detector_goes_from_boxes_to_a_bundle_with_thresholds_of_each_variant(boxes):
    with rt.Bundle(boxes.bundle) as opened:
        assert [each.name for each in opened.manifest.outputs] == ["boxes", "scores"]
        for variant in opened.manifest.variants:
            assert len(variant.thresholds) == len(opened.manifest.labels) == 10
        entries = opened.evidence().entries
    assert {each.variant for each in entries} == {"float32", "fp16"}
    for each in entries:
        assert (each.score.metric, each.agreement.metric) == ("AP50-95", "matched boxes")
        if (each.variant, each.hint) == ("float32", "float32"):
            assert each.agreement.share.value > 0.995
            assert each.finding is None
    rt.load(boxes.bundle, precision="float32", self_test=True).close()
    assert "AP50" in boxes.report.read_text()


def test_the_report_shows_the_boxes_that_load_shows(boxes):
    """From the fitted thresholds on, which the head's own are not."""
    shown = folder.read(boxes.folder).drawn
    val = load(recipe.read(boxes.folder / "recipe.yaml").data).val.take(shown.count)
    assert shown.worst
    with rt.load(boxes.bundle, precision="float32", backend="onnxruntime") as model:
        for one in shown.worst:
            pane = one.panes[-1]
            assert pane.source == "float32 on onnxruntime"
            found = model(val[val.names.index(one.name)])
            said, _, errors = pane.said.partition("; ")
            assert said == str(found)
            missed, extra = map(int, re.match(r"(\d+) missed, (\d+) extra", errors).groups())
            assert len(found) - extra == len(val.truths[val.names.index(one.name)]) - missed
    confused = np.array(shown.confused.counts)
    truths = np.concatenate([val.truths[index].class_id for index in range(shown.looked_at)])
    assert confused[:-1].sum(axis=1).tolist() == np.bincount(truths, minlength=10).tolist()
    assert "the last row boxes where nothing belongs" in boxes.report.read_text()


def test_quantized_again_a_variant_gets_thresholds_of_its_own(boxes, tmp_path):
    """What `quantize` writes anew has none; verifying again fits them, and until then those of float32 stand."""
    path = tmp_path / "bundle"
    shutil.copytree(boxes.bundle, path)
    with rt.Bundle(path) as opened:
        variants = [
            each if each.name == "float32" else msgspec.structs.replace(each, thresholds=())
            for each in opened.manifest.variants
        ]
        known = opened.manifest.variant("float32").thresholds
        bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, variants=tuple(variants)))
    opened = rt.Bundle(path)
    target = next(each for each in targets(opened, "onnxruntime") if each.variant == "fp16")
    with rt.loading.of_target(opened, target) as model:
        assert model._decoder.thresholds == known
    val = load(recipe.read(boxes.folder / "recipe.yaml").data).val.take(8)
    with rt.Bundle(path) as opened:
        assert wants_thresholds(opened)
        preprocess = opened.manifest.preprocess
        views = [preprocess.view(frame.shape[:2]) for frame in val]
        fit_thresholds(opened, preprocess.batch(list(val)), val.truths, views)
    with rt.Bundle(path) as opened:
        assert not wants_thresholds(opened)
        assert all(len(each.thresholds) == 10 for each in opened.manifest.variants)


def test_a_variant_whose_thresholds_cannot_be_fitted_is_not_verified_at_each_build(boxes, tmp_path):
    """As one that does not run on this machine's first backend."""
    path = tmp_path / "run"
    shutil.copytree(boxes.folder, path)
    with rt.Bundle(path / "bundle") as opened:
        variants = [msgspec.structs.replace(each, thresholds=()) for each in opened.manifest.variants]
        bundles.update(opened, manifest=msgspec.structs.replace(opened.manifest, variants=tuple(variants)))
    journal = path / "state.json"
    state = json.loads(journal.read_text())
    state["steps"]["verify"]["outputs"] = {"float32": UNFITTED, "fp16": UNFITTED}
    journal.write_text(json.dumps(state))
    again = build(recipe.read(path / "recipe.yaml"), path, until="verify", progress=False)
    assert "verify" in again.skipped
    state["steps"]["verify"]["outputs"] = {"float32": UNFITTED}  # fp16 was written since
    journal.write_text(json.dumps(state))
    again = build(recipe.read(path / "recipe.yaml"), path, until="verify", progress=False)
    assert again.ran == ("verify",)


def test_what_is_asked_for_counts_in_the_place_of_what_was_fitted(boxes, ink):
    frame = load(recipe.read(boxes.folder / "recipe.yaml").data).val[0]
    counts = []
    for confidence in (0.001, 0.5, 0.999):
        with rt.load(boxes.bundle, precision="float32", backend="onnxruntime", confidence=confidence) as model:
            found = model(frame)
            assert (found.confidence >= confidence).all()
            counts.append(len(found))
    assert counts[0] > counts[-1] == 0
    with pytest.raises(BadInput, match="segmentation has no thresholds"):
        rt.load(ink.bundle, confidence=0.5)
    with pytest.raises(BadInput, match="thresholds of scores lie in 0..1, got 7"):
        rt.load(boxes.bundle, confidence=7)


def test_its_boxes_lie_in_the_frames_own_pixels(boxes):
    """Oracle: the outputs of the file, moved by hand from the letterbox to the frame."""
    frame = load(recipe.read(boxes.folder / "recipe.yaml").data).val[0]
    with rt.load(boxes.bundle, precision="float32", backend="onnxruntime") as model:
        found = model(frame)
        raw = model.run({"image": model.preprocess(frame)[None]})
    height, width = frame.shape[:2]
    assert (found.xyxy >= 0).all()
    assert (found.xyxy <= [width, height, width, height]).all()
    scale = min(96 / height, 128 / width)
    moved = (raw["boxes"][0] - [(128 - scale * width) / 2, (96 - scale * height) / 2] * 2) / scale
    moved = np.clip(moved, 0, [width, height, width, height])
    for box in found.xyxy:
        assert np.abs(moved - box).max(axis=1).min() < 0.6  # of whole pixels of the letterbox
