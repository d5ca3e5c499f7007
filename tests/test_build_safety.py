"""A build that fails, on the way or at its start, costs nothing of the one before; a changed key costs no training."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import edgecv_runtime as rt
from edgecv import build as building
from edgecv import recipe, runs, steps
from edgecv.build import build
from edgecv.cli.app import app
from edgecv.run import staging
from edgecv_runtime.errors import BadInput, EdgecvError

RECIPE = """
name: small
data: {source: digits}
model: {name: lenet5}
preprocess: {size: [32, 32], mode: stretch, interpolation: linear, color: GRAY}
normalization: {mean: [0.3], std: [0.35]}
train: {epochs: 1, batch: 256, lr: 0.003, warmup_epochs: 0.5, bn_images: 0}
quantize: {images: 16, check_images: 16, placements: [layers], ranges: [min-max], passes: [], islands: false}
budget: {max_drop_points: 100}
verify: {frames: 16}
bench: {seconds: 0.01, rounds: 1}
"""
STEPS = {"train": "fit", "export": "export", "quantize": "quantize", "verify": "verify", "bench": "bench"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks are faster on one thread, beside other tests above all."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def built(recipe_file, tmp_path_factory):
    return build(recipe.read(recipe_file), tmp_path_factory.mktemp("runs") / "small", progress=False).folder


@pytest.fixture
def run(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "runs" / "small"))


def contents(run):
    """What must not be lost of a run: every file of its training, bundle and pages, by SHA-256."""
    kept = [each for each in run.rglob("*") if each.is_file() and not {"cache", "next"} & set(each.parts)]
    return {str(each.relative_to(run)): hashlib.sha256(each.read_bytes()).hexdigest() for each in kept}


def failing(*_arguments, **_options):
    raise EdgecvError("this step fails")


@pytest.mark.parametrize("change", ["train.lr=0.004", "quantize.images=17", "bench.rounds=2"])
def test_whatever_step_fails_after_a_change_the_run_before_is_whole(change, run, recipe_file, monkeypatch):
    before = contents(run)
    changed = recipe.read(recipe_file, [change])
    for name, function in STEPS.items():
        with monkeypatch.context() as patch:
            patch.setattr(steps, function, failing)
            try:
                done = build(changed, run, until=name, progress=False)
            except EdgecvError:
                assert contents(run) == before, name
            else:
                assert name in done.skipped
                before["recipe.yaml"] = contents(run)["recipe.yaml"]
    monkeypatch.setattr(steps.report, "write", failing)
    with pytest.raises(EdgecvError, match="this step fails"):
        build(changed, run, progress=False)
    now = contents(run)
    assert now["report.html"] == before["report.html"]
    with rt.Bundle(run / "bundle") as opened:  # the new one, which is complete
        assert all(each.agreement and each.latency for each in opened.evidence().entries)
    monkeypatch.undo()
    assert build(changed, run, progress=False).ran == ("report",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.weights=imagnet", "imagnet"),
        ("preprocess.size=[1,1]", "cannot take images of 1x1"),
        ("train.lr=1e30", "loss is nan|loss is inf"),
    ],
)
def test_a_command_that_cannot_work_leaves_the_run_as_it_was(change, said, run, recipe_file):
    before = contents(run)
    with pytest.raises(EdgecvError, match=said):
        build(recipe.read(recipe_file, [change]), run, progress=False)
    assert contents(run) == before
    assert build(recipe.read(recipe_file), run, progress=False).ran == ()


def test_a_training_that_was_replaced_is_taken_up_again_when_its_settings_come_back(run, recipe_file, monkeypatch):
    weights = run / "train" / "weights.safetensors"
    first = weights.read_bytes()
    build(recipe.read(recipe_file, ["train.seed=1"]), run, until="train", progress=False)
    assert weights.read_bytes() != first
    assert (run / "train.1" / "weights.safetensors").read_bytes() == first
    monkeypatch.setattr("edgecv.train.loop.Loop._train_step", failing)
    said: list[str] = []
    build(recipe.read(recipe_file), run, until="train", say=said.append, progress=False)
    assert weights.read_bytes() == first
    assert "train: train.1 was trained with these settings, and is taken up again" in said
    assert [each.name for each in runs.of(run)] == ["train", "train.1"]


def test_a_build_that_was_stopped_goes_on_and_another_recipe_does_not_lose_it(run, recipe_file, monkeypatch):
    other = recipe.read(recipe_file, ["train.seed=1", "train.epochs=2"])

    def stopped(self, display, _once=[]):  # noqa: B006
        _once.append(1)
        if len(_once) == 2:
            raise KeyboardInterrupt
        return train_epoch(self, display)

    train_epoch = steps.fit.__globals__["Loop"]._train_epoch
    monkeypatch.setattr("edgecv.train.loop.Loop._train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(other, run, progress=False)
    monkeypatch.undo()
    third = build(recipe.read(recipe_file, ["bench.rounds=2"]), run, progress=False)
    assert third.ran == ("bench", "report")
    (unfinished,) = [each for each in runs.of(run) if each.name != "train"]
    assert (unfinished.name, unfinished.epochs, unfinished.finished) == ("train.1", 1, False)
    log = run / "train" / "curves.csv"
    build(other, run, until="train", progress=False)
    assert len(log.read_text().splitlines()) == 3


@pytest.mark.parametrize("pruned", [False, True])
def test_killed_while_the_new_takes_the_place_of_the_old_it_ends_the_next_time(pruned, run, recipe_file, monkeypatch):
    changed = recipe.read(recipe_file, ["train.seed=1"])
    replace = staging._replace_training

    def killed(*places):
        replace(*places)
        failing()

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_replace_training", killed)
        with pytest.raises(EdgecvError, match="this step fails"):
            build(changed, run, until="train", progress=False)
    weights = (run / "train" / "weights.safetensors").read_bytes()
    if pruned:
        runs.prune(run)
    done = build(changed, run, until="train", progress=False)
    assert done.skipped == ("train",)
    assert (run / "train" / "weights.safetensors").read_bytes() == weights
    assert not (run / "next").exists()


def test_runs_are_listed_and_pruned(run, recipe_file):
    build(recipe.read(recipe_file, ["train.seed=1"]), run, until="train", progress=False)
    rows = runs.of(run)
    assert [(each.name, each.model, each.epochs, each.finished) for each in rows] == [
        ("train", "lenet5", 1, True),
        ("train.1", "lenet5", 1, True),
    ]
    curve = (run / "train.1" / "curves.csv").read_text().splitlines()[1].split(",")
    assert rows[1].score == float(curve[5])
    printed = CliRunner().invoke(app, ["runs", str(run.parent)])
    assert printed.exit_code == 0
    cells = [line.split() for line in printed.stdout.splitlines()]
    assert [row[1] for row in cells if row[:1] == ["small"]] == ["train", "train.1"]
    unasked = CliRunner().invoke(app, ["runs", str(run), "--prune"])
    assert unasked.exit_code == 2
    assert "say --yes where nobody can be asked" in unasked.stderr
    before = contents(run)
    with building.journal.locked(run), pytest.raises(BadInput, match="another build is running"):
        runs.prune(run)
    assert contents(run) == before
    pruned = CliRunner().invoke(app, ["runs", str(run), "--prune", "--yes", "--json"])
    assert json.loads(pruned.stdout)["bytes"] == rows[1].bytes
    assert [each.name for each in runs.of(run)] == ["train"]
    assert contents(run) == {name: digest for name, digest in before.items() if not name.startswith("train.1")}
