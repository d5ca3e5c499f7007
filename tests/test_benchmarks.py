"""What `make gpu` and `make bench` do without a thing to measure; studies are listed, pages are what figures make."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import again
from benchmarks.gpu import run as gpu_study
from benchmarks.zoo import figures, plots
from edgecv import models
from edgecv_runtime import Bundle
from edgecv_runtime.errors import BackendUnavailable

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def test_without_a_gpu_the_script_says_what_is_missing_and_exits_with_3():
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu/run.py"], cwd=ROOT, env=hidden, capture_output=True, text=True
    )
    assert done.returncode == 3, done.stderr
    driver, torch = done.stderr.splitlines()
    assert driver.startswith("gpu: backend 'tensorrt' needs an NVIDIA GPU")
    assert re.match(r"gpu: PyTorch \S+, built for .*, reaches no GPU: install torch with CUDA", torch)
    assert done.stdout == ""


def test_a_part_that_fails_is_a_row_and_the_others_go_on(finished):
    rows = []
    with Bundle(finished) as bundle:
        gpu_study.tell(rows, "variant", lambda: gpu_study.variants(bundle))
        gpu_study.tell(rows, "CUDA graphs", lambda: gpu_study.graphs(bundle))
        gpu_study.tell(rows, "onnxruntime on cuda", lambda: gpu_study.cuda_provider(bundle))
    variants = {which: said for what, which, said in rows if what == "variant"}
    assert variants["float32 on onnxruntime"].startswith("runs in float32, agrees with ")
    assert "p50" in variants["int8-u8s8 on openvino"]
    graphs, provider = rows[-2:]
    try:
        gpu_study.TensorRtBackend.probe()
    except BackendUnavailable as exc:
        assert graphs[2].startswith(f"FAILED: {' '.join(str(exc).split())[:100]}")
    assert provider[2].startswith(("not run: onnxruntime ", "outputs off by"))


def test_every_study_of_the_list_is_there_and_make_names_them():
    listed = re.findall(r"^\| `(\S+)` \|", (BENCHMARKS / "README.md").read_text(), re.MULTILINE)
    assert len(listed) > 20
    assert {path.parent.name for path in BENCHMARKS.glob("*/run.py")} == set(listed)
    command = ["make", "--no-print-directory", "-o", ".venv/dev"]
    done = subprocess.run([*command, "bench"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert set(listed) <= set(done.stderr.split())
    dry = subprocess.run([*command, "-n", "bench", "STUDY=overhead"], cwd=ROOT, capture_output=True, text=True)
    assert "python benchmarks/overhead/run.py" in dry.stdout


def test_the_page_in_the_docs_shows_every_recorded_study():
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    recorded = {path.parent.name for path in BENCHMARKS.glob("*/results.md")}
    assert set(re.findall(r'^--8<-- "benchmarks/(\w+)/results\.md:2"$', page, re.MULTILINE)) == recorded


@pytest.mark.parametrize("name", again.recorded())
def test_a_recorded_page_is_what_its_figures_make(name):
    made = importlib.import_module(f"benchmarks.{name}.run").STUDY
    assert made.text() == (BENCHMARKS / name / "results.md").read_text()


def test_the_pictures_of_the_zoo_name_every_network_that_has_room():
    """A network that does not run has no point; one alone in its corner always has its name."""
    names = {"mobilenet_v2": 5.0, "resnet18": 20.0, "vgg16": 200.0}
    ways = {
        name: {f"{form} on {backend}": figures.Way("x", (ms,), (1.0,)) for form, backend, _ in figures.FORMS}
        for name, ms in names.items()
    }
    ways["vgg16"]["int8 on openvino"] = figures.Way(why="refused")
    rows = [
        figures.Row(
            name=name,
            family=models.spec(name).family,
            task="classification",
            size=(224, 224),
            parameters=10**6,
            macs=int(ms * 1e8),
            published=60 + ms / 10,
            is_published=False,
            file_mb={"float32": ms, "int8": ms / 4},
            ways=ways[name],
            seconds=1.0,
        )
        for name, ms in names.items()
    ]
    drawn = plots.draw(rows)
    assert set(drawn) == {"accuracy.svg", "size.svg", "macs.svg", "int8.svg"}
    for name, text in drawn.items():
        words = {each.text for each in ElementTree.fromstring(text).iter() if each.tag.endswith("}text")}
        assert set(names) <= words, name
        assert "\n\n" not in text  # it stands in a page of Markdown
