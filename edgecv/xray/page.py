"""The X-ray as one HTML file: totals, layers by stage, what-if rows, pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edgecv.pages import figures, html
from edgecv.xray import pictures
from edgecv.xray.console import cells, count_text, field_text, size_in_bytes, times, totals
from edgecv.xray.groups import Group, by_resolution, grouped
from edgecv.xray.pictures import Subject
from edgecv.xray.rows import Table, table
from edgecv.xray.whatif import Change, what_if
from edgecv_runtime import files

STAGES = 26  # lines of the table, before any is opened
CHANGED = 8  # layers with the most MACs whose what-if rows are shown


class Stage(NamedTuple):
    """Neighbouring layers of one part of the network, and its share of the MACs in 0..1."""

    name: str
    cells: dict[str, str]
    share: float
    rows: list[dict[str, str]]


def write(subject: Subject, path: Path, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Write the page of a subject (see `subjects.opened`) to `path`, atomically, and give its path.

    say: hears of each step before it is made; the pictures of a large network take up to a minute. Raises BadInput or
    Unavailable before that when `path` is a folder or cannot be written.
    """
    path = Path(path)
    files.check_place(path)
    files.write(path, _text(subject, say).encode())
    return path


def _text(subject: Subject, say: Callable[[str], None]) -> str:
    found = table(subject.graph)
    plots, missing = pictures.draw(subject, say)
    return html.render(
        Path(__file__).with_name("template.html.j2"),
        table=found,
        what=_what(subject),
        cards=_cards(found),
        notes=totals(found),
        stages=_stages(found),
        changes=_changes(found),
        count=count_text,
        times=times,
        columns=figures.columns(plots),
        missing=missing,
    )


def _what(subject: Subject) -> str:
    size = "×".join(map(str, subject.size))
    if subject.network is None:
        return f"An ONNX file, read with an input of {size} pixels at batch 1."
    return f"A model of the zoo with an input of {size} pixels at batch 1 and {subject.whose}."


def _cards(found: Table) -> list[tuple[str, str, str]]:
    """The figures that people ask for first: what, value, detail."""
    total = found.total
    field = total.field
    return [
        ("parameters", count_text(total.parameters), f"{size_in_bytes(total.weight_bytes)} of weights"),
        ("MACs", count_text(total.macs), f"{total.intensity:.1f} operations per byte"),
        ("peak activations", size_in_bytes(total.peak_bytes), f"{size_in_bytes(total.peak_inplace_bytes)} in place"),
        ("receptive field", field_text(field) or "–", "pixels that the last places see"),
    ]


def _stages(found: Table) -> list[Stage]:
    """Layers in groups that a person can survey: by their names, or by resolution where the names do not help."""
    groups, _ = grouped(found, screen=STAGES)
    if not 3 <= len(groups) <= STAGES and len(found.rows) > STAGES:
        places = by_resolution(found)
        groups = places if len(places) > 1 else groups
    return [
        Stage(
            group.name,
            cells(found, group),
            sum(row.macs for row in group.rows) / (found.total.macs or 1),
            [cells(found, Group(row.name, (row,))) for row in group.rows],
        )
        for group in groups
    ]


def _changes(found: Table) -> list[Change]:
    """What-if rows of the costliest layers and of poolings, in the network's order."""
    costly = sorted(found.rows, key=lambda row: -row.macs)[:CHANGED]
    shown = {row.name for row in costly} | {row.name for row in found.rows if row.kind == "pool"}
    return [change for change in what_if(found) if change.layer in shown]
