"""What a build and `edgecv runs --prune` do to a run's files: a kill loses nothing, and the user's own files stay."""

from __future__ import annotations

import errno
import json
import shutil

import pytest
from typer.testing import CliRunner

from edgecv import runs
from edgecv.cli.app import app
from edgecv.run import journal, trainings
from edgecv.run.staging import Workplace
from edgecv_runtime.errors import BadInput

WHOLE = {
    "recipe.yaml": "model: {name: lenet5}\n",
    "state.json": "{}",
    "bundle/bundle.json": "manifest",
    "bundle/float32.onnx": "network",
    "train/inputs": "first",
    "train/weights.safetensors": "weights",
}

RECIPE = WHOLE["recipe.yaml"].encode()


@pytest.fixture
def run(tmp_path):
    return put(tmp_path / "small", WHOLE)


def put(folder, content):
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder):
    files = [each for each in folder.rglob("*") if each.is_file() and each.name != ".lock"]
    return {str(each.relative_to(folder)): each.read_text() for each in files}


def published(run):
    """Work in `next/` and publish, as a build does that makes nothing anew."""
    place = Workplace(run, RECIPE)
    place.protect()
    place.publish()


@pytest.fixture
def killed_removal(monkeypatch):
    """The removal of `next/` is killed when it has removed one file of the bundle there."""
    remove = shutil.rmtree

    def killed(place, **options):
        if place.name != "next":
            return remove(place, **options)
        (place / "bundle" / "float32.onnx").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    return monkeypatch


@pytest.mark.parametrize("after", ["build", "prune"])
def test_killed_while_next_is_removed_the_bundle_stays_whole(after, run, killed_removal):
    with pytest.raises(KeyboardInterrupt):
        published(run)
    killed_removal.undo()
    if after == "build":
        Workplace(run, RECIPE).begin()
    else:
        runs.prune(run)
    assert content(run / "bundle") == {"bundle.json": "manifest", "float32.onnx": "network"}


def test_killed_while_next_is_pruned_no_build_goes_on_in_what_is_left(run, killed_removal):
    Workplace(run, RECIPE).protect()
    with pytest.raises(KeyboardInterrupt):
        runs.prune(run)
    place = Workplace(run, RECIPE)
    place.begin()
    assert place.folder == run


def test_publishing_leaves_the_users_own_files(run):
    own = {
        "bundle.edgecv": "packed",
        "bundle.zip": "packed",
        "train/notes.2026.txt": "notes",
        "train/events.out.tfevents.1700.host": "events",
        "train/logs.1/a.txt": "log",
        "train/.hparams": "settings",
        "train-quantized/int8-u8s8/notes.1.txt": "notes",
    }
    before = content(put(run, own))
    published(run)
    assert content(run) == before


def test_publishing_keeps_what_was_set_aside_and_replaces_what_is_edgecvs(run):
    put(run, {"train-quantized/int8-u8s8/inputs": "second", "train-quantized/int8-u8s8.1/inputs": "first"})
    put(run, {"bundle.quantize.json": "{}", "train/decoded/images": "pixels", "train/.a.1.2.tmp": "half"})
    place = Workplace(run, RECIPE)
    place.protect()
    made = content(run / "next")
    assert "bundle.quantize.json" in made
    assert not [name for name in made if "int8-u8s8.1" in name or "decoded" in name or ".tmp" in name]
    (run / "next" / "bundle.quantize.json").unlink()
    place.publish()
    assert not (run / "bundle.quantize.json").exists()
    assert (run / "train-quantized" / "int8-u8s8.1" / "inputs").read_text() == "first"


def test_hidden_folders_are_no_trainings(run):
    put(run, {"train-quantized/.int8-u8s8.old/inputs": "first", "train-quantized/int8-u8s8/inputs": "first"})
    assert [each.name for each in trainings.homes(run)] == ["train", "int8-u8s8"]


def prune(run, *options):
    return CliRunner().invoke(app, ["runs", str(run), "--prune", *options])


def test_next_is_removed_only_when_that_is_agreed_to(run):
    Workplace(run, RECIPE).protect()
    before = content(run)
    refused = prune(run)
    assert refused.exit_code == 2
    assert f"what a stopped build left in {run / 'next'}" in refused.stderr
    assert content(run) == before
    agreed = prune(run, "--yes")
    assert f"removed what a stopped build left in {run / 'next'}" in agreed.stdout
    assert content(run) == WHOLE
    assert "removed 0 trainings" in prune(run).stdout


def test_what_is_named_is_what_is_removed_also_after_a_kill(run):
    """A build was killed just before its new training took the place of the old one, which is set aside now."""
    put(run / "next", {"ready": "", "train/inputs": "second"})
    pruned = json.loads(prune(run, "--yes", "--json").stdout)
    assert [each["name"] for each in pruned["removed"]] == ["train.1"]
    assert pruned["stopped"] == []
    assert not (run / "train.1").exists()
    assert (run / "train" / "inputs").read_text() == "second"


def test_a_disk_without_locks_does_not_say_that_another_build_runs(run, monkeypatch, caplog):
    def flock(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    with journal.locked(run), pytest.raises(BadInput, match="another build is running"), journal.locked(run):
        pass
    monkeypatch.setattr(journal.fcntl, "flock", flock)
    with journal.locked(run):
        assert "this disk has no locks (No locks available)" in caplog.text
