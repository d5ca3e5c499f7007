"""`edgecv bench --scenario`: what becomes of its options."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from edgecv.cli.benchasked import Asked
from edgecv.cli.evidence import EXIT_LOSSES
from edgecv.cli.output import EXIT_INTERRUPTED, EXIT_TERMINATED, complain, interrupt, say, show_json, stdout
from edgecv_runtime import files, signals
from edgecv_runtime.errors import BadInput, nearest

if TYPE_CHECKING:
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Key, Score
    from edgecv_runtime.scenario.plan import Plan
    from edgecv_runtime.scenario.report import Report
    from edgecv_runtime.target import Target

SUFFIXES = (".json", ".html", ".md", ".csv")
# The scenario that an option belongs to; given with another one it would be ignored.
_OF = {
    "fps": "paced",
    "minutes": "sustained",
    "qps": "server",
    "bound_ms": "server",
    "starts": "cold",
    "frames": "frames",
}


def bench(path: Path, asked: Asked) -> None:
    """Play the scenario on what was chosen, print the table, write the files."""
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.scenario import limits, session

    plan, isa = _plan(asked), asked.isa or limits.NATIVE
    for place in asked.out or []:
        _check_place(place)
    pictures = _pictures(asked.frames) if asked.frames is not None else []
    ended: list[int] = []  # the signal, of which what was measured is kept

    def end(number: int) -> None:
        ended.append(number)
        interrupt(number)

    with signals.at_first(end), limits.limited(isa, asked.cpus or 0), Bundle(path) as opened:
        chosen = _chosen(opened, asked, isa)
        session.check(chosen, plan, isa)
        scores = _scores(opened, asked, chosen) if asked.data is not None else {}
        report = session.bench(opened, chosen, plan, isa=isa, pictures=pictures, scores=scores, progress=say)
    try:
        for place in asked.out or []:
            _write(report, place)
            say(f"report: {place.absolute()}")
    finally:
        _show(report, asked)  # also where a disk is full: minutes went into it
    _end(report, is_terminated=signal.SIGTERM in ended)


def _plan(asked: Asked) -> Plan:
    from edgecv_runtime import records
    from edgecv_runtime.scenario.plan import SCENARIOS, Plan

    assert asked.scenario is not None
    if asked.scenario not in SCENARIOS:
        raise BadInput(f"no scenario '{asked.scenario}'{nearest(asked.scenario, SCENARIOS)}")
    for name, scenario in _OF.items():
        if getattr(asked, name) is not None and asked.scenario != scenario:
            raise BadInput(f"--{name.replace('_', '-')} is of --scenario {scenario}, not of {asked.scenario}")
    if asked.minutes is not None and asked.seconds is not None:
        raise BadInput("--minutes and --seconds say the same: give one of them")
    if asked.scenario == "cold" and asked.seconds is not None:
        raise BadInput("--scenario cold takes as long as its starts do: give --starts, not --seconds")
    if asked.rules and asked.seconds is not None:
        raise BadInput("--rules says how long: leave out --seconds")
    seconds = asked.seconds
    if asked.scenario == "sustained" and seconds is None:
        seconds = 60 * (5.0 if asked.minutes is None else asked.minutes)
    named = {"seconds": seconds, "fps": asked.fps, "qps": asked.qps, "bound_ms": asked.bound_ms,
             "feed": asked.feed, "starts": asked.starts}  # fmt: skip
    plain = {name: value for name, value in named.items() if value is not None}
    plain |= {"scenario": asked.scenario, "rules": asked.rules, "batch": asked.batch, "threads": asked.threads}
    return records.convert(plain, Plan, "bench")


def _chosen(opened: Bundle, asked: Asked, isa: str) -> list[Target]:
    from edgecv_runtime.scenario import limits
    from edgecv_runtime.target import targets

    variant, known = asked.variant, [each.name for each in opened.manifest.variants]
    if variant is not None and variant not in known:
        raise BadInput(f"{opened.path}: no variant '{variant}'{nearest(variant, known)}")
    found = [each for each in targets(opened, asked.backend, asked.threads) if variant in (None, each.variant)]
    if isa == limits.NATIVE or asked.backend != "auto":
        return found
    left = sorted({each.backend for each in found} - set(limits.CAN_BE_LIMITED))
    if left:
        say(f"--isa {isa}: left out is {', '.join(left)}, which cannot be limited to instruction sets")
    found = [each for each in found if each.backend in limits.CAN_BE_LIMITED]
    if not found:
        raise BadInput(f"--isa {isa}: no backend here can be limited; {', '.join(limits.CAN_BE_LIMITED)} could")
    return found


def _scores(opened: Bundle, asked: Asked, chosen: list[Target]) -> dict[Key, Score]:
    """What each of them scores on the labelled images, paired against float32."""
    from edgecv.data.given import to_score
    from edgecv.run.judged import scored

    assert asked.data is not None
    given, told = to_score(opened, asked.data, asked.max_megapixels)
    for line in told:
        say(f"{asked.data}: {line}")
    wanted = {(each.variant, each.backend, each.hint) for each in chosen}
    entries = scored(
        opened,
        given,
        f"images of {asked.data.resolve().name}",
        asked.backend,
        lambda each: (each.variant, each.backend, each.hint) in wanted,
    )
    return {entry.target: entry.score for entry in entries if entry.score is not None}


def _pictures(folder: Path) -> list[Path]:
    from edgecv_runtime import images

    found = images.find(folder)
    if not found:
        raise BadInput(f"{folder}: no image files to decode")
    for path in found[:64]:
        images.read(path)
    return found[:64]


def _check_place(place: Path) -> None:
    """Before anything is measured: raises BadInput where a report cannot be written."""
    if place.suffix.lower() not in SUFFIXES:
        raise BadInput(f"--out {place}: its ending says what to write: {', '.join(SUFFIXES)}")
    if not place.absolute().parent.is_dir() or place.is_dir():
        raise BadInput(f"--out {place}: {'a folder' if place.is_dir() else 'there is no such folder'}")
    files.check_place(place)


def _write(report: Report, place: Path) -> None:
    from edgecv_runtime.scenario import page
    from edgecv_runtime.scenario import report as reports

    texts: dict[str, Callable[[Report], str]] = {".html": page.html, ".md": reports.markdown, ".csv": reports.as_csv}
    kind = place.suffix.lower()
    files.write(place, texts[kind](report).encode() if kind in texts else reports.as_json(report))


def _show(report: Report, asked: Asked) -> None:
    from edgecv_runtime.scenario import report as reports

    if asked.json:
        show_json(report)
    elif asked.markdown:
        stdout.print(reports.markdown(report), soft_wrap=True)
    else:
        from rich.table import Table

        table = Table(*reports.COLUMNS)
        for run in report.runs:
            table.add_row(*reports.cells(run))
        stdout.print(table)
        for run in report.runs:
            for stage in run.stages:
                stdout.print(f"{run.label}, {run.target}: {stage.name} {stage.p50_ms:.3f} ms, {stage.share:.1%}")
            for each in run.trust:
                if each.ok is False:
                    say(f"{run.label}, {run.target}: doubt it: {each.name}: {each.detail}")


def _end(report: Report, *, is_terminated: bool) -> None:
    """Exit codes: what was interrupted, and a bound that was not kept."""
    if report.partial:
        word = "terminated" if is_terminated else "interrupted"
        kept = "what was measured until then is above, marked as partial"
        complain(f"{word}: {kept if report.runs else 'nothing was measured until then'}")
        raise typer.Exit(EXIT_TERMINATED if is_terminated else EXIT_INTERRUPTED)
    missed = [run for run in report.runs if run.act == "server" and not run.loadgen.get("result_perf_constraints_met")]
    for run in missed:
        asked, bound = (run.loadgen[f"effective_target_{name}"] for name in ("qps", "latency_ns"))
        complain(
            f"{run.target}: {asked:g} requests a second within {bound / 1e6:g} ms were not reached: p99 is "
            f"{run.times.p99.ms:.1f} ms; ask for fewer (--qps) or allow more (--bound-ms)"
        )
    if missed:
        raise typer.Exit(EXIT_LOSSES)
