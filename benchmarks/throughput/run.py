"""Frames per second with every core busy: `Model.map` against OpenVINO's own benchmark_app.

    python benchmarks/throughput/run.py

benchmark_app is the one that the openvino package brings (`openvino.tools.benchmark`), with `-hint throughput`.
Writes benchmarks/throughput/results.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots, study

MODELS = ("mobilenet_v3_small", "mobilenet_v2")
GENERATIONS, ROUNDS, SECONDS = 2, 7, 1.0
WARM_UP_SECONDS = 0.3


def benchmark_app(bundle: str) -> None:
    """benchmark_app at batch 1, float32; its own measuring loop runs once for each round, its report is left out."""
    from openvino.tools.benchmark import main as app
    from openvino.tools.benchmark.benchmark import Benchmark

    loop = Benchmark.main_loop

    def answer(self: Any, *given: Any) -> None:
        def round_ms(seconds: float) -> float:
            self.duration_seconds = seconds
            return float(1e3 / loop(self, *given)[0])

        round_ms(WARM_UP_SECONDS)
        study.answer(round_ms)
        sys.exit()

    Benchmark.main_loop = answer
    asked = f"-m {bundle}/model.onnx -d CPU -hint throughput -infer_precision f32 -shape [1,224,224,3]"
    sys.argv = ["benchmark_app", *asked.split()]
    app.main()


def edgecv(bundle: str, backend: str, goal: str, how: str) -> None:
    """`map`, or `run` in a loop, from the first frame given to the last result taken."""
    import edgecv_runtime

    feed = {"image": np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)}

    def source(seconds: float) -> Iterator[dict[str, Any]]:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            yield feed

    with edgecv_runtime.load(bundle, backend=backend, goal=goal) as model:

        def round_ms(seconds: float) -> float:
            begin = time.perf_counter()
            results = model.map(source(seconds)) if how == "map" else map(model.run, source(seconds))
            count = sum(1 for _ in results)
            return (time.perf_counter() - begin) / count * 1e3

        round_ms(WARM_UP_SECONDS)
        study.answer(round_ms)


ORACLE = "benchmark_app -hint throughput"
CONTENDERS = {
    ORACLE: (),
    "edgecv map, OpenVINO, throughput": ("openvino", "throughput", "map"),
    "edgecv map, onnxruntime, throughput": ("onnxruntime", "throughput", "map"),
    "edgecv run in a loop, OpenVINO, latency": ("openvino", "latency", "run"),
    "edgecv run in a loop, onnxruntime, latency": ("onnxruntime", "latency", "run"),
}


def main() -> None:
    """Measure in turn and write the table."""
    if sys.argv[1:2] == ["--serve"]:
        bundle, *given = sys.argv[2:]
        edgecv(bundle, *given) if given else benchmark_app(bundle)
        return
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    figures: dict[str, dict[str, list[float]]] = {}
    for name in MODELS:
        with study.exported(name) as bundle:
            contenders = {each: (str(bundle), *given) for each, given in CONTENDERS.items()}
            taken = study.processes_ms(Path(__file__), contenders, GENERATIONS, ROUNDS, SECONDS)
        figures[name] = {each: [1e3 / ms for ms in times] for each, times in taken.items()}
    STUDY.record(figures)


def page(figures: dict[str, dict[str, list[float]]]) -> list[str]:
    """A table for each network; figures: frames a second of each contender, by round."""
    lines = []
    for name, found in figures.items():
        lines += [f"### `{name}`", "", "| how | frames/s, median of rounds (10–90 %) | of benchmark_app |"]
        lines += ["| --- | ---: | ---: |"]
        lines += [
            f"| {each} | {study.shown(rates, 0)} | {study.shown_ratio(rates, found[ORACLE])} |"
            for each, rates in found.items()
        ]
        lines += [""]
    how = (
        f"Ready uint8 tensors at batch 1, fresh weights, float32. Each contender is a process of its own, started "
        f"{GENERATIONS} times; all are alive at once and measured in turn, {ROUNDS} rounds of {SECONDS:g} s each time: "
        f"benchmark_app by its own measuring loop, edgecv from the first frame given to the last result taken. "
        f"benchmark_app fills its tensors once, before it measures; edgecv is given a tensor and gives back an array "
        f"of its own for every frame. The ratio is of the same round."
    )
    return [how, "", *lines]


STUDY = study.Study(
    Path(__file__),
    "Every core busy",
    page,
    picture=plots.Rows(
        "frames/s as a share of benchmark_app's in the same round, median (10–90 %)",
        {"of benchmark_app": ""},
        group=plots.heading,
        where=lambda row: row.first != ORACLE,
        line=1,
    ),
)


if __name__ == "__main__":
    main()
