"""The report of a benchmark by scenario: its records, the published schema, JSON, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from edgecv_runtime import jsontext, records
from edgecv_runtime.bench.table import MISSING, NOT_SCORED, number, signed
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Score
from edgecv_runtime.machine import Machine
from edgecv_runtime.records import Record
from edgecv_runtime.scenario.energy import Energy
from edgecv_runtime.scenario.quantiles import Percentile, percentile
from edgecv_runtime.scenario.watch import Settings, Surroundings

SCHEMA = 1
# OpenVINO 2026.4 compiles its reductions (global average pooling, say) for what the processor has.
_BUT = " at most, but for OpenVINO's reductions, which nothing limits"


class Times(Record, frozen=True):
    """Milliseconds of `calls` calls over `duration_s`; per_s: frames a second. drift: the last tenth by the first."""

    calls: int
    duration_s: float
    p50: Percentile
    p90: Percentile
    p99: Percentile
    max_ms: float
    mean_ms: float
    per_s: float
    drift: float


class Stage(Record, frozen=True):
    """A stage of a frame's way: its median, and its share of the time of all frames together."""

    name: str
    p50_ms: float
    share: float


class Trust(Record, frozen=True):
    """One answer to "can I trust this run": ok is None where it cannot be told."""

    name: str
    ok: bool | None
    detail: str


class Run(Record, frozen=True):
    """One act of one target.

    label: what it may be called. hint: the float precision asked for; executed: the one that ran, layers: of how many
    layers. fed: what calls were given. stages: of scenarios that have them; unstaged: the share of wall-clock time that
    lies in none. loadgen: what LoadGen itself found. samples: at (s since its begin) and took (ms), of every call.
    partial: it was interrupted. score: None where labels were not given.
    """

    label: str
    scenario: str
    act: str
    variant: str
    sha256: str
    backend: str
    device: str
    hint: str
    executed: str
    layers: dict[str, int]
    versions: dict[str, str]
    threads: int
    streams: int
    batch: int
    fed: str
    warm_up: int
    times: Times
    dropped: int
    rss_mb: float
    peak_rss_mb: float
    energy: Energy
    score: Score | None
    stages: list[Stage]
    unstaged: float | None
    surroundings: Surroundings | None
    loadgen: dict[str, Any]
    trust: list[Trust]
    at_s: list[float]
    took_ms: list[float]
    partial: bool = False

    @property
    def target(self) -> str:
        """Short name: "int8-u8s8 on openvino", with the precision that was asked for when it is not float32."""
        return f"{self.variant} on {self.backend}" + (f" ({self.hint})" if self.hint != "float32" else "")


class Report(Record, frozen=True):
    """What was asked, of what, where, and what came of it.

    made: the moment, ISO 8601 in UTC. failed: what could not be run, and why. partial: it was interrupted, and what was
    not played then is missing.
    """

    schema: int
    made: str
    edgecv: str
    bundle: str
    machine: Machine
    settings: Settings
    runs: list[Run]
    partial: bool = False
    failed: list[str] = []


def times(took_ms: list[float], frames: int, duration_s: float) -> Times:
    """The figures of an act's calls, in their order; raises BadInput when there were none."""
    if not took_ms:
        raise BadInput("nothing was measured: not one call came to its end; give it more seconds")
    tenth = max(1, min(5, len(took_ms) // 2), len(took_ms) // 10)
    first, last = np.median(took_ms[:tenth]), np.median(took_ms[-tenth:])
    return Times(
        calls=len(took_ms),
        duration_s=duration_s,
        p50=percentile(took_ms, 0.5),
        p90=percentile(took_ms, 0.9),
        p99=percentile(took_ms, 0.99),
        max_ms=max(took_ms),
        mean_ms=float(np.mean(took_ms)),
        per_s=frames / duration_s,
        drift=float(last / first),
    )


def schema() -> dict[str, Any]:
    """The JSON schema of a report; published as docs/bench-report.schema.json."""
    found = msgspec.json.schema(Report)
    for each in found["$defs"].values():
        each.pop("description", None)  # docstrings, which may change without a change of the schema
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A report of edgecv bench", **found}


def read(raw: bytes, where: str) -> Report:
    """A report from its JSON; raises BadInput for anything else, and for reports of a later schema."""
    found = records.decode(raw, Report, where)
    if found.schema != SCHEMA:
        raise BadInput(f"{where}: a report of schema {found.schema}, this edgecv reads {SCHEMA}")
    return found


def as_json(report: Report) -> bytes:
    """The whole report, raw samples too."""
    return jsontext.encode(report) + b"\n"


def as_csv(report: Report) -> str:
    """Every call of every run: a line each."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["label", "variant", "backend", "hint", "at_s", "ms"])
    for run in report.runs:
        writer.writerows(
            [_named(run), run.variant, run.backend, run.hint, f"{at:.6f}", f"{ms:.6f}"]
            for at, ms in zip(run.at_s, run.took_ms, strict=True)
        )
    return out.getvalue()


COLUMNS = ("scenario", "variant", "executed", "p50 ms", "p90 ms", "p99 ms", "max ms", "frames/s", "accuracy", "energy")


def cells(run: Run) -> list[str]:
    """A run's row of the table."""
    total = sum(run.layers.values())
    return [
        _named(run),
        run.target,
        f"{run.executed}, {run.layers.get(run.executed, 0)} of {total} layers" if total else run.executed,
        *map(said, (run.times.p50, run.times.p90, run.times.p99)),
        number(run.times.max_ms),
        number(run.times.per_s),
        accuracy(run.score),
        "unavailable" if run.energy.per_frame_mj is None else f"{number(run.energy.per_frame_mj)} mJ a frame",
    ]


def _named(run: Run) -> str:
    return run.label + (" (interrupted)" if run.partial else "")


BESIDE = ("report", "machine", "made", *COLUMNS)


def beside(reports: Sequence[Report]) -> list[list[str]]:
    """The rows of a table of several reports, numbered from 1, under `BESIDE`."""
    return [
        [f"{number}: {each.bundle}", each.machine.key, each.made, *cells(run)]
        for number, each in enumerate(reports, 1)
        for run in each.runs
    ]


def accuracy(score: Score | None) -> str:
    """The metric with n and its interval, and what is lost of float32's on the same frames; or that there is none."""
    if score is None:
        return NOT_SCORED
    low, high = signed(-score.drop_high, 1), signed(-score.drop_low, 1)
    value = f"{score.metric} {score.value:.2%} ({score.low:.1%} to {score.high:.1%}, n {score.count})"
    return f"{value}, {signed(-score.drop, 2)} points of float32's {score.reference:.2%} ({low} to {high})"


def said(found: Percentile) -> str:
    """A percentile with its interval: "4.1 (4.0–4.3)", or that calls are too few for one."""
    low = MISSING if found.low_ms is None else number(found.low_ms)
    if found.high_ms is None:
        return f"{number(found.ms)} (too few calls)"
    return f"{number(found.ms)} ({low}–{number(found.high_ms)})"


def markdown(report: Report) -> str:
    """The table, the stages, what surrounds it, and whether each run can be trusted."""
    lines = [f"# {report.bundle}", "", *table(COLUMNS, [cells(run) for run in report.runs]), ""]
    for run in report.runs:
        lines += [f"## {run.label}: {run.target}", ""]
        if run.stages:
            rows = [[each.name, number(each.p50_ms), f"{each.share:.1%}"] for each in run.stages]
            lines += [*table(("stage", "p50 ms", "share"), rows), ""]
        lines += [f"- {_mark(each)} {each.name}: {each.detail}" for each in run.trust]
        lines += ["", *(f"- {fact}" for fact in facts(run)), ""]
    lines += ["## Where", "", *(f"- {fact}" for fact in where(report))]
    return "\n".join(lines) + "\n"


def facts(run: Run) -> list[str]:
    """How a run came about, a fact a line."""
    energy = run.energy
    return [
        f"file {run.sha256}",
        f"{run.backend} on {run.device}, {', '.join(f'{name} {value}' for name, value in run.versions.items())}; "
        f"{run.threads} threads, {run.streams} calls at once, {run.batch} frames a call",
        f"fed: {run.fed}; {run.warm_up} calls before that do not count",
        f"{run.times.calls} calls in {run.times.duration_s:.1f} s; {run.dropped} frames dropped; "
        f"resident memory {number(run.rss_mb)} MB, at most {number(run.peak_rss_mb)}",
        f"energy: {number(energy.joules)} J, {number(energy.mean_w or 0)} W by {energy.source}"
        if energy.joules is not None
        else f"energy unavailable: {energy.unavailable}",
    ]


def where(report: Report) -> list[str]:
    """The machine and how it was set, a fact a line."""
    machine, settings = report.machine, report.settings
    quota = "none" if settings.quota_cores is None else f"{settings.quota_cores:g} cores"
    memory = "no limit" if settings.memory_limit_mb is None else f"{settings.memory_limit_mb:.0f} MB"
    return [
        f"{machine.key}; {' '.join(machine.isa)}; {machine.os}, Python {machine.python}, edgecv {report.edgecv}",
        f"instruction sets: {_instruction_sets(report)}",
        f"cores used: {', '.join(map(str, settings.affinity)) or 'not known'}",
        f"the container's quota of CPU time: {quota}; of memory: {memory}",
        f"governor: {settings.governor or 'not shown here'}; power mode: {settings.power_mode or 'not shown here'}",
        f"made {report.made}" + (", interrupted: what was not measured any more is missing" if report.partial else ""),
        *(f"not measured: {why}" for why in report.failed),
    ]


def _instruction_sets(report: Report) -> str:
    if report.settings.isa != "native":
        return report.settings.isa + _BUT
    limit = report.machine.isa_limit
    return f"oneDNN's, and by it OpenVINO's, are limited to {limit} by the environment" if limit else "native"


def _mark(trust: Trust) -> str:
    return {True: "yes:", False: "NO:", None: "not known:"}[trust.ok]


def table(names: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """The lines of a table in Markdown."""

    def line(cells: Any) -> str:
        return "| " + " | ".join(str(each).replace("|", "\\|") for each in cells) + " |"

    return [line(names), line("---" for _ in names), *map(line, rows)]


if __name__ == "__main__":
    import sys

    sys.stdout.buffer.write(records.encode(schema()))
