"""Evidence on the command line: the options that verbs on a finished bundle share, and how it is shown and kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli.output import say, show_json, stderr, stdout
from edgecv_runtime import files
from edgecv_runtime.errors import Unavailable

if TYPE_CHECKING:
    from edgecv_runtime.bench.table import Row
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Entry, Evidence

EXIT_LOSSES = 4  # finished, with losses that were reported

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder or .edgecv file.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")]
Write = Annotated[bool, typer.Option("--write/--no-write", help="Keep the evidence in the bundle.")]
Backend = Annotated[
    str, typer.Option("--backend", help="auto (every one that works here), onnxruntime, kserve:URL, ...")
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="A folder of images a class, named as the labels, or images with masks or boxes; its test/, else val/.",
    ),
]
EvidenceFile = Annotated[
    Path | None,
    typer.Option("--evidence", metavar="FILE", help="Also save what was measured, for 'edgecv merge' elsewhere."),
]
MaxMegapixels = Annotated[float, typer.Option("--max-megapixels", help="A larger picture is refused unread.")]


def scored(opened: Bundle, data: Path, max_megapixels: float, backend: str) -> list[Entry]:
    """Score and agreement of every target on labelled images."""
    from edgecv.data.given import to_score
    from edgecv.run import judged

    given, told = to_score(opened, data, max_megapixels)
    for line in told:
        say(f"{data}: {line}")
    return judged.scored(opened, given, f"images of {data.resolve().name}", backend)


def save(entries: list[Entry], path: Path | None) -> None:
    """Write what was measured to a file of its own, where that was asked for."""
    from edgecv_runtime import records
    from edgecv_runtime.evidence import Evidence

    if path is not None:
        files.write(path, records.encode(Evidence(tuple(entries))))


def keep(opened: Bundle, evidence: Evidence, write: bool) -> bool:
    """Put the evidence into the bundle; False, with a word about it, where that is not possible."""
    from edgecv.run import judged

    if not write:
        say("not kept in the bundle, as was asked")
        return True
    try:
        judged.keep(opened, evidence)
    except Unavailable as exc:
        stderr.print(f"edgecv: {exc}", soft_wrap=True)
        return False
    return True


def show(opened: Bundle, evidence: Evidence, json: bool, markdown: bool, judged: Evidence | None = None) -> None:
    """Print the table of a bundle's evidence, judged by all that is known."""
    from edgecv_runtime.bench import table

    found = table.of_evidence(opened, evidence, judged)
    show_json(found) if json else show_rows(found, markdown)


def show_rows(found: list[Row], markdown: bool) -> None:
    """Print a table."""
    from edgecv.report.console import print_table
    from edgecv_runtime.bench import table

    if markdown:
        stdout.print(table.markdown(found), soft_wrap=True)
    else:
        print_table(found, stdout)
