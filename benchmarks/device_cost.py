"""How well `edgecv calibrate` predicts the latency of networks that it has not seen: the zoo, at its paper sizes.

    python benchmarks/device_cost.py export        the zoo as ONNX files, as edgecv deploys it, fresh weights
    python benchmarks/device_cost.py calibrate     60 s for each backend and precision
    python benchmarks/device_cost.py measure       one more round of real runs; stops after --seconds, goes on next time
    python benchmarks/device_cost.py table         benchmarks/results/device-cost.md

Everything lies in --folder between the steps. Run calibrate and measure on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from edgecv import models, xray
from edgecv.cost import calibration as calibrations
from edgecv.cost import real
from edgecv.cost.calibrate import calibrate, micro_kernels
from edgecv.cost.calibration import Calibration
from edgecv.cost.design import micro_networks
from edgecv.cost.kernels import Kernel, kernels
from edgecv.cost.predict import Prediction, predict
from edgecv_runtime.backends import Options

RESULTS = Path(__file__).parent / "results" / "device-cost.md"
Round = tuple[float, float]  # fastest ms of a model, and of the reference network beside it
Measured = dict[str, dict[str, list[Round]]]  # calibration's key -> model -> rounds
QUIET = 1.15  # rounds in which the reference took so much longer or shorter than at the calibration do not count


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["export", "calibrate", "measure", "table"])
    parser.add_argument("--folder", type=Path, default=Path("runs/device-cost"))
    parser.add_argument("--seconds", type=float, default=3600, help="stop a step after so long")
    parser.add_argument("--only", help="one calibration: 'openvino float32'")
    parser.add_argument("--models", nargs="+", help="measure these only")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + given.seconds
    if given.step == "export":
        export(given.folder, end)
    elif given.step == "calibrate":
        run_calibrations(given.folder, end, given.only)
    elif given.step == "measure":
        measure(given.folder, end, given.only, given.models)
    else:
        write(given.folder)


def export(folder: Path, end: float) -> None:
    """Export each model once."""
    for name in models.names():
        path = folder / f"{name}.onnx"
        if not path.exists() and time.monotonic() < end:
            real.export(name, path)
            print(f"{name}: {path.stat().st_size / 1e6:.0f} MB", flush=True)


def run_calibrations(folder: Path, end: float, only: str | None) -> None:
    """Calibrate every backend and precision."""
    for backend, precision in calibrations.runnable():
        if only in (None, f"{backend} {precision}") and time.monotonic() < end:
            done = calibrate(backend, precision, progress=print)
            calibrations.write(folder / f"{backend}-{precision}.json", [done])
            print(f"{done.key}: {len(done.timed)} networks, left-out error {done.error:.1%}", flush=True)


def measure(folder: Path, end: float, only: str | None, chosen: list[str] | None) -> None:
    """Add a round to the models that have the fewest, until the time is over."""
    path = folder / "measured.json"
    found: Measured = msgspec.json.decode(path.read_bytes(), type=Measured) if path.exists() else {}
    for calibration in calibrated(folder):
        if only not in (None, calibration.key):
            continue
        rounds = found.setdefault(calibration.key, {})
        options = Options(precision=calibration.precision)
        files = [file for file in folder.glob("*.onnx") if chosen is None or file.stem in chosen]
        for file in sorted(files, key=lambda file: (len(rounds.get(file.stem, [])), file.stat().st_size)):
            if time.monotonic() > end:
                break
            rounds.setdefault(file.stem, []).append(real.file_ms(file, calibration.backend, options))
            print(f"{calibration.key}: {file.stem} {rounds[file.stem][-1][0]:.2f} ms", flush=True)
            gc.collect()
            path.write_bytes(msgspec.json.encode(found))


def calibrated(folder: Path) -> list[Calibration]:
    """The calibrations of this study."""
    return [calibrations.read(path)[0] for path in sorted(folder.glob("*-*.json"))]


def write(folder: Path) -> None:
    """Write the tables."""
    found = msgspec.json.decode((folder / "measured.json").read_bytes(), type=Measured)
    done = [calibration for calibration in calibrated(folder) if found.get(calibration.key)]
    graphs = {name: xray.read(folder / f"{name}.onnx") for name in sorted({n for c in done for n in found[c.key]})}
    before = {name: xray.zoo(name) for name in graphs}
    machine = done[0].machine
    lines = [
        "# Predicted and measured latency of the zoo",
        "",
        f"Measured {datetime.now(timezone.utc):%Y-%m-%d} by `benchmarks/device_cost.py` on {machine.key} "
        f"({machine.os}), batch 1, paper sizes, uint8 frames in. The calibration times small networks of its own and "
        "has seen none of these: see the last section.",
        "",
        *summary(done, found, graphs, before),
    ]
    for calibration in done:
        lines += ["", *table(calibration, quiet(calibration, found[calibration.key]), graphs)]
    lines += ["", *unseen(graphs, done)]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def summary(done: list[Calibration], found: Measured, graphs: dict, before: dict) -> list[str]:
    """One line for each calibration."""
    lines = [
        "| backend, precision | models | mean absolute error | the same from PyTorch, before export | Kendall tau | "
        "within 20 % | largest error | calibrated in | its own left-out error | GMAC/s | memory GB/s |",
        "| --- " + "| ---: " * 10 + "|",
    ]
    for calibration in done:
        times = quiet(calibration, found[calibration.key])
        errors = {name: predict(graphs[name], calibration).ms / ms - 1 for name, ms in times.items()}
        early = [abs(predict(before[name], calibration).ms / ms - 1) for name, ms in times.items()]
        worst = max(errors, key=lambda name: abs(errors[name]))
        sizes = [abs(error) for error in errors.values()]
        ordered = kendall_tau([(1 + errors[name]) * times[name] for name in times], list(times.values()))
        limits = calibration.limits
        lines.append(
            f"| {calibration.key} | {len(times)} | {statistics.mean(sizes):.1%} | {statistics.mean(early):.1%} "
            f"| {ordered:.3f} | {sum(size <= 0.2 for size in sizes)} | {errors[worst]:+.0%} ({worst}) "
            f"| {calibration.seconds:.0f} s | {calibration.error:.1%} | {limits.gmacs_per_s:.0f} "
            f"| {limits.memory_gb_per_s:.1f} |"
        )
    return lines


def quiet(calibration: Calibration, rounds: dict[str, list[Round]]) -> dict[str, float]:
    """The fastest of the rounds in which the machine was as fast as at the calibration, by model."""
    found = {}
    for name, each in rounds.items():
        times = [ms for ms, reference in each if 1 / QUIET < reference / calibration.reference_ms < QUIET]
        if times:
            found[name] = min(times)
    return found


def kendall_tau(first: list[float], second: list[float]) -> float:
    """Share of the pairs in the same order less those in the other (Kendall 1938, tau-a)."""
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    signs = [math.copysign(1, (first[i] - first[j]) * (second[i] - second[j])) for i, j in pairs]
    return sum(signs) / len(pairs)


def table(calibration: Calibration, times: dict[str, float], graphs: dict) -> list[str]:
    """Every model: predicted, measured, and how near the limit."""
    lines = [
        f"## {calibration.key}",
        "",
        "| model | predicted ms | measured ms | error | limit ms | of the limit reached | most time in |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name in sorted(times, key=lambda name: times[name]):
        ms, found = times[name], predict(graphs[name], calibration)
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


def unseen(graphs: dict, done: list[Calibration]) -> list[str]:
    """How many of the zoo's products have the shape of a timed one."""
    backend = done[0].backend
    timed = {shape(kernel) for found in micro_kernels(backend, micro_networks()) for kernel in found}
    mine = [shape(kernel) for graph in graphs.values() for kernel in kernels(graph, backend) if kernel.macs]
    same = sum(each in timed for each in mine)
    return [
        "## What the calibration has not seen",
        "",
        f"The zoo's {len(graphs)} networks have {len(mine)} products (convolutions, linear layers, matrix products) of "
        f"{len(set(mine))} shapes; {same} of them ({len({each for each in mine if each in timed})} shapes) have the "
        "shape of one in the calibration's small networks.",
    ]


def shape(kernel: Kernel) -> tuple[str, int, int, int, int, int]:
    """What tells products apart: kind, terms of a sum, results, places, stride, repetitions."""
    return (kernel.kind, kernel.inner, kernel.outer, kernel.places, kernel.stride, kernel.batch)


if __name__ == "__main__":
    main()
