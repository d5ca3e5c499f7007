"""Whether `edgecv bench --scenario` tells the p50 and p90 that the referees of the field tell of the same file.

OpenVINO's `benchmark_app`, a raw loop around onnxruntime's session, as onnxruntime_perf_test has it, and LoadGen's own
log. Who is compared runs at once, in processes of their own on the same core, and is stopped and continued in turn
(SIGSTOP): a machine that changes its speed every ten seconds is the same for all. A network of some 40 ms: of one that
takes 2 ms Python and the copy of its input are 3 %, which benchmark_app does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil

from benchmarks import plots, study
from edgecv_runtime import Bundle
from edgecv_runtime.scenario import session
from edgecv_runtime.scenario.plan import Plan
from edgecv_runtime.target import targets

NETWORK, ROUNDS, SECONDS, THREADS, SLICE_S = "resnet50", 5, 12.0, 1, 2.0
FIRST = sorted(os.sched_getaffinity(0))[:THREADS]  # where edgecv's workers run; their parent, who watches, does not
ROOT = Path(__file__).resolve().parents[2]
Pair = tuple[float, float]  # p50 and p90 in ms

RAW = """
import sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(given,) = session.get_inputs()
feeds = {given.name: np.load(sys.argv[4])}
times, end = [], time.perf_counter() + float(sys.argv[3])
for _ in range(20):
    session.run(None, feeds)
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, feeds)
    times.append((time.perf_counter() - start) * 1e3)
print(*np.percentile(times, [50, 90]))
"""


def edgecv(bundle: str, backend: str, scenario: str, seconds: str) -> None:
    """Print our figures, and those of LoadGen's log where it played: what the process of ours does."""
    with Bundle(bundle) as opened:
        (target,) = [each for each in targets(opened, backend, THREADS) if each.hint == "float32"]
        plan = Plan(scenario, seconds=float(seconds), threads=THREADS)
        (run,) = session.bench(opened, [target], plan).runs
    log = run.loadgen and [run.loadgen[f"result_{share}.00_percentile_latency_ns"] / 1e6 for share in (50, 90)]
    print(json.dumps([[run.times.p50.ms, run.times.p90.ms], log or None]))


def ours(bundle: Path, backend: str, scenario: str, seconds: float) -> list[str]:
    """The command of `edgecv`."""
    return [sys.executable, __file__, "--ours", str(bundle), backend, scenario, str(seconds)]


def benchmark_app(model: Path, shape: tuple[int, ...], percentile: int, seconds: float) -> list[str]:
    """The command that tells one percentile: it tells no second one."""
    return [
        str(Path(sys.executable).parent / "benchmark_app"), "-m", str(model), "-d", "CPU", "-hint", "none",
        "-nstreams", "1", "-nthreads", str(THREADS), "-api", "sync", "-infer_precision", "f32",
        "-shape", str(list(shape)).replace(" ", ""), "-t", str(round(seconds)), "-latency_percentile", str(percentile),
    ]  # fmt: skip


def told(said: str, percentile: int) -> float:
    """Milliseconds that benchmark_app tells."""
    name = "Median" if percentile == 50 else f"{percentile} percentile"
    found = re.search(rf"{name}:\s+([\d.]+) (ms|us)", said)
    if found is None:
        raise RuntimeError(f"benchmark_app tells no {name}: {said[-500:]}")
    return float(found[1]) / (1 if found[2] == "ms" else 1000)


def tell(process: subprocess.Popen[str], number: int) -> None:
    """Send a signal to a process and all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        own = psutil.Process(process.pid)
        for each in (own, *own.children(recursive=True)):
            each.send_signal(number)


def in_turn(*commands: list[str]) -> list[str]:
    """What programs print that share one core, some seconds each in turn; none runs beside another."""
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for command in commands]
    for process in processes:
        if "--ours" not in process.args:  # type: ignore[operator]
            os.sched_setaffinity(process.pid, FIRST)
        tell(process, signal.SIGSTOP)
    running = list(processes)
    while running:
        for process in list(running):
            tell(process, signal.SIGCONT)
            try:
                process.wait(SLICE_S if len(running) > 1 else None)
                running.remove(process)
            except subprocess.TimeoutExpired:
                tell(process, signal.SIGSTOP)
    if any(process.returncode for process in processes):
        raise RuntimeError("a contender failed")
    return [process.stdout.read() for process in processes if process.stdout is not None]


def main() -> None:
    """Measure, and write the table."""
    found: dict[str, list[Pair]] = {}

    def note(name: str, pair: Pair | None) -> None:
        if pair:
            found.setdefault(name, []).append(pair)

    with study.exported(NETWORK) as path, tempfile.TemporaryDirectory() as folder:
        with Bundle(path) as opened:
            model = Path(folder) / "model.onnx"
            model.write_bytes(opened.variant_file("float32").read_bytes())
            one = opened.golden().images[:1]
        tensor = Path(folder) / "image.npy"
        np.save(tensor, one)
        for _ in range(ROUNDS):
            wall_s = 3 * SECONDS  # of three that share it
            own, *referees = in_turn(
                ours(path, "openvino", "sustained", wall_s),
                *(benchmark_app(model, one.shape, percentile, wall_s) for percentile in (50, 90)),
            )
            note("openvino: edgecv, flat out", json.loads(own)[0])
            note("openvino: benchmark_app", (told(referees[0], 50), told(referees[1], 90)))
            wall_s = 2 * SECONDS
            raw = [sys.executable, "-c", RAW, str(model), str(THREADS), str(wall_s), str(tensor)]
            own, other = in_turn(ours(path, "onnxruntime", "sustained", wall_s), raw)
            note("onnxruntime: edgecv, flat out", json.loads(own)[0])
            note("onnxruntime: raw loop", tuple(map(float, other.split())))
            for backend in ("openvino", "onnxruntime"):
                (own,) = in_turn(ours(path, backend, "single-stream", SECONDS / 2))
                pair, log = json.loads(own)
                note(f"{backend}: edgecv, single-stream", pair)
                note(f"{backend}: LoadGen's own log", log)
            print(f"round {len(found['onnxruntime: raw loop'])} of {ROUNDS}", file=sys.stderr, flush=True)
    STUDY.record(found)


def page(found: dict[str, list[Pair]]) -> list[str]:
    """The table."""
    lines = [
        "| contender | p50 ms | p90 ms | p50 of edgecv's by it | p90 of edgecv's by it |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    apart: list[float] = []
    for name, pairs in found.items():
        backend, _, who = name.partition(": ")
        own = found[f"{backend}: edgecv, {'single-stream' if who.startswith('LoadGen') else 'flat out'}"]
        medians = [statistics.median(pair[place] for pair in pairs) for place in (0, 1)]
        columns = [([each[place] for each in own], [each[place] for each in pairs]) for place in (0, 1)]
        ratios = ["1" if own is pairs else study.shown_ratio(*sides) for sides in columns]
        lines.append(f"| {name} | {medians[0]:.3f} | {medians[1]:.3f} | {ratios[0]} | {ratios[1]} |")
        apart += [] if who.startswith("edgecv") else [abs(study.ratio(*sides)[0] - 1) for sides in columns]
    lines += ["", f"edgecv's medians lie within {max(apart):.1%} of every referee's."]
    rounds = len(next(iter(found.values())))
    how = (
        f"{NETWORK}, float32, 224x224, {THREADS} thread, {rounds} rounds of {SECONDS:g} s each. Ratios: medians of the "
        "same round's, with 10 to 90 % of the rounds. LoadGen's log is of the run beside which it stands: the same "
        "calls, and its way to count percentiles. benchmark_app tells what OpenVINO itself counts of a call, without "
        "what Python adds to it, and without the copy of the input."
    )
    return [how, "", *lines]


STUDY = study.Study(
    Path(__file__),
    "Beside the referees of the field",
    page,
    picture=plots.Rows(
        "edgecv's milliseconds by the referee's, median of the same round's ratios (10–90 %)",
        {f"{each} of edgecv's by it": each for each in ("p50", "p90")},
        where=lambda row: "edgecv" not in row.first,
        line=1,
    ),
)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        edgecv(*sys.argv[2:])
    else:
        main()
