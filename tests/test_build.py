"""`edgecv build` end to end on real digits: what runs, what is skipped, what survives being killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

import edgecv_runtime as rt
from edgecv import recipe
from edgecv.build import build
from edgecv_runtime import machine
from edgecv_runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgecv_runtime.errors import BadInput
from edgecv_runtime.offers import offered

RECIPE = """
name: tiny-digits
data: {source: digits}
model: {name: mobilenet_v3_small}
preprocess: {size: [32, 32], mode: stretch, interpolation: linear}
train: {epochs: 2, batch: 128, lr: 0.003, warmup_epochs: 0.5, bn_images: 256}
quantize: {images: 32, check_images: 16, placements: [layers], ranges: [min-max]}
budget: {max_drop_points: 100}
verify: {frames: 64}
bench: {seconds: 0.02, rounds: 2}
"""
STEPS = ("train", "export", "quantize", "verify", "bench", "report")


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def built(recipe_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return build(recipe.read(recipe_file), folder, progress=False)


@pytest.fixture
def copied(built, tmp_path):
    """A finished run folder that a test may change."""
    return Path(shutil.copytree(built.folder, tmp_path / "run"))


def test_every_step_ran_and_left_what_it_promises(built):
    assert built.ran == STEPS
    assert built.report.read_text().startswith("<!DOCTYPE html>")
    assert set(built.seconds) == set(STEPS)
    with rt.Bundle(built.bundle) as opened:
        assert [variant.name for variant in opened.manifest.variants] == ["float32", "int8-u8s8"]
        offers = offered(opened.manifest, opened.evidence(), machine.this())
        assert offers.backends("float32") == ("onnxruntime", "openvino")
        for entry in opened.evidence().entries:
            assert entry.agreement.reference == "PyTorch float32"
            assert entry.score.count == 64
            assert entry.latency.runs > 0


def test_the_bundle_runs_on_a_real_digit(built):
    from edgecv.data import DataConfig, load

    val = load(DataConfig(source="digits")).val
    with rt.load(built.bundle) as model:
        assert model.labels == tuple("0123456789")
        assert model(val[0]).label in model.labels


def test_what_has_not_changed_is_skipped(built, recipe_file):
    again = build(recipe.read(recipe_file), built.folder, progress=False)
    assert again.ran == ()
    assert again.skipped == STEPS


def test_a_change_goes_as_far_down_as_it_matters(copied, recipe_file):
    again = build(recipe.read(recipe_file, ["bench.rounds=3"]), copied, progress=False)
    assert again.ran == ("bench", "report")
    again = build(recipe.read(recipe_file, ["bench.rounds=3", "quantize.images=40"]), copied, progress=False)
    assert again.ran[0] == "quantize"
    assert "train" in again.skipped


def test_another_version_of_a_backend_is_verified_and_timed_anew(copied, recipe_file, monkeypatch):
    def probe():
        return {"onnxruntime": "99.1"}

    monkeypatch.setattr(OnnxRuntimeBackend, "probe", staticmethod(probe))
    again = build(recipe.read(recipe_file), copied, progress=False)
    assert again.ran == ("verify", "bench", "report")
    with rt.Bundle(again.bundle) as opened:
        found = [entry for entry in opened.evidence().entries if entry.backend == "onnxruntime"]
    assert found
    assert all(entry.versions == probe() and entry.agreement and entry.latency for entry in found)


def test_fp16_alone_is_converted_without_a_search(copied, recipe_file):
    again = build(recipe.read(recipe_file, ["quantize.dialects=[fp16]"]), copied, progress=False)
    assert again.ran == ("quantize", "verify", "bench", "report")
    assert not (copied / "bundle.quantize.json").exists()  # the search before was of something else
    with rt.Bundle(again.bundle) as opened:
        found = [entry for entry in opened.evidence().entries if entry.variant == "fp16"]
    assert {entry.backend for entry in found if entry.agreement and entry.latency} == {"onnxruntime", "openvino"}


def test_other_training_starts_over(copied, recipe_file):
    before = (copied / "train" / "weights.safetensors").read_bytes()
    again = build(recipe.read(recipe_file, ["train.seed=1"]), copied, until="train", progress=False)
    assert again.ran == ("train",)
    assert (copied / "train" / "weights.safetensors").read_bytes() != before


def test_a_damaged_bundle_is_made_again(copied, recipe_file):
    model = copied / "bundle" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-5])
    again = build(recipe.read(recipe_file), copied, progress=False)
    assert again.ran == STEPS[1:]
    rt.Bundle(copied / "bundle").close()


def test_a_damaged_state_runs_all_steps_again_and_goes_on_from_the_weights(copied, recipe_file):
    (copied / "state.json").write_text("{")
    again = build(recipe.read(recipe_file), copied, until="export", progress=False)
    assert again.ran == ("train", "export")


def test_two_builds_in_one_folder_are_refused(copied, recipe_file):
    import fcntl

    with (copied / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BadInput, match="another build is running there"):
            build(recipe.read(recipe_file), copied, progress=False)


def test_an_unknown_step_is_named(copied, recipe_file):
    with pytest.raises(BadInput, match="no step 'trian' in this recipe; it has: train, export"):
        build(recipe.read(recipe_file), copied, until="trian", progress=False)


def test_killed_at_any_moment_it_goes_on_to_the_same_end(recipe_file, tmp_path):
    """SIGKILL four times at random moments; the end has the same weights and graph as an unbroken build."""
    command = [sys.executable, "-m", "edgecv.cli", "--quiet", "build", str(recipe_file), "--runs"]

    def run(runs):
        return subprocess.Popen([*command, str(tmp_path / runs)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    unbroken = run("unbroken")
    assert unbroken.wait() == 0, unbroken.stderr.read()
    unbroken.stderr.close()
    for moment in np.random.default_rng(1).uniform(4, 14, 4):
        process = run("broken")
        time.sleep(moment)
        process.kill()
        process.wait()
        process.stderr.close()
    last = run("broken")
    assert last.wait() == 0, last.stderr.read()
    last.stderr.close()
    folders = [tmp_path / runs / "tiny-digits" for runs in ("broken", "unbroken")]
    weights = [(folder / "train" / "weights.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    with rt.Bundle(folders[0] / "bundle") as broken, rt.Bundle(folders[1] / "bundle") as whole:
        assert broken.manifest.files["model.onnx"] == whole.manifest.files["model.onnx"]
        ours, theirs = broken.golden(), whole.golden()  # it also holds hashes of the int8 files, which were timed
        assert np.array_equal(ours.images, theirs.images)
        assert np.array_equal(ours.logits, theirs.logits)
        assert ours.constants["model.onnx"] == theirs.constants["model.onnx"]
        assert all(each.agreement and each.latency for each in broken.evidence().entries)
        plain = {"files": {}, "variants": ()}  # variants hold what was timed
        assert msgspec.structs.replace(broken.manifest, **plain) == msgspec.structs.replace(whole.manifest, **plain)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unet_small", "segmentation, and data source 'digits' has truths for another task"),
        ("wavenet_tiny", "sequence, and recipes are for classification, segmentation, detection"),
    ],
)
def test_a_model_for_another_task_is_refused_before_anything_is_done(name, said, recipe_file, tmp_path):
    with pytest.raises(BadInput, match=f"recipe 'tiny-digits': {name} is a model for {said}"):
        build(recipe.read(recipe_file, [f"model.name={name}"]), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_head_that_nobody_trained_is_refused_before_anything_is_written(tmp_path):
    from safetensors.torch import save_file

    from edgecv import models

    path, weights = tmp_path / "untrained.yaml", tmp_path / "five.safetensors"
    save_file(models.create("lenet5", classes=5, in_channels=1, seed=0).state_dict(), weights)
    path.write_text(SMALL)
    given = recipe.read(path, ["train=null", f"model.weights={weights}"])
    with pytest.raises(BadInput, match=r"five\.safetensors: its head has 5 classes, 10 are wanted: .* would be random"):
        build(given, tmp_path / "runs" / "small", progress=False)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(BadInput, match="its head has 5 classes, 7 are wanted"):
        models.create("lenet5", classes=7, in_channels=1, weights=weights, new_heads=False)
    assert models.create("lenet5", classes=7, in_channels=1, weights=weights).head_layers  # to be trained: as ever


SMALL = """
name: small
data: {source: digits}
model: {name: lenet5}
preprocess: {size: [32, 32], mode: stretch, interpolation: linear, color: GRAY}
normalization: {mean: [0.3], std: [0.35]}
train: {epochs: 2, batch: 64, lr: 0.003, warmup_epochs: 0.5}
quantize: {images: 32, check_images: 100, placements: [all], ranges: [min-max], passes: [], islands: false}
budget: {max_drop_points: 50}
"""


def test_train_goes_up_to_int8_files_where_they_are_trained(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    overrides = ["quantize.train.epochs=1", "quantize.dialects=[int8-u8s8,int8-s8s8,int8-s8s8-fp16]"]
    command = [sys.executable, "-m", "edgecv.cli", "train", str(path), *overrides, "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "runs" / "small" / "bundle"
    assert done.stdout.strip() == str(bundle)
    assert "quantize: int8-s8s8 trained: top-1 " in done.stderr
    with rt.Bundle(bundle) as opened:
        trained = [each for each in opened.manifest.variants if each.precision == "int8"]
        islands = [(each.name, each.islands) for each in trained]
        assert islands == [("int8-u8s8", "float32"), ("int8-s8s8", "float32"), ("int8-s8s8-fp16", "fp16")]
        assert all(each.calibration.trained for each in trained)
    again = subprocess.run(command, capture_output=True, text=True)
    assert [line for line in again.stderr.splitlines() if "skipped" in line] == [
        f"{step}: unchanged, skipped" for step in ("train", "export", "quantize")
    ]
