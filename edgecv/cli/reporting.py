"""What was measured elsewhere, and reports: merge, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecv.cli import evidence
from edgecv.cli.output import say, show_json, stderr
from edgecv_runtime.errors import BadInput


def merge(
    bundle: evidence.BundlePath,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Evidence, as verify, bench and deploy save it: --evidence.")
    ],
    json: evidence.Json = False,
    markdown: evidence.Markdown = False,
) -> None:
    """Take into a bundle what other machines measured of its very files."""
    from edgecv.run import elsewhere
    from edgecv_runtime.bundle import Bundle

    with Bundle(bundle) as opened:
        found = elsewhere.merge(opened, [entry for path in paths for entry in elsewhere.read(path).entries])
        evidence.show(opened, found.evidence, json, markdown)
    for line in found.left_out:
        stderr.print(f"edgecv: not taken: {line}", soft_wrap=True)
    say(f"taken: {found.taken} of {found.taken + len(found.left_out)}")


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of 'edgecv build'.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    clip: Annotated[Path | None, typer.Option("--clip", help="An annotated video to show frames of.")] = None,
    json: evidence.Json = False,
    markdown: evidence.Markdown = False,
) -> None:
    """Print one table for several runs and write one HTML report of them."""
    from edgecv.report import write
    from edgecv_runtime.bench.table import rows
    from edgecv_runtime.bundle import Bundle

    found = []
    for run in runs:
        if not (run / "bundle").is_dir():
            raise BadInput(f"{run}: not a run folder of 'edgecv build': there is no such bundle as {run / 'bundle'}")
        with Bundle(run / "bundle") as opened:
            found += rows(opened)
    path = write(runs, out, clip=clip)
    if json:
        show_json({"report": str(path), "rows": found})
        return
    evidence.show_rows(found, markdown)
    say(f"report: {path.absolute()}")
