"""What an NVIDIA GPU does with edgecv: training, TensorRT, CUDA graphs, the engine cache, the tests that need one.

`make gpu`, in at most 10 minutes: one table at the end, a record in `results-NAME.md`. Without a GPU it says what
is missing and ends with exit code 3; where only a part is missing (TensorRT, ONNX Runtime's CUDA provider) its row says
so.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks import study
from edgecv.run.folder import read_curves
from edgecv_runtime import Bundle, machine
from edgecv_runtime.backends.tensorrt import TensorRtBackend
from edgecv_runtime.backends.tensorrt.backend import GRAPHS_OFF
from edgecv_runtime.backends.tensorrt.cuda import gpu
from edgecv_runtime.bench import table
from edgecv_runtime.bench.compare import Contender, compare
from edgecv_runtime.bench.latency import job
from edgecv_runtime.bench.process import Worker, measure_round
from edgecv_runtime.bench.worker import Job
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.target import Target, targets

ROOT = Path(__file__).parents[2]
LIMIT_S = 600
EXIT_UNAVAILABLE, EXIT_LOSSES = 3, 4
RECIPE = (
    "recipes/digits.yaml",
    "train.precision=bf16",
    "quantize.dialects=[int8-s8s8, int8-s8s8-fp16, fp16]",
    "bench.seconds=0.2",
)
ENOUGH = 0.98  # of the digits, of a network that learns in bf16

Row = tuple[str, str, str]  # what, which, and what came of it


def main() -> int:
    """Measure, or say what is missing."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    missing = without()
    if missing:
        for line in missing:
            print(f"gpu: {line}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    end = time.monotonic() + LIMIT_S
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edgecv-gpu-") as folder:
        os.environ["EDGECV_CACHE"] = f"{folder}/cache"
        run = Path(folder) / "runs" / "digits"
        tell(rows, "training, bf16", lambda: training(run, end - time.monotonic()))
        if (run / "bundle").is_dir():
            with Bundle(run / "bundle") as bundle:
                tell(rows, "variant", lambda: variants(bundle))
                tell(rows, "CUDA graphs", lambda: graphs(bundle))
                tell(rows, "engine cache", lambda: engines(bundle))
                tell(rows, "onnxruntime on cuda", lambda: cuda_provider(bundle))
    tell(rows, "tests", lambda: tests(end - time.monotonic()))
    failed = sum(said.startswith("FAILED") for _, _, said in rows)
    device = gpu()
    lines = ["| what | which | came of it |", "| --- | --- | --- |"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    lines += ["", f"{failed} of {len(rows)} failed; {LIMIT_S - (end - time.monotonic()):.0f} s."]
    how = (
        f"By `make gpu`: compute capability {'.'.join(map(str, device.compute_capability))}, CUDA {device.cuda}, "
        f"driver {machine.this().driver or 'of unknown version'}. It shows that things run, agree, and how fast a "
        "tiny network is; not how large ones compare."
    )
    name = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    study.Study(Path(__file__), f"On {device.name}", name=f"results-{name}").record([how, "", *lines])
    return EXIT_LOSSES if failed else 0


def without() -> list[str]:
    """What is missing for any of it: the GPU, its driver, or PyTorch that reaches it."""
    missing = []
    try:
        gpu()
    except EdgecvError as exc:
        missing.append(str(exc))
    import torch

    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU only"
        missing.append(f"PyTorch {torch.__version__}, {built}, reaches no GPU: install torch with CUDA")
    return missing


def tell(rows: list[Row], what: str, measure: Callable[[], Iterator[tuple[str, str]]]) -> None:
    """Add what a part finds; one that fails is a row, too, and the others go on."""
    print(f"gpu: {what}", file=sys.stderr)
    try:
        for which, said in measure():
            rows.append((what, which, said))
    except (EdgecvError, OSError, RuntimeError, subprocess.SubprocessError) as exc:
        rows.append((what, "", f"FAILED: {' '.join(str(exc).split())[:300]}"))


def training(run: Path, left_s: float) -> Iterator[tuple[str, str]]:
    """Build the recipe of the digits: train on the GPU, export, quantize for TensorRT, verify and bench."""
    command = [sys.executable, "-m", "edgecv.cli", "--quiet", "build", *RECIPE, "--runs", str(run.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=left_s * 0.6, check=False)
    curves = read_curves(run / "train" / "curves.csv")
    if curves is None or done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    best = max(curves["val_top1"])
    speed = sorted(curves["images_per_s"])[len(curves["images_per_s"]) // 2]
    verdict = "" if best >= ENOUGH else f"FAILED: below {ENOUGH:.0%}: "
    yield "digits, MobileNetV3-small at 32 px", f"{verdict}{best:.2%} of the validation images, {speed:.0f} images/s"


def variants(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """Each variant on each backend: what executed, how it agrees, how fast it is."""
    for row in table.rows(bundle):
        if row.backend is None:
            continue
        parts = [f"runs in {row.executed}"] if row.executed else []
        parts += [row.agreement.said()] if row.agreement else []
        parts += [f"p50 {row.latency.p50_ms:.3f} ms"] if row.latency else []
        parts += ["offered"] if row.offered else [f"not offered: {row.why_not}"]
        # what was written for CPUs is refused by TensorRT, as it should be; else all have to run there
        broken = row.backend == "tensorrt" and "u8s8" not in row.variant and row.agreement is None
        yield row.target, ("FAILED: " if broken else "") + ", ".join(parts)


def graphs(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """A call that is one launch beside one of many."""
    for target in _tensorrt(bundle):
        given = job(bundle, target)
        off = {**os.environ, GRAPHS_OFF: "0"}
        found = compare([Contender("without", given, environment=off), Contender("with", given)], rounds=4, seconds=0.2)
        without_graphs, with_graphs = found.contenders
        yield target.key, f"with {with_graphs.p50_ms:.3f} ms, without {without_graphs.p50_ms:.3f}: {with_graphs.ratio}"


def engines(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """The first start, which builds an engine, and the second one."""
    for target in _tensorrt(bundle):
        with new_cache() as environment:
            first, second = (_load_ms(job(bundle, target), environment) for _ in range(2))
        verdict = "" if second < first else "FAILED: the second start is no faster: "
        yield target.key, f"{verdict}first start {first / 1e3:.1f} s, second {second / 1e3:.1f} s"


def cuda_provider(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """ONNX Runtime's CUDA provider, where onnxruntime-gpu is installed."""
    try:
        float32 = next(each for each in targets(bundle) if (each.variant, each.backend) == ("float32", "onnxruntime"))
        opened = msgspec.structs.replace(float32, device="cuda").open()
    except EdgecvError as exc:
        yield "float32", f"not run: {exc}"
        return
    golden = bundle.golden()
    try:
        outputs = opened.run({bundle.manifest.input.name: golden.images})
        off = max(abs(outputs[name] - wanted).max() for name, wanted in golden.outputs.items())
        times = study.rounds_ms({"": lambda: opened.run({bundle.manifest.input.name: golden.images[:1]})}, 5, 0.2)[""]
    finally:
        opened.close()
    verdict = "" if off < 0.05 else "FAILED: "
    yield (
        "float32",
        f"{verdict}outputs off by up to {off:.1e}, p50 {study.shown(times)} ms",
    )


def tests(left_s: float) -> Iterator[tuple[str, str]]:
    """Those of TensorRT: with a GPU they run what they refuse elsewhere."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/runtime", "-k", "tensorrt", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(30.0, left_s), check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
    yield "pytest tests/runtime -k tensorrt", ("FAILED: " if done.returncode else "") + lines[-1].strip("= ")
    for line in lines:
        if line.startswith("FAILED "):
            yield "", line


@contextmanager
def new_cache() -> Iterator[dict[str, str]]:
    """An environment with an empty cache of engines."""
    with tempfile.TemporaryDirectory(prefix="edgecv-gpu-") as folder:
        yield {**os.environ, "EDGECV_CACHE": folder}


def _load_ms(given: Job, environment: dict[str, str]) -> float:
    with Worker("engine", environment=environment) as worker:
        worker.load(given)
        measure_round([worker], 0.05)
        return worker.ready.load_ms


def _tensorrt(bundle: Bundle) -> list[Target]:
    """What TensorRT takes; raises BackendUnavailable with what is missing."""
    TensorRtBackend.probe()
    return [each for each in targets(bundle) if each.backend == "tensorrt" and "u8s8" not in each.variant]


if __name__ == "__main__":
    sys.exit(main())
