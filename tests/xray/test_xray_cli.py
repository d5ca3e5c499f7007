"""`edgecv inspect` as a user calls it."""

import json
import re

import pytest
from typer.testing import CliRunner

from edgecv.cli import output
from edgecv.cli.app import app


def inspect(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)], env={"COLUMNS": "160"})


def test_json_holds_every_layer():
    done = inspect("lenet5", "--json", "--what-if")
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["table"]["total"]["parameters"] == 146_156
    assert document["table"]["rows"][0]["field"] == {
        "size": [5.0, 5.0], "jump": [1.0, 1.0], "centre": [2.0, 2.0], "whole": False
    }  # fmt: skip
    assert {each["change"] for each in document["what_if"]} >= {"fully connected", "depthwise separable"}


def test_deep_networks_fit_a_screen():
    lines = inspect("resnet50").stdout.splitlines()
    assert len(lines) < 45
    assert "25,557,032 parameters, 4,089,184,256 MACs" in " ".join(lines)
    assert lines[-1].startswith("174 layers in groups of depth 2; --depth 3 shows more")
    assert "the 3 of 20 layers with the most MACs" in inspect("lenet5", "--top", 3).stdout


@pytest.mark.parametrize("arguments", [("mobilenet_v3_small", "--top", 9), ("alexnet", "--what-if")])
def test_a_narrow_terminal_cuts_nothing_off(arguments, monkeypatch):
    """Every figure that a wide terminal shows in a column stands whole in a narrow one's, too."""

    def shown_in(columns):
        monkeypatch.setattr(output.stdout, "width", columns)
        return CliRunner().invoke(app, ["inspect", *map(str, arguments)])

    wide, narrow = shown_in(200), shown_in(80)
    assert "…" not in narrow.stdout
    macs, shown = (re.findall(r"\d+(?:\.\d+)? [kMG] ", each.stdout) for each in (wide, narrow))
    assert 5 < len(set(shown)) <= len(set(macs))
    assert set(shown) <= set(macs)
    assert max(len(line) for line in narrow.stdout.splitlines() if "─" in line) <= 80


def test_one_number_is_a_square_or_the_length_of_a_signal():
    assert "1x1x4000" in inspect("wavenet_tiny", "--size", 4000).stdout
    assert "1x3x64x64" in inspect("lenet5", "--size", 64).stdout


def test_nothing_to_change_is_said():
    assert "what if: no convolution or strided pooling" in inspect("mlp", "--what-if").stdout


def test_a_page_that_cannot_be_written_is_refused_before_it_is_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place, said in ((tmp_path, "is a folder"), (tmp_path / "file" / "page.html", "page.html: cannot be written")):
        done = inspect("lenet5", "--html", place)
        assert done.exit_code in (2, 3)
        assert "picture:" not in done.stderr
        assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folding_removes_norms():
    assert " norm " in inspect("resnet18", "--depth", 9).stdout
    assert " norm " not in inspect("resnet18", "--depth", 9, "--fold").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet5"], "did you mean 'resnet50'"),
        (["nowhere.onnx"], "nowhere.onnx: cannot be read: No such file"),
        (["alexnet", "--size", "30"], "at least 63x63 pixels"),
        (["alexnet", "--size", "big"], "--size is made of whole numbers"),
        (["alexnet", "--size", "1x2x3"], "the input of alexnet has a size of HxW, got 1x2x3"),
        (["wavenet_tiny", "--size", "40x40"], "the input of wavenet_tiny has a size of one length, got 40x40"),
        (["alexnet", "--top", "0"], "--top must be at least 1"),
        (["model.onnx", "--input-shape", "1x3x8x8"], "--input-shape is NAME=1x3x224x224"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    done = inspect(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
