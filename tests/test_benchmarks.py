"""What `make gpu` and `make bench` do where there is nothing to measure, and that every study can be named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgecv_runtime import Bundle
from edgecv_runtime.errors import BackendUnavailable

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    return gpu


def test_without_a_gpu_the_script_says_what_is_missing_and_exits_with_3():
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "benchmarks/gpu.py"], cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    driver, torch = done.stderr.splitlines()
    assert driver.startswith("gpu: backend 'tensorrt' needs an NVIDIA GPU")
    assert re.match(r"gpu: PyTorch \S+, built for .*, reaches no GPU: install torch with CUDA", torch)
    assert done.stdout == ""


def test_a_part_that_fails_is_a_row_and_the_others_go_on(gpu, finished):
    rows = []
    with Bundle(finished) as bundle:
        gpu.tell(rows, "variant", lambda: gpu.variants(bundle))
        gpu.tell(rows, "CUDA graphs", lambda: gpu.graphs(bundle))
        gpu.tell(rows, "onnxruntime on cuda", lambda: gpu.cuda_provider(bundle))
    variants = {which: said for what, which, said in rows if what == "variant"}
    assert variants["float32 on onnxruntime"].startswith("runs in float32, agrees with ")
    assert "p50" in variants["int8-u8s8 on openvino"]
    graphs, provider = rows[-2:]
    try:
        gpu.TensorRtBackend.probe()
    except BackendUnavailable as exc:
        assert graphs[2].startswith(f"FAILED: {' '.join(str(exc).split())[:100]}")
    assert provider[2].startswith(("not run: onnxruntime ", "outputs off by"))


def test_every_study_of_the_list_is_there_and_make_names_them():
    listed = re.findall(r"^\| `(\S+)\.py` \|", (BENCHMARKS / "README.md").read_text(), re.MULTILINE)
    assert len(listed) > 20
    assert all((BENCHMARKS / f"{name}.py").is_file() for name in listed)
    helpers = {"study", "demo", "quantization/common", "quantization/photographs", "quantization/timed"}
    there = {str(path.relative_to(BENCHMARKS).with_suffix("")) for path in BENCHMARKS.rglob("*.py")}
    assert there - helpers == set(listed)
    command = ["make", "--no-print-directory", "-o", ".venv/dev"]
    done = subprocess.run([*command, "bench"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert set(listed) <= set(done.stderr.split())
    dry = subprocess.run([*command, "-n", "bench", "STUDY=overhead"], cwd=ROOT, capture_output=True, text=True)
    assert "python benchmarks/overhead.py" in dry.stdout
