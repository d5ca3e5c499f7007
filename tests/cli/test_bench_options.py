"""`edgecv bench`: options that do not go together are one line, none is ignored, and the help fits 80 columns."""

import dataclasses
import inspect

import pytest
import typer.testing

from edgecv.cli import benchasked, benching
from edgecv.cli.app import app

BUNDLE = "runs/digits/bundle"


def test_what_was_given_is_what_differs_from_the_command_s_own_defaults():
    """The record and the command say each default once for themselves: they must not drift apart."""
    declared = {
        name.removesuffix("_file"): each.default
        for name, each in inspect.signature(benching.bench).parameters.items()
        if name != "bundles"
    }
    kept = {each.name: each.default for each in dataclasses.fields(benchasked.Asked) if each.name != "bundles"}
    assert kept == declared
    assert benchasked.Asked([BUNDLE]).given == []


def test_every_option_has_a_use():
    every = {benchasked.option(each.name) for each in dataclasses.fields(benchasked.Asked) if each.name != "bundles"}
    assert {each for way in (*benchasked.WAYS, benchasked.SEVERAL, benchasked.PLAIN) for each in way.takes} == every


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fps", "3", "--cpus", "1"], "--fps, --cpus: for --scenario only"),
        (["--folder", "x", "--offline"], "--folder, --offline: of a device; name one: --on user@host"),
        (["--regress", "a", "--python", "b"], "--regress and --python: give one"),
        (["--scenario", "paced", "--on", "a"], "--scenario and --on: give one"),
        (["--scenario", "paced", "--rounds", "3", "--no-write"], "--rounds, --no-write: not with --scenario"),
        (["--on", "a", "--data", "x", "--threads", "1"], "--threads, --data: not with --on"),
        (["--on", "a", "--backend", "openvino"], "--backend: not with --on"),
        (["--regress", "a", "--threads", "1"], "--threads: not with --regress"),
        (["--regress", "a", "--markdown"], "--markdown: not with --regress"),
        (["--python", "a", "--evidence", "b"], "--evidence: not with --python"),
        ([BUNDLE, "--data", "x"], "--data: not with several bundles"),
        ([BUNDLE, "--python", "x"], "--python measures one bundle, and 2 are given"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(words, said):
    done = typer.testing.CliRunner().invoke(app, ["bench", BUNDLE, *words])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"edgecv: {said}")
    assert done.stderr.count("\n") == 1


def test_the_help_is_in_groups_and_fits(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = typer.testing.CliRunner().invoke(app, ["bench", "--help"]).stdout
    assert max(map(len, text.splitlines())) <= 80
    groups = [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]
    titles = [benchasked.SCENARIO, benchasked.BESIDE, benchasked.DEVICE]
    assert groups == ["Arguments:", "Options:", *(f"{title}:" for title in titles)]
