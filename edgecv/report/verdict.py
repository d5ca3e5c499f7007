"""The outcome of a run in plain words: what to use, what it costs, what is withheld and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgecv.run.folder import Run
from edgecv_runtime.bench import table
from edgecv_runtime.bench.table import Row, number, signed
from edgecv_runtime.manifest import Budget


@dataclass(frozen=True)
class Verdict:
    """headline: one line; facts: sentences; offered and withheld: (variant and backend, why) pairs."""

    headline: str
    facts: list[str]
    offered: list[str]
    withheld: list[tuple[str, str]]


def of(run: Run) -> Verdict:
    """Say what the evidence says, and no more; of several machines, that of the fastest choice."""
    best = table.fastest(run.rows)
    if best is not None:
        run = replace(run, rows=[row for row in run.rows if row.machine in (None, best.machine)])
    offered = [row for row in run.rows if row.offered]
    facts = [*_speed(best, run.rows), *_size(run.rows), *_quality(run), *_scored_on(run), *_on_request(run.rows)]
    where = f" on {best.machine}" if best is not None and len(run.machines) > 1 else ""
    return Verdict(
        headline=_headline(best, offered, where),
        facts=facts,
        offered=[row.target for row in offered],
        withheld=[(row.target, row.why_not) for row in run.rows if not row.offered and row.hint in (None, "float32")],
    )


def _headline(best: Row | None, offered: list[Row], where: str) -> str:
    if best is not None and best.latency is not None:
        time = number(best.latency.p50_ms / best.latency.batch)
        rate = number(best.latency.throughput_per_s)
        return f"Fastest choice{where}: {best.target}, {time} ms per frame, {rate} per second."
    if offered:
        return "Offered, but not timed: run 'edgecv bench'."
    return "Nothing is offered yet: see below what was withheld and why."


def _speed(best: Row | None, rows: list[Row]) -> Iterable[str]:
    """Compare the best row with float32 on the same backend and machine."""
    base = _float32(rows, best)
    if best is None or base is None or base is best or base.latency is None or best.latency is None:
        return
    times = base.latency.p50_ms / best.latency.p50_ms
    yield f"It is {times:.1f} times as fast as float32 on {best.backend} ({number(base.latency.p50_ms)} ms)."


def _size(rows: list[Row]) -> Iterable[str]:
    sizes = {row.variant: row.file_mb for row in rows}
    whole = sizes.pop("float32", 0.0)
    for name, size in sizes.items():
        if whole:
            yield f"{name}: a file of {number(size)} MB, not {number(whole)} MB: {whole / size:.1f} times smaller."


def _quality(run: Run) -> Iterable[str]:
    """Accuracy of each variant, or its agreement where there are no labels, on the backend where it is worst.

    Backends on which it is offered come first: what is withheld does not speak for what runs.
    """
    for variant in run.manifest.variants:
        rows = [row for row in run.rows if row.variant == variant.name and row.hint == "float32"]
        rows = [row for row in rows if row.offered] or rows
        worst = min((row for row in rows if row.agreement), key=_right, default=None)
        if worst is not None:
            yield _accuracy(worst, run.manifest.budget) or _agreement(worst, run.manifest.budget)


def _scored_on(run: Run) -> Iterable[str]:
    """Which images the accuracy is of, and what else those have decided."""
    frames = run.frames
    if run.drawn is not None:
        division, count = run.drawn.division, run.drawn.count
    elif frames is not None and frames.labels is not None:
        division, count = frames.division, len(frames.reference)
    else:
        return
    if division == "test":
        yield f"Scored on {count} test images, which chose nothing before."
    elif division and run.curves is not None:
        yield (
            f"Scored on {count} validation images, which also chose the epoch and the int8 file: fresh "
            "photos may score lower. A folder test/ beside train/ and val/ is scored in their place."
        )


def _right(row: Row) -> float:
    """The share of frames that it gets right, or on which it agrees."""
    found = row.score or (row.agreement and row.agreement.share)
    return found.value if found else 0.0


def _accuracy(row: Row, budget: Budget) -> str:
    score = row.score
    if score is None:
        return ""
    share, interval = table.share(score)
    text = f"{row.target}: {score.metric} {share} on {score.count} frames ({interval})"
    if row.variant == "float32":
        return f"{text}; PyTorch {100 * score.reference:.2f} %."
    drop = score.drop
    if drop == 0:
        change = "as much as PyTorch"
    else:
        by_chance = score.drop_low <= 0 <= score.drop_high
        change = f"{signed(abs(drop), 2)} points {'below' if drop > 0 else 'above'} PyTorch"
        change += ", which chance may explain on so few frames" if by_chance else ""
    return f"{text}, {change}; the budget is {budget.max_drop_points:g} points."


def _agreement(row: Row, budget: Budget) -> str:
    if row.agreement is None:
        return ""
    share, interval = table.share(row.agreement.share)
    found = row.agreement
    text = f"{row.target} keeps {share} of {found.reference}'s results ({found.metric}, {found.share.count} frames)"
    limit = "" if row.variant == "float32" else f"; at least {100 * budget.least_agreement:g} % was asked for"
    return f"{text} ({interval}){limit}."


def _on_request(rows: list[Row]) -> Iterable[str]:
    for row in rows:
        if row.hint not in (None, "float32") and row.latency and not row.offered:
            yield f"{row.target} runs {row.why_not}: {number(row.latency.p50_ms)} ms."


def _float32(rows: list[Row], other: Row | None) -> Row | None:
    if other is None:
        return None
    wanted = ("float32", other.backend, "float32", other.machine)
    return next((row for row in rows if (row.variant, row.backend, row.hint, row.machine) == wanted), None)
