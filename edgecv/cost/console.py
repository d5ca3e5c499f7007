"""A prediction on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgecv.cost.measure import QUIET
from edgecv.cost.predict import Forecast, KernelCost, Prediction
from edgecv.cost.record import Survey
from edgecv.grid import grid

if TYPE_CHECKING:
    from rich.console import Console

TOP = 15


def print_prediction(prediction: Prediction, console: Console, *, top: int | None = None) -> None:
    """Print the costliest kernels, in the order in which they run, then the sums by kind."""
    rows = prediction.kernels
    costly = sorted(rows, key=lambda row: -row.ms)[: top or TOP]
    shown = [row for row in rows if any(row is each for each in costly)]
    title = f"{prediction.name} on {prediction.backend} {prediction.precision}, {prediction.machine}"
    header = ("layer", "runs with it", "kernel", "ms", "share", "limit ms", "bound by")
    lines = [(row.layers[0], _along(row), row.kind, *_figures([row], prediction.ms), row.bound) for row in shown]
    _grid(console, title, header, lines)
    kinds = dict.fromkeys(row.kind for row in sorted(rows, key=lambda row: -row.ms))
    sums = []
    for kind in kinds:
        these = [row for row in rows if row.kind == kind]
        sums.append((kind, str(len(these)), *_figures(these, prediction.ms), _most(these)))
    sums.sort(key=lambda line: -float(line[2]))
    _grid(console, "by kind of kernel", ("kernel", "count", "ms", "share", "limit ms", "bound by"), sums)
    if len(shown) < len(rows):
        console.print(f"the {len(shown)} costliest of {len(rows)} kernels; --top shows more", style="dim")


def sentences(forecast: Forecast) -> list[str]:
    """What a prediction says, and what a real run reached."""
    prediction, measured_ms = forecast.prediction, forecast.measured_ms
    lines = [
        f"predicted: {prediction.ms:.2f} ms at batch 1 on {prediction.backend} {prediction.precision}; the hardware's "
        f"limit is {prediction.limit_ms:.2f} ms, {prediction.limit_ms / prediction.ms:.0%} of it would be reached"
    ]
    if measured_ms is not None:
        lines.append(
            f"measured: {measured_ms:.2f} ms, {prediction.reached(measured_ms):.0%} of the hardware's limit was "
            f"reached; the prediction is off by {prediction.ms / measured_ms - 1:+.0%}"
        )
    if forecast.slower is not None and not 1 / QUIET < forecast.slower < QUIET:
        lines.append(
            f"the machine is not as it was: a reference network takes {forecast.slower:.2f} times as long as at the "
            "survey; close what else runs, or survey again"
        )
    if prediction.unknown:
        names = ", ".join(f"{count} {op}" for op, count in sorted(prediction.unknown.items()))
        lines.append(f"no rule for: {names}; costed by the bytes that they move")
    return lines


def describe(survey: Survey) -> str:
    """One line on a survey."""
    limits = survey.limits
    return (
        f"{survey.key}: {limits.gmacs_per_s:.0f} GMAC/s, weights from memory at {limits.memory_gb_per_s:.1f} "
        f"GB/s, activations at {limits.cache_gb_per_s:.0f} GB/s; {len(survey.timed)} small networks in "
        f"{survey.seconds:.0f} s, left-out error {survey.error:.0%}"
    )


def _along(row: KernelCost) -> str:
    return ", ".join(_last(name, row.layers[0]) for name in row.layers[1:])


def _last(name: str, main: str) -> str:
    """The part of a name that its neighbour's does not have."""
    parts, others = name.replace("/", ".").split("."), main.replace("/", ".").split(".")
    same = 0
    while same < min(len(parts) - 1, len(others) - 1) and parts[same] == others[same]:
        same += 1
    return ".".join(parts[same:])


def _figures(rows: Sequence[KernelCost], total: float) -> tuple[str, str, str]:
    ms = sum(row.ms for row in rows)
    return f"{ms:.3f}", f"{ms / total:.1%}", f"{sum(row.limit_ms for row in rows):.3f}"


def _most(rows: Sequence[KernelCost]) -> str:
    """What bounds most of the time."""
    times = {name: sum(row.ms for row in rows if row.bound == name) for name in ("compute", "memory", "overhead")}
    return max(times, key=lambda name: times[name])


def _grid(console: Console, title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    from rich.text import Text

    table = grid(title, gap=1)
    for name in header:
        is_number, is_list = name in ("ms", "share", "limit ms", "count"), name in ("layer", "runs with it")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold", no_wrap=not is_list)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)
