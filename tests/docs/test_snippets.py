"""Every snippet of the documentation runs, in a folder with what its reader would have: a bundle, photos, a clip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from docs_snippets import read

import edgecv_runtime as rt
from edgecv_export.export import export
from edgecv_runtime import Normalization, Preprocess

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SNIPPETS = [snippet for page in PAGES for snippet in read(page)]
# Why a snippet is not run in CI, and how many such there may be at most.
REASONS = {
    "install": ("it clones or installs packages: `make wheel-test` and `make test-image` do", 7),
    "download": ("it downloads published weights", 2),
    "camera": ("it wants a camera or opens a window", 5),
    "device": ("it wants a GPU, a Jetson, another machine or a service manager", 11),
    "server": ("it wants a server, or is one that runs until it is ended: `tests/serve` asks it", 6),
    "ray": ("it wants Ray, which weighs too much for `make dev`: `make test-ray`", 2),
    "minutes": ("it trains or measures for minutes", 8),
}
# What stands in for what CI lacks or would take minutes for, in shell and Python snippets alike.
STAND_INS = (
    (r"rtsp://[^\s\"']+", "clip.mp4"),
    (r" \| jq \S+", " | grep -c label"),
    (
        r"(edgecv build recipes/photos.yaml [^#\n]*)",
        r"\1 train.epochs=1 train.warmup_epochs=0 quantize.budget_s=5 "
        "quantize.images=16 quantize.check_images=16 bench.seconds=0.02 bench.rounds=2 ",
    ),
    (r"(edgecv bench \S+)(?!\S)(?! --scenario)", r"\1 --seconds 0.05 --rounds 2"),
    (r"edgecv bench \S+ --scenario", "edgecv bench runs/digits/bundle --seconds 0.1 --scenario"),
    (r"(edgecv quantize \S+ --data [^#\n]*)", r"\1 --images 16 --check-images 16 --budget-s 5"),
    (r"edgecv survey", "edgecv survey --backend onnxruntime --precision float32 --seconds 3"),
    (r"(edgecv tune \S+)", r"\1 --backend onnxruntime --precision float32"),
)
RUN = [snippet for snippet in SNIPPETS if snippet.language and not snippet.not_run]


def as_run(snippet):
    text = snippet.text
    for written, run in STAND_INS:
        text = re.sub(written, run, text)
    return text


@pytest.fixture(scope="session")
def shelf(finished, exported, photos, tmp_path_factory):
    """A folder with what the pages speak of; each test works in a copy of it."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("bundle", "BUNDLE", "runs/digits/bundle", "runs/imagenet-lite0/bundle"):
        shutil.copytree(finished, folder / name)
    corners = [(top, left) for top in range(0, 300, 60) for left in range(0, 540, 60)]
    for kind, photo in zip(("cat", "dog"), photos, strict=True):
        (folder / "my_photos" / kind).mkdir(parents=True)
        for index, (top, left) in enumerate(corners):
            cv2.imwrite(str(folder / "my_photos" / kind / f"{index}.jpg"), photo[top : top + 120, left : left + 100])
    for name in ("PHOTOS", "FOLDER"):
        (folder / name).symlink_to("my_photos")
    for name in ("new_photo.jpg", "photo.jpg"):
        cv2.imwrite(str(folder / name), photos[0])
    clip = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (320, 240))
    for shift in range(10):
        clip.write(np.ascontiguousarray(photos[0][shift : shift + 240, :320]))
    clip.release()
    _two_labels(photos, folder)
    np.save(folder / "device.npy", _scores_of_cards(folder / "bundle"))
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(ROOT / "examples", folder / "examples")
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    return folder


def _two_labels(photos, folder):
    """mine.onnx: cats and dogs, float32 NCHW as others export it, at 224 pixels; and a bundle of the photos' recipe."""
    import torch

    pixels = "preprocess: {size: [224, 224], mode: crop}\nnormalization: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}"
    (folder / "mine.yaml").write_text(f"labels: [cat, dog]\n{pixels}\n")

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 2),
    )
    for name, free in {"mine.onnx": {0: "batch"}, "any.onnx": {0: "batch", 2: "height", 3: "width"}}.items():
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 3, 224, 224),),
            folder / name,
            input_names=["image"],
            output_names=["logits"],
            dynamo=False,
            dynamic_axes={"image": free, "logits": {0: "batch"}},
        )
    preprocess = Preprocess(size=(64, 64), mode="crop")
    frames = preprocess.batch([photo[top : top + 200] for photo in photos for top in (0, 50, 100, 150)])
    export(
        network,
        folder / "runs/photos/bundle",
        name="photos",
        preprocess=preprocess,
        normalization=Normalization(),
        labels=("cat", "dog"),
        images=frames,
    )


def _scores_of_cards(bundle):
    """What a device would write for `verify --against`: scores of the three test cards."""
    from edgecv_runtime import images

    with rt.Bundle(bundle) as opened, rt.load(bundle, backend="onnxruntime", precision="float32") as model:
        cards = opened.golden().pictures
        return np.stack([model(images.decode(card.data)).scores for card in cards])


@pytest.fixture
def desk(shelf, tmp_path, monkeypatch):
    """A copy of the shelf to work on, with `edgecv` and `python` of this very environment first on the path."""
    place = Path(shutil.copytree(shelf, tmp_path / "desk", symlinks=True))
    monkeypatch.chdir(place)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return place


@pytest.mark.parametrize("snippet", [each for each in RUN if each.language == "python"], ids=str)
def test_a_python_snippet_runs(snippet, desk, photos):
    frames = [photos[0][top : top + 240, :320] for top in range(0, 100, 10)]
    given = {
        "__name__": "snippet",
        "frame": frames[0],
        "frames": frames,
        "batch": np.zeros((2, 32, 32, 3), np.uint8),
        "my_preprocessing": _preprocessing_of(desk / "bundle"),
    }
    exec(compile(as_run(snippet), str(snippet.page), "exec"), given)


def _preprocessing_of(bundle):
    from edgecv_runtime import images

    with rt.Bundle(bundle) as opened:
        preprocess = opened.manifest.preprocess
    return lambda path: preprocess(images.read(path))


@pytest.mark.parametrize("snippet", [each for each in RUN if each.language == "shell"], ids=str)
def test_a_shell_snippet_runs(snippet, desk):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", as_run(snippet)],
        cwd=desk,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{as_run(snippet)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


def test_what_does_not_run_is_marked_with_a_reason_and_little():
    marks = [(str(snippet), snippet.not_run) for snippet in SNIPPETS if snippet.not_run]
    assert [mark for mark in marks if mark[1] not in REASONS] == []
    for reason, (_, most) in REASONS.items():
        assert len([where for where, mark in marks if mark == reason]) <= most, reason


def test_every_command_of_a_block_exists():
    """Also in blocks that are not run, and in those without a language: no page names a verb that is not there."""
    import typer.main

    from edgecv.cli.app import app

    verbs = set(typer.main.get_command(app).commands)
    named = {
        (str(snippet), verb)
        for snippet in SNIPPETS
        for verb in re.findall(r"^\s*edgecv (?:--\w+ )*([a-z][a-z-]*)", snippet.text, re.MULTILINE)
    }
    assert len(named) > 20
    assert [pair for pair in named if pair[1] not in verbs] == []


def test_every_option_of_a_command_exists():
    """Also in blocks that are not run: a page that is typed from must not end in "No such option"."""
    import typer.main

    from edgecv.cli.app import app

    commands = typer.main.get_command(app).commands
    options = {
        verb: {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        for verb, command in commands.items()
    }
    named = [
        (str(snippet), verb, option)
        for snippet in SNIPPETS
        for verb, rest in re.findall(r"^\s*edgecv (?:--\w+ )*([a-z][a-z-]*)([^\n]*)", snippet.text, re.MULTILINE)
        for option in re.findall(
            r"\s(--[a-z][a-z-]*)", re.sub(r"'[^']*'", "", rest).partition(" #")[0].partition("&&")[0]
        )
    ]
    assert len(named) > 40
    assert [each for each in named if each[2] not in options[each[1]] | {"--help"}] == []


def test_blocks_are_fenced_and_say_their_language():
    """A block without a language is not run, and would be a hole here: text is called text."""
    unknown = [
        str(each) for each in SNIPPETS if not each.language and _language(each) not in ("text", "toml", "yaml", "json")
    ]
    assert unknown == []
    indented = [
        f"{page.name}:{number}"
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if re.match(r" {4}(edgecv|python|pip|make) ", line)
    ]
    assert indented == []


def _language(snippet):
    return snippet.page.read_text().splitlines()[snippet.line - 2].strip().strip("`")
