"""Frames per second with every core busy: `Model.map` and `submit` against OpenVINO's own benchmark_app.

    python benchmarks/throughput.py

benchmark_app is the one that the openvino package brings (`openvino.tools.benchmark`), with `-hint throughput`.
Writes benchmarks/results/throughput.md.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import study

MODELS = ("mobilenet_v3_small", "mobilenet_v2")
ROUNDS, SECONDS = 3, 3.0


def benchmark_app(model: Path) -> float:
    """Frames per second that benchmark_app reports, at batch 1, float32."""
    with tempfile.TemporaryDirectory() as folder:
        given = f"-m {model} -d CPU -hint throughput -t {SECONDS:.0f} -infer_precision f32 -shape [1,224,224,3]"
        given += f" -report_type no_counters -report_folder {folder} -json_stats"
        code = f"import sys; sys.argv = {['benchmark_app', *given.split()]!r}\n"
        code += "from openvino.tools.benchmark.main import main; main()"
        script = Path(folder) / "run.py"
        script.write_text(code)
        study.in_process(script, [])
        report = json.loads((Path(folder) / "benchmark_report.json").read_text())
    return float(report["execution_results"]["throughput"])


def serve(bundle: str, backend: str, goal: str, how: str) -> None:
    """One contender in a process of its own: prints frames per second."""
    import edgecv_runtime

    with edgecv_runtime.load(bundle, backend=backend, goal=goal) as model:
        x = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
        tensors: Iterator[dict[str, object]] = itertools.repeat({"image": x})
        begin, count = 0.0, 0
        if how == "map":
            for count, _ in enumerate(model.map(tensors), -20):
                now = time.perf_counter()
                if count == 0:
                    begin = now
                if begin and now - begin > SECONDS:
                    break
        else:
            begin = time.perf_counter()
            while (now := time.perf_counter()) - begin < SECONDS:
                model.run({"image": x})
                count += 1
    print(count / (now - begin))


CONTENDERS = {
    "edgecv map, OpenVINO, throughput": ("openvino", "throughput", "map"),
    "edgecv map, onnxruntime, throughput": ("onnxruntime", "throughput", "map"),
    "edgecv run in a loop, OpenVINO, latency": ("openvino", "latency", "run"),
    "edgecv run in a loop, onnxruntime, latency": ("onnxruntime", "latency", "run"),
}
ORACLE = "benchmark_app -hint throughput"


def main() -> None:
    """Measure in turn and write the table."""
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    lines = []
    for name in MODELS:
        with study.exported(name) as bundle:
            found: dict[str, list[float]] = {each: [] for each in (ORACLE, *CONTENDERS)}
            for number in range(ROUNDS):
                for each in list(found) if number % 2 == 0 else reversed(list(found)):
                    if each == ORACLE:
                        rate = benchmark_app(bundle / "model.onnx")
                    else:
                        rate = float(study.in_process(Path(__file__), ["--serve", str(bundle), *CONTENDERS[each]]))
                    found[each].append(rate)
        lines += [f"## `{name}`", "", "| how | frames/s, median of rounds (10–90 %) | of benchmark_app |"]
        lines += ["| --- | ---: | ---: |"]
        lines += [
            f"| {each} | {study.shown(rates, 0)} | {study.shown_ratio(rates, found[ORACLE])} |"
            for each, rates in found.items()
        ]
        lines += [""]
    how = (
        f"Ready uint8 tensors at batch 1, fresh weights, float32. {ROUNDS} interleaved rounds; each contender runs "
        f"{SECONDS:g} s in a process of its own each time."
    )
    study.write("throughput", "Every core busy", how, lines)


if __name__ == "__main__":
    main()
