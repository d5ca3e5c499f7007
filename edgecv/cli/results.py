"""Verbs on a finished bundle: verify, bench, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli import scenarios
from edgecv.cli.output import say, show_json, stderr, stdout
from edgecv_runtime.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from edgecv_runtime.bench.table import Row
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Entry, Evidence, Finding
    from edgecv_runtime.manifest import Manifest

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
MaxMegapixels = Annotated[float, typer.Option("--max-megapixels", help="A larger picture is refused unread.")]


def verify(
    bundle: BundlePath,
    data: Data = None,
    backend: Backend = "auto",
    max_megapixels: MaxMegapixels = 50.0,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", help="A .npy or .npz that your own code made of the golden pictures; see --pictures."
        ),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Write the golden pictures to this folder.")
    ] = None,
    write: Write = True,
    json: Json = False,
    markdown: Markdown = False,
) -> None:
    """Prove every variant on every backend, by golden inputs or your labelled images, and name what is wrong."""
    from edgecv_runtime import verify as verification
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Evidence
    from edgecv_runtime.offers import is_faithful, measured

    if sum(each is not None for each in (data, against, pictures)) > 1:
        raise BadInput("--data, --against and --pictures are three things: give one of them")
    with Bundle(bundle) as opened:
        if pictures is not None:
            _say_paths(verification.write_pictures(opened, pictures), json)
            return
        if against is not None:
            _say_found(verification.against_file(opened, against), json)
            return
        found = verification.check(opened)
        entries = (
            _scored(opened, data, max_megapixels, backend)
            if data is not None
            else [each.entry for each in verification.verify(opened, backend=backend)]
        )
        manifest, before = opened.manifest, opened.evidence()
        evidence = before.merged(entries)
        (say if json or markdown else stdout.print)(_verified(entries, manifest))
        _show(opened, Evidence(tuple(entries)), json, markdown, judged=evidence)
        kept = _keep(opened, evidence, write)
    here = {entry.key for entry in entries}
    failed = [entry for entry in evidence.entries if entry.key in here and not is_faithful(entry, manifest)]
    places = {entry.machine.key: entry.machine for entry in entries}.values()
    old = [each for place in places for each in measured(manifest, before, place)]
    known = {each.key for each in old if not is_faithful(each, manifest)}
    for finding in found:
        stderr.print(f"edgecv: {finding}", soft_wrap=True)
    for each in failed:
        why = each.finding or each.failed or _beyond(each, manifest, evidence)
        before_too = "withheld, as before: " if _is_known(each, known, manifest) else ""
        stderr.print(f"edgecv: {each.variant} on {each.backend}: {before_too}{why}", soft_wrap=True)
    if found or not all(_is_known(each, known, manifest) for each in failed):
        raise typer.Exit(EXIT_LOSSES)
    if not kept:
        raise typer.Exit(Unavailable.exit_code)


def _is_known(entry: Entry, known: set[tuple[str, str, str, str]], manifest: Manifest) -> bool:
    """Whether a file that is not what it should be was withheld before; float32, on which all rests, never is."""
    variant = manifest.variant(entry.variant)
    return entry.key in known and variant is not None and variant.precision != "float32"


def _verified(entries: list[Entry], manifest: Manifest) -> str:
    """How many ways to run gave what they should, on which frames, and how near float32 came."""
    from edgecv_runtime.offers import is_good

    good = sum(is_good(entry, manifest) for entry in entries)
    compared = [entry.agreement for entry in entries if entry.agreement]
    frames = " and ".join(dict.fromkeys(f"{each.share.count} {each.frames or 'frames'}" for each in compared))
    floats = [entry for entry in entries if (entry.variant, entry.hint) == ("float32", "float32") and entry.agreement]
    moved = [each.agreement.behind or each.agreement for each in floats if each.agreement]
    far = max((each.max_abs for each in moved), default=None)
    near = "" if far is None else f", largest difference of float32 {far:.1e}"
    whose = "the adopted file's" if "adopted" in manifest.provenance else "PyTorch's"
    return f"verified here: {good} of {len(entries)} give {whose} outputs ({frames or 'nothing ran'}{near})"


def _beyond(entry: Entry, manifest: Manifest, evidence: Evidence) -> str:
    """What an entry that ran loses beyond the budget."""
    from edgecv_runtime.offers import offered

    offers = offered(manifest, evidence, entry.machine)
    return offers.why_not.get(entry.target, "") or f"it does not keep within the budget when it runs in {entry.hint}"


def bench(
    bundle: BundlePath,
    scenario: Annotated[
        str | None,
        typer.Option(
            "--scenario",
            metavar="NAME",
            help="Instead of rounds: single-stream, multi-stream, offline or server by LoadGen; paced, sustained, cold "
            "or frames.",
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="Of one round of one target, 0.5; of a scenario's run, 10.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Interleaved rounds, 5.")] = None,
    batch: Annotated[int, typer.Option(help="Frames a call.")] = 1,
    threads: Annotated[int, typer.Option(help="0 leaves them to the backend.")] = 0,
    data: Data = None,
    backend: Backend = "auto",
    max_megapixels: MaxMegapixels = 50.0,
    variant: scenarios.Variant = None,
    fps: scenarios.Fps = None,
    minutes: scenarios.Minutes = None,
    qps: scenarios.Qps = None,
    bound_ms: scenarios.BoundMs = None,
    starts: scenarios.Starts = None,
    feed: scenarios.Feed = None,
    frames: scenarios.Frames = None,
    rules: scenarios.Rules = False,
    isa: scenarios.Isa = None,
    cpus: scenarios.Cpus = None,
    out: scenarios.Out = None,
    write: Write = True,
    json: Json = False,
    markdown: Markdown = False,
) -> None:
    """Time every variant on every backend, in interleaved rounds or by a scenario; with --data, score the files too."""
    given = scenarios.Given(
        variant, fps, minutes, qps, bound_ms, starts, feed, frames, rules, isa, cpus, out
    )  # fmt: skip
    if scenario is not None:
        if rounds is not None or not write:
            raise BadInput(
                "--rounds and --no-write are for bench without --scenario, which keeps nothing in the bundle"
            )
        asked = scenarios.Asked(scenario, seconds, batch, threads, backend, data, max_megapixels, json, markdown)
        scenarios.bench(bundle, asked, given)
        return
    given.refuse()
    seconds, rounds = 0.5 if seconds is None else seconds, 5 if rounds is None else rounds
    from edgecv_runtime.bench import table
    from edgecv_runtime.bench.latency import bench as run_bench
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Evidence

    if data is not None and (batch, threads) != (1, 0):
        raise BadInput("--data scores the bundle, --batch and --threads only look: give one or the other")
    with Bundle(bundle) as opened:
        entries = run_bench(
            opened, backend=backend, seconds=seconds, rounds=rounds, batch=batch, threads=threads, progress=say
        )
        if (batch, threads) != (1, 0):
            say("not kept in the bundle: it is judged at batch 1, with the threads that a backend takes by itself")
            found = table.of_evidence(opened, Evidence(tuple(entries)), judged=opened.evidence())
            show_json(found) if json else _print(found, markdown)
            return
        if data is not None:
            scores = _scored(opened, data, max_megapixels, backend)
            entries = list(Evidence(entries=tuple(entries)).merged(scores).entries)
        evidence = opened.evidence().merged(entries)
        _show(opened, evidence, json, markdown)
        if not _keep(opened, evidence, write):
            raise typer.Exit(Unavailable.exit_code)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of 'edgecv build'.")],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    clip: Annotated[Path | None, typer.Option("--clip", help="An annotated video to show frames of.")] = None,
    json: Json = False,
    markdown: Markdown = False,
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
    _print(found, markdown)
    say(f"report: {path.absolute()}")


def _scored(opened: Bundle, data: Path, max_megapixels: float, backend: str) -> list[Entry]:
    """Score and agreement of every target on labelled images."""
    from edgecv.data.given import to_score
    from edgecv.run.judged import scored

    given, told = to_score(opened, data, max_megapixels)
    for line in told:
        say(f"{data}: {line}")
    return scored(opened, given, f"images of {data.resolve().name}", backend)


def _keep(opened: Bundle, evidence: Evidence, write: bool) -> bool:
    """Put the evidence into the bundle; False, with a word about it, where that is not possible."""
    from edgecv.run.judged import keep

    if not write:
        say("not kept in the bundle, as was asked")
        return True
    try:
        keep(opened, evidence)
    except Unavailable as exc:
        stderr.print(f"edgecv: {exc}", soft_wrap=True)
        return False
    return True


def _say_paths(paths: list[Path], json: bool) -> None:
    """Name the files that were written, and what to do with them."""
    if json:
        show_json([str(path) for path in paths])
        return
    for path in paths:
        stdout.print(str(path), soft_wrap=True)
    say(
        "run your code on them in this order, save what it gives (numpy.save), and: edgecv verify BUNDLE --against FILE"
    )


def _say_found(finding: Finding | None, json: bool) -> None:
    """Print a diagnosis; a fault ends the command with losses."""
    if json:
        show_json({"finding": finding})
    elif finding is None:
        stdout.print("agrees with the golden pictures")
    else:
        stdout.print(str(finding), soft_wrap=True)
    if finding is not None:
        raise typer.Exit(EXIT_LOSSES)


def _show(opened: Bundle, evidence: Evidence, json: bool, markdown: bool, judged: Evidence | None = None) -> None:
    from edgecv_runtime.bench import table

    found = table.of_evidence(opened, evidence, judged)
    show_json(found) if json else _print(found, markdown)


def _print(found: list[Row], markdown: bool) -> None:
    from edgecv.report.console import print_table
    from edgecv_runtime.bench import table

    if markdown:
        stdout.print(table.markdown(found), soft_wrap=True)
    else:
        print_table(found, stdout)
