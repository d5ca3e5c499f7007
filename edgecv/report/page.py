"""Put a report together: read the runs, draw, fill the template, write one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecv.pages import figures, html
from edgecv.report import mistakes, pictures, plots, verdict
from edgecv.run.folder import Run, read
from edgecv_runtime import files
from edgecv_runtime.bench import table
from edgecv_runtime.errors import BadInput, SourceUnavailable

FIRST = ("variant", "backend", "p50 ms", "offered")


@dataclass(frozen=True)
class Section:
    """What the template shows of one run."""

    anchor: str
    run: Run
    what: str
    verdict: verdict.Verdict
    facts: list[tuple[str, str]]
    columns: tuple[list[figures.Plot], list[figures.Plot]]
    gallery: pictures.Gallery | None
    beside: pictures.Beside | None
    confusion: pictures.Confusion | None
    mistakes: mistakes.Mistakes | None
    batches: list[str]


def write(runs: Sequence[Path], path: Path, clip: Path | None) -> Path:
    """See `edgecv.report.write`."""
    if not runs:
        raise BadInput("a report wants at least one run folder")
    sections = [_section(read(Path(run)), f"run{number}") for number, run in enumerate(runs, 1)]
    files.write(Path(path), _html(sections, clip).encode())
    return Path(path)


def _section(run: Run, anchor: str) -> Section:
    return Section(
        anchor=anchor,
        run=run,
        what=_what(run),
        verdict=verdict.of(run),
        facts=_facts(run),
        columns=figures.columns(plots.draw(run, anchor)),
        gallery=pictures.gallery(run),
        beside=pictures.beside(run),
        confusion=pictures.confusion(run),
        mistakes=mistakes.of(run),
        batches=pictures.batches(run),
    )


def _html(sections: list[Section], clip: Path | None) -> str:
    rows = [row for section in sections for row in section.run.rows]
    return html.render(
        Path(__file__).with_name("template.html.j2"),
        title=" and ".join(section.run.manifest.name for section in sections),
        sections=sections,
        columns=_columns(rows),
        cells=table.COLUMNS,
        words=table.WORDS,
        fastest=table.fastest,
        machines=table.machines(rows),
        notes=table.notes(rows),
        clip=_clip(clip),
    )


def _columns(rows: list[table.Row]) -> list[str]:
    """The table's columns; what a phone shows without scrolling comes first: which file, how fast, whether offered."""
    names = [name for name in table.columns(rows) if name != "bundle"]
    return sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))


def _what(run: Run) -> str:
    """What was built, in one line."""
    manifest = run.manifest
    height, width = manifest.preprocess.size
    return f"{manifest.task}, {len(manifest.labels):,} classes, {width}×{height} {manifest.preprocess.color}"


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was built, from what, on what machine, with which versions."""
    manifest = run.manifest
    facts = [
        ("what", f"{_what(run)}, resized by '{manifest.preprocess.mode}'"),
        *((name.replace("_", " "), value) for name, value in manifest.provenance.items()),
    ]
    for variant in manifest.variants:
        made = variant.calibration
        if made:
            facts.append((variant.name, f"calibrated on {made.images} images, {made.ranges} ranges"))
    for machine in run.machines:
        facts.append(("machine", f"{machine.key}; {machine.os}; Python {machine.python}"))
        facts.append(("instructions", " ".join(machine.isa) or table.MISSING))
    versions = {f"{name} {version}" for row in run.rows for name, version in row.versions.items()}
    facts.append(("backends", ", ".join(sorted(versions)) or table.MISSING))
    return facts


def _clip(path: Path | None) -> dict[str, Any] | None:
    """Frames of the clip, or why there are none."""
    if path is None:
        return None
    try:
        return {"path": str(path), "frames": pictures.clip_frames(path), "problem": ""}
    except SourceUnavailable as exc:
        return {"path": str(path), "frames": [], "problem": str(exc)}
