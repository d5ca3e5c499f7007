"""How well `edgecv survey` predicts the latency of networks that it has not seen: the zoo, at its paper sizes.

    python benchmarks/device_cost/run.py export    the zoo as ONNX files, as edgecv deploys it, fresh weights
    python benchmarks/device_cost/run.py survey    60 s for each backend and precision
    python benchmarks/device_cost/run.py measure   one more round of real runs; stops after --seconds, goes on next time
    python benchmarks/device_cost/run.py layers    time single layers of some networks with OpenVINO's own profiler
    python benchmarks/device_cost/run.py table     record the study

Everything lies in --folder between the steps. Run survey and measure on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np

from benchmarks import plots, study
from edgecv import models, xray
from edgecv.cost import real
from edgecv.cost import record as surveys
from edgecv.cost.design import micro_networks
from edgecv.cost.kernels import PRODUCTS, Kernel, kernels
from edgecv.cost.predict import Prediction, predict
from edgecv.cost.record import Survey
from edgecv.cost.survey import micro_kernels
from edgecv.cost.survey import survey as make_survey
from edgecv_runtime.backends import Options

PROFILED, PROFILE_RUNS = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "vgg11"), 40
PRODUCT_TYPES = ("Convolution", "GroupConvolution", "FullyConnected", "MatMul")
Round = tuple[float, float]  # fastest ms of a model, and of the reference network beside it
Measured = dict[str, dict[str, list[Round]]]  # survey's key -> model -> rounds


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["export", "survey", "measure", "layers", "table"])
    parser.add_argument("--folder", type=Path, default=Path("runs/device-cost"))
    parser.add_argument("--seconds", type=float, default=3600, help="stop a step after so long")
    parser.add_argument("--only", help="one survey: 'openvino float32'")
    parser.add_argument("--models", nargs="+", help="measure these only")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + given.seconds
    if given.step == "export":
        export(given.folder, end)
    elif given.step == "survey":
        run_surveys(given.folder, end, given.only)
    elif given.step == "measure":
        measure(given.folder, end, given.only, given.models)
    elif given.step == "layers":
        profile(given.folder)
    else:
        write(given.folder)


def export(folder: Path, end: float) -> None:
    """Export each model once."""
    for name in models.names():
        path = folder / f"{name}.onnx"
        if not path.exists() and time.monotonic() < end:
            real.export(name, path)
            print(f"{name}: {path.stat().st_size / 1e6:.0f} MB", flush=True)


def run_surveys(folder: Path, end: float, only: str | None) -> None:
    """Survey every backend and precision."""
    for backend, precision in surveys.runnable():
        if only in (None, f"{backend} {precision}") and time.monotonic() < end:
            done = make_survey(backend, precision, progress=print)
            surveys.write(folder / f"{backend}-{precision}.json", [done])
            print(f"{done.key}: {len(done.timed)} networks, left-out error {done.error:.1%}", flush=True)


def measure(folder: Path, end: float, only: str | None, chosen: list[str] | None) -> None:
    """Add a round to the models that have the fewest, until the time is over."""
    path = folder / "measured.json"
    found: Measured = msgspec.json.decode(path.read_bytes(), type=Measured) if path.exists() else {}
    for survey in surveyed(folder):
        if only not in (None, survey.key):
            continue
        rounds = found.setdefault(survey.key, {})
        options = Options(precision=survey.precision)
        files = [file for file in folder.glob("*.onnx") if chosen is None or file.stem in chosen]
        for file in sorted(files, key=lambda file: (len(rounds.get(file.stem, [])), file.stat().st_size)):
            if time.monotonic() > end:
                break
            rounds.setdefault(file.stem, []).append(real.file_ms(file, survey.backend, options))
            print(f"{survey.key}: {file.stem} {rounds[file.stem][-1][0]:.2f} ms", flush=True)
            gc.collect()
            path.write_bytes(msgspec.json.encode(found))


def profile(folder: Path) -> None:
    """Fastest time of each product of some networks without branches of products, in the order in which they run."""
    import openvino

    found: dict[str, list[float]] = {}
    for name in PROFILED:
        config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
        compiled = openvino.Core().compile_model(str(folder / f"{name}.onnx"), "CPU", config)
        request = compiled.create_infer_request()
        shape = (1, *(size for size in models.spec(name).size), 3)
        frame = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        best: dict[str, float] = {}
        for _ in range(PROFILE_RUNS):
            request.infer({"image": frame})
            for node in request.profiling_info:
                if node.node_type in PRODUCT_TYPES:
                    ms = node.real_time.total_seconds() * 1e3
                    best[node.node_name] = min(ms, best.get(node.node_name, ms))
        found[name] = list(best.values())
    (folder / "layers.json").write_bytes(msgspec.json.encode(found))


def surveyed(folder: Path) -> list[Survey]:
    """The surveys of this study."""
    return [surveys.read(path)[0] for path in sorted(folder.glob("*-*.json"))]


def write(folder: Path) -> None:
    """Write the tables."""
    found = msgspec.json.decode((folder / "measured.json").read_bytes(), type=Measured)
    done = [survey for survey in surveyed(folder) if found.get(survey.key)]
    graphs = {name: xray.read(folder / f"{name}.onnx") for name in sorted({n for c in done for n in found[c.key]})}
    before = {name: xray.zoo(name) for name in graphs}
    machine = done[0].machine
    most = max(len(rounds) for each in done for rounds in found[each.key].values())
    measured = (
        f"Measured {datetime.now(timezone.utc):%Y-%m-%d} by `benchmarks/device_cost/run.py` on {machine.key} "
        f"({machine.os}), batch 1, paper sizes, uint8 frames in, each model the fastest of its rounds "
        f"(at most {most})."
    )
    lines = [
        "The machine is a shared virtual one: for minutes at a time, networks of many small kernels take up to 1.7 "
        "times as long on it; models that were only met so stand below as they were measured.",
        "",
        *summary(done, found, graphs, before),
    ]
    for survey in done:
        lines += ["", *table(survey, fastest(found[survey.key]), graphs)]
    with_layers = [each for each in done if each.key == "openvino float32"]
    if with_layers and (folder / "layers.json").exists():
        lines += ["", *layers(folder, with_layers[0], graphs)]
    lines += ["", *unseen(graphs, done)]
    STUDY.record(lines, measured)


def summary(done: list[Survey], found: Measured, graphs: dict, before: dict) -> list[str]:
    """One line for each survey."""
    lines = [
        "| backend, precision | models | mean absolute error | the same from PyTorch, before export | Kendall tau | "
        "within 20 % | largest error | surveyed in | its own left-out error | GMAC/s | memory GB/s |",
        "| --- " + "| ---: " * 10 + "|",
    ]
    for survey in done:
        times = fastest(found[survey.key])
        errors = {name: predict(graphs[name], survey).ms / ms - 1 for name, ms in times.items()}
        early = [abs(predict(before[name], survey).ms / ms - 1) for name, ms in times.items()]
        worst = max(errors, key=lambda name: abs(errors[name]))
        sizes = [abs(error) for error in errors.values()]
        ordered = kendall_tau([(1 + errors[name]) * times[name] for name in times], list(times.values()))
        limits = survey.limits
        lines.append(
            f"| {survey.key} | {len(times)} | {statistics.mean(sizes):.1%} | {statistics.mean(early):.1%} "
            f"| {ordered:.3f} | {sum(size <= 0.2 for size in sizes)} | {errors[worst]:+.0%} ({worst}) "
            f"| {survey.seconds:.0f} s | {survey.error:.1%} | {limits.gmacs_per_s:.0f} "
            f"| {limits.memory_gb_per_s:.1f} |"
        )
    return lines


def fastest(rounds: dict[str, list[Round]]) -> dict[str, float]:
    """The fastest of the rounds, by model."""
    return {name: min(ms for ms, _ in each) for name, each in rounds.items()}


def kendall_tau(first: list[float], second: list[float]) -> float:
    """Share of the pairs in the same order less those in the other (Kendall 1938, tau-a)."""
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    products = [(first[i] - first[j]) * (second[i] - second[j]) for i, j in pairs]
    return sum((product > 0) - (product < 0) for product in products) / len(pairs)


def table(survey: Survey, times: dict[str, float], graphs: dict) -> list[str]:
    """Every model: predicted, measured, and how near the limit."""
    lines = [
        f"### {survey.key}",
        "",
        "| model | predicted ms | measured ms | error | limit ms | of the limit reached | most time in |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in sorted(times, key=lambda name: times[name]):
        ms, found = times[name], predict(graphs[name], survey)
        lines.append(
            f"| {name} | {found.ms:.2f} | {ms:.2f} | {found.ms / ms - 1:+.0%} | {found.limit_ms:.2f} "
            f"| {found.reached(ms):.0%} | {most(found)} |"
        )
    return lines


def most(found: Prediction) -> str:
    """The kinds of kernels that take most."""
    sums: dict[str, float] = {}
    for kernel in found.kernels:
        sums[kernel.kind] = sums.get(kernel.kind, 0.0) + kernel.share
    return ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(sums.items(), key=lambda each: -each[1])[:3])


def layers(folder: Path, survey: Survey, graphs: dict[str, xray.Graph]) -> list[str]:
    """Predicted against profiled time of single products."""
    profiled = msgspec.json.decode((folder / "layers.json").read_bytes(), type=dict[str, list[float]])
    lines = [
        "### Single layers",
        "",
        "Convolutions and linear layers one by one, by OpenVINO's own profiler (fastest of "
        f"{PROFILE_RUNS} runs, whole microseconds), against their predictions. Error: sum of the absolute "
        "differences, of the sum of the profiled times.",
        "",
        "| model | layers | profiled ms | predicted ms | error | Kendall tau |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, times in profiled.items():
        rows = [row for row in predict(graphs[name], survey).kernels if row.kind in PRODUCTS]
        assert len(rows) == len(times), f"{name}: {len(rows)} kernels, {len(times)} profiled"
        off = sum(abs(row.ms - ms) for row, ms in zip(rows, times, strict=True)) / sum(times)
        lines.append(
            f"| {name} | {len(rows)} | {sum(times):.2f} | {sum(row.ms for row in rows):.2f} | {off:.0%} "
            f"| {kendall_tau([row.ms for row in rows], times):.2f} |"
        )
    return lines


def unseen(graphs: dict, done: list[Survey]) -> list[str]:
    """How many of the zoo's products have the shape of a timed one."""
    backend = done[0].backend
    timed = {shape(kernel) for found in micro_kernels(backend, micro_networks()) for kernel in found}
    mine = [shape(kernel) for graph in graphs.values() for kernel in kernels(graph, backend) if kernel.macs]
    same = sum(each in timed for each in mine)
    return [
        "### What the survey has not seen",
        "",
        f"The zoo's {len(graphs)} networks have {len(mine)} products (convolutions, linear layers, matrix products) of "
        f"{len(set(mine))} shapes; {same} of them ({len({each for each in mine if each in timed})} shapes) have the "
        "shape of one in the survey's small networks.",
    ]


def shape(kernel: Kernel) -> tuple[str, int, int, int, int, int]:
    """What tells products apart: kind, terms of a sum, results, places, stride, repetitions."""
    return (kernel.kind, kernel.inner, kernel.outer, kernel.places, kernel.stride, kernel.batch)


STUDY = study.Study(
    Path(__file__),
    "Predicted and measured latency of the zoo",
    picture=plots.Against(
        ("measured ms", "measured milliseconds"),
        ("predicted ms", "predicted milliseconds"),
        series=plots.heading,
        named=1.25,
        same="predicted as measured",
    ),
)


if __name__ == "__main__":
    main()
