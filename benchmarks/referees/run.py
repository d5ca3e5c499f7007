"""Whether `edgecv bench --scenario` tells the p50 and p90 that the referees of the field tell of the same file.

OpenVINO's `benchmark_app`, LoadGen's own log, and a raw loop around onnxruntime's session, as onnxruntime_perf_test has
it; each contender is a process of its own, all take turns, every second round in reverse order.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import plots, study
from edgecv_runtime import Bundle
from edgecv_runtime.scenario import session
from edgecv_runtime.scenario.plan import Plan
from edgecv_runtime.target import targets

ROUNDS, SECONDS, THREADS = 11, 2.0, 1
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


def edgecv(opened: Bundle, backend: str, scenario: str) -> tuple[Pair, Pair | None]:
    """Our figures, and those of LoadGen's log where it played."""
    (target,) = [each for each in targets(opened, backend, THREADS) if each.hint == "float32"]
    (run,) = session.bench(opened, [target], Plan(scenario, seconds=SECONDS, threads=THREADS)).runs
    log = run.loadgen and tuple(run.loadgen[f"result_{share}.00_percentile_latency_ns"] / 1e6 for share in (50, 90))
    return (run.times.p50.ms, run.times.p90.ms), log or None


def benchmark_app(model: Path, shape: tuple[int, ...]) -> Pair:
    """It tells one percentile a run: so it runs twice."""
    found = []
    for percentile in (50, 90):
        command = [
            str(Path(sys.executable).parent / "benchmark_app"), "-m", str(model), "-d", "CPU", "-hint", "none",
            "-nstreams", "1", "-nthreads", str(THREADS), "-api", "sync", "-infer_precision", "f32",
            "-shape", str(list(shape)).replace(" ", ""), "-t", str(round(SECONDS)),
            "-latency_percentile", str(percentile),
        ]  # fmt: skip
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        name = "Median" if percentile == 50 else f"{percentile} percentile"
        told = re.search(rf"{name}:\s+([\d.]+) (ms|us)", said)
        if told is None:
            raise RuntimeError(f"benchmark_app tells no {name}: {said[-500:]}")
        found.append(float(told[1]) / (1 if told[2] == "ms" else 1000))
    return found[0], found[1]


def raw_loop(model: Path, tensor: Path) -> Pair:
    """A loop around the session."""
    said = subprocess.run(
        [sys.executable, "-c", RAW, str(model), str(THREADS), str(SECONDS), str(tensor)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    p50, p90 = map(float, said.stdout.split())
    return p50, p90


def main() -> None:
    """Measure, and write the table."""
    found: dict[str, list[Pair]] = {}

    def note(name: str, pair: Pair | None) -> None:
        if pair:
            found.setdefault(name, []).append(pair)

    with study.exported("mobilenet_v3_small") as path, Bundle(path) as opened, tempfile.TemporaryDirectory() as folder:
        model = opened.variant_file("float32")
        tensor = Path(folder) / "image.npy"
        one = opened.golden().images[:1]
        np.save(tensor, one)

        def ours(backend: str, scenario: str, label: str) -> Callable[[], None]:
            def measure() -> None:
                pair, log = edgecv(opened, backend, scenario)
                note(f"{backend}: {label}", pair)
                note(f"{backend}: LoadGen's own log", log)

            return measure

        turns: list[Callable[[], None]] = [
            ours("openvino", "sustained", "edgecv, flat out"),
            lambda: note("openvino: benchmark_app", benchmark_app(model, one.shape)),
            ours("openvino", "single-stream", "edgecv, single-stream"),
            ours("onnxruntime", "sustained", "edgecv, flat out"),
            lambda: note("onnxruntime: raw loop", raw_loop(model, tensor)),
            ours("onnxruntime", "single-stream", "edgecv, single-stream"),
        ]
        for number in range(ROUNDS):
            for turn in turns if number % 2 == 0 else reversed(turns):
                turn()
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
        f"mobilenet_v3_small, float32, 224x224, {THREADS} thread, {rounds} rounds of {SECONDS:g} s, in turn. "
        "Ratios: medians of the same round's, with 10 to 90 % of the rounds. LoadGen's log is of the run beside which "
        "it stands: the same calls, and its way to count percentiles."
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
    main()
