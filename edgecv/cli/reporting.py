"""What was measured elsewhere, and reports: merge, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecv.cli import evidence
from edgecv.cli.output import say, show_json, stderr, stdout
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
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folders of 'edgecv build', or .json files of 'edgecv bench --scenario --out'."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    clip: Annotated[Path | None, typer.Option("--clip", help="An annotated video to show frames of.")] = None,
    json: evidence.Json = False,
    markdown: evidence.Markdown = False,
) -> None:
    """Print one table for several runs, or benchmarks of a scenario, and write one HTML report of them."""
    scenarios = [run for run in runs if run.is_file() and run.suffix.lower() == ".json"]
    if scenarios:
        if len(scenarios) < len(runs) or clip is not None:
            other = "--clip" if clip is not None else next(str(run) for run in runs if run not in scenarios)
            raise BadInput(f"{scenarios[0]}: the report of a scenario stands beside others of its kind, not {other}")
        _beside(scenarios, out, json, markdown)
        return
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


def _beside(paths: list[Path], out: Path, json: bool, markdown: bool) -> None:
    """One page and one table of what scenarios measured, on several machines say."""
    from edgecv_runtime import files
    from edgecv_runtime.scenario import page
    from edgecv_runtime.scenario import report as reports

    found = [reports.read(path.read_bytes(), str(path)) for path in paths]
    files.write(out, page.html(*found).encode())
    rows = reports.beside(found)
    if json:
        show_json({"report": str(out), "rows": [dict(zip(reports.BESIDE, row, strict=True)) for row in rows]})
        return
    if markdown:
        stdout.print("\n".join(reports.table(reports.BESIDE, rows)), soft_wrap=True)
    else:
        from rich.table import Table

        shown = Table(*reports.BESIDE)
        for row in rows:
            shown.add_row(*row)
        stdout.print(shown)
    say(f"report: {out.absolute()}")
