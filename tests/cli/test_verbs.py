"""Promises that hold for every verb: help, an example, the options of `load`, one line on errors, whole tables."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import edgecv_runtime as rt
from edgecv.cli.app import VERBS, app
from edgecv.cli.loading import Loading

ALL = {verb.name: verb for verbs in VERBS.values() for verb in verbs}
COMMANDS = typer.main.get_command(app).commands
LOADING = ("tune", "predict", "stream", "soak", "serve", "bulk")


def edgecv(*arguments, **how):
    command = [sys.executable, "-m", "edgecv.cli", *map(str, arguments)]
    return subprocess.run(command, **{"capture_output": True, "text": True, **how})


def help_of(*arguments):
    done = CliRunner().invoke(app, [*arguments, "-h"], prog_name="edgecv", env={"COLUMNS": "80"})
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize("name", ALL)
def test_help_is_whole_within_80_columns_and_has_an_example_that_can_be_typed(name):
    text = help_of(name)
    assert text == CliRunner().invoke(app, [name, "--help"], prog_name="edgecv", env={"COLUMNS": "80"}).stdout
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert all(" ".join(each.help.split()) in words for each in COMMANDS[name].params if each.help)
    example = text.partition("Example:\n")[2].strip()
    assert example == ALL[name].example
    program, verb, *arguments = shlex.split(example)
    assert (program, verb) == ("edgecv", name)
    command = COMMANDS[name]
    context = command.make_context(name, arguments)  # raises for an option that is not there
    assert context.params


def test_the_list_of_verbs_is_whole_and_in_the_order_of_use():
    text = help_of()
    places = [re.search(rf"^  {name} ", text, re.MULTILINE).start() for name in ALL]
    assert places == sorted(places)
    assert list(ALL)[:6] == ["build", "verify", "bench", "tune", "predict", "stream"]
    assert {*ALL, "calibrate"} == set(COMMANDS)
    assert "calibrate" not in text
    words = " ".join(text.split())
    for name, verb in ALL.items():
        assert f"{name} {' '.join(inspect.getdoc(verb.command).partition(chr(10) * 2)[0].split())}" in words
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", ALL)
def test_a_verb_that_loads_takes_what_load_takes(name):
    options = {option for each in COMMANDS[name].params for option in each.opts}
    wanted = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Loading)}
    assert (wanted <= options) == (name in LOADING)


def test_load_and_the_command_line_ask_for_the_same():
    parameters = inspect.signature(rt.load).parameters
    described = {"description", "preprocess", "labels", "normalization", "scores", "thresholds"}  # --describe's file
    # busy_wait is no question for a user of the command line: each verb knows it
    fields = {field.name: field.default for field in dataclasses.fields(Loading)}
    asked = {name: each.default for name, each in parameters.items() if name not in {"source", "busy_wait", *described}}
    assert asked.items() <= fields.items()


def test_predict_and_stream_take_what_tune_found(exported, tmp_path, photos, monkeypatch):
    import cv2

    cv2.imwrite(str(tmp_path / "photo.png"), photos[0])
    monkeypatch.setenv("EDGECV_CACHE", str(tmp_path / "cache"))
    asked = ["--goal", "p99 <= 500 ms", "--backend", "onnxruntime", "--threads", "1", "--self-test"]
    tuned = edgecv("tune", exported, *asked)
    assert tuned.returncode == 0, tuned.stderr
    named = re.search(r"predict and stream with: (.*)", tuned.stderr)[1]
    assert shlex.split(named) == ["--backend", "onnxruntime", "--threads", "1", "--goal", "p99 <= 500 ms"]
    found = json.loads(edgecv("tune", exported, *asked, "--json").stdout)["model"]
    done = edgecv("predict", exported, tmp_path / "photo.png", *shlex.split(named), "--json")
    model = json.loads(done.stdout)["model"]
    assert model["threads"] == 1
    assert (model["streams"], model["batch"]) == (found["streams"], found["batch"])
    done = edgecv("stream", exported, "fake:2", *shlex.split(named), "--device", "cpu", "--json")
    assert json.loads(done.stdout)["model"]["threads"] == 1


@pytest.mark.parametrize("name", sorted({*ALL} - {"models", "doctor", "survey"}))
def test_an_error_with_json_leaves_stdout_empty(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = [each.opts for each in COMMANDS[name].params]
    assert ["--json"] in options
    more = {"quantize": ["--dialect", "fp16"], "predict": ["photo.png"], "stream": ["fake:2"]}
    more["adopt"] = ["--describe", "nowhere.yaml", "--data", "photos"]
    more["bulk"] = ["photos", "--out", "out.csv"]
    more["check"] = ["--target", "rpi5"]
    more["merge"] = ["evidence.json"]
    done = CliRunner().invoke(app, ["--quiet", name, "nowhere.yaml", *more.get(name, []), "--json"])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("edgecv: ")
    assert done.stderr.count("\n") == 1


def test_an_unknown_verb_or_model_gives_the_nearest():
    assert "Did you mean 'predict'?" in CliRunner().invoke(app, ["pridict"]).output
    done = CliRunner().invoke(app, ["inspect", "mobilenet_v3"])
    assert len(re.findall("'(mobilenet[a-z_0-9]+)'", done.stderr.partition("did you mean")[2])) == 5
    far = CliRunner().invoke(app, ["inspect", "yolov8"]).stderr
    assert far.count(",") == 5  # "..., bundle or file; the nearest of N names: a, b, c, d, e"


def test_the_shell_can_complete_verbs_and_options():
    for typed, wanted in (("edgecv pre", "predict"), ("edgecv stream --prec", "--precision")):
        place = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_EDGECV_COMPLETE": "complete_bash"}
        assert edgecv(env={**os.environ, **place}).stdout.split() == [wanted]
    asked = f"{sys.executable} -m edgecv.cli --show-completion; true"  # the shell is found among the parents
    shown = subprocess.run(["bash", "-c", asked], capture_output=True, text=True)
    assert "_EDGECV_COMPLETE=complete_bash" in shown.stdout


def test_in_a_pipe_no_column_of_a_table_is_left_out_or_cut(finished):
    from edgecv.xray.console import _COLUMNS
    from edgecv_runtime.bench import table

    narrow = {**os.environ, "COLUMNS": "80"}
    done = edgecv("inspect", "mobilenet_v3_small", env=narrow)
    assert done.returncode == 0
    head = next(line for line in done.stdout.splitlines() if line.startswith("layer"))
    assert head.split() == [column.name for column in _COLUMNS]
    assert "no room" not in done.stdout
    assert "…" not in done.stdout
    done = edgecv("bench", finished, "--no-write", "--seconds", 0.02, "--rounds", 1, env=narrow)
    assert done.returncode == 0, done.stderr
    assert "No room" not in done.stdout
    with rt.Bundle(finished) as opened:
        names = {name for name in table.columns(table.rows(opened)) if name != "bundle"}
    words = done.stdout.split()
    assert all(part in words for name in names for part in name.split())


BROKEN = b"caf\xe9.png", b"\xff\xfe.png"


@pytest.fixture(scope="module")
def broken_names(tmp_path_factory, photos):
    """A folder with names that are no UTF-8, and two that are."""
    import cv2

    folder = tmp_path_factory.mktemp("names")
    data = cv2.imencode(".png", cv2.resize(photos[0], (64, 48)))[1].tobytes()
    try:
        for name in (*BROKEN, b"a.png", "zoë.png".encode()):
            (folder / os.fsdecode(name)).write_bytes(data)
    except OSError:  # a file system that has only UTF-8, macOS's say, has no such names to break on
        return None
    return folder


def test_names_that_are_no_utf8_cost_no_result_and_come_back_from_the_json(exported, broken_names, tmp_path):
    if broken_names is None:
        return
    wanted = sorted(map(os.fsencode, broken_names.iterdir()))
    done = edgecv("predict", exported, broken_names, "--backend", "onnxruntime", "--json", text=False)
    assert done.returncode == 0, done.stderr
    assert sorted(os.fsencode(each["path"]) for each in json.loads(done.stdout)["results"]) == wanted
    done = edgecv("predict", exported, broken_names, "--backend", "onnxruntime", env={**os.environ, "LC_ALL": "C"})
    assert done.stdout.count("digit") == 4
    assert r"caf\xe9.png" in done.stdout
    lines = tmp_path / "out.jsonl"
    done = edgecv("stream", exported, broken_names, "--backend", "onnxruntime", "--sink", lines)
    assert done.returncode == 0, done.stderr
    read = [json.loads(line) for line in lines.read_bytes().splitlines()]
    assert sorted(os.fsencode(each["path"]) for each in read) == wanted


PREDICT = ("predict", "BUNDLE", "FOLDER", "--backend", "onnxruntime")


@pytest.mark.parametrize("arguments", [PREDICT, (*PREDICT, "--json"), ("-h",), ("doctor",)])
def test_what_happens_to_stdout(exported, broken_names, arguments):
    """A full disk is one line and exit code 3, a reader that went away 141, no stdout at all is no error."""
    if broken_names is None or sys.platform != "linux":
        return
    places = {"BUNDLE": str(exported), "FOLDER": str(broken_names)}
    given = [places.get(each, each) for each in arguments]
    with Path("/dev/full").open("w") as full:
        done = edgecv(*given, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (3, "edgecv: standard output cannot be written: No space left on device\n")
    read, write = os.pipe()
    os.close(read)
    done = edgecv(*given, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
    command = shlex.join([sys.executable, "-m", "edgecv.cli", *given])
    done = subprocess.run(["sh", "-c", f"{command} >&-"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
