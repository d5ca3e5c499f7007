"""Verbs on a finished bundle: verify, bench, merge, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli import scenarios, there
from edgecv.cli.output import say, show_json, stderr, stdout
from edgecv_runtime import files
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
EvidenceFile = Annotated[
    Path | None,
    typer.Option("--evidence", metavar="FILE", help="Also save what was measured, for 'edgecv merge' elsewhere."),
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
    evidence_file: EvidenceFile = None,
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
    if evidence_file is not None and (against or pictures):
        raise BadInput("--evidence saves what is measured, and --against and --pictures measure nothing of the bundle")
    if evidence_file is not None:
        files.check_place(evidence_file)
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
        _save(entries, evidence_file)
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
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...", help="A bundle; several, or BUNDLE#PRECISION@BACKEND each, are compared side by side."
        ),
    ],
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
    rounds: Annotated[int | None, typer.Option(help="Interleaved rounds: 5, and 8 of what is compared.")] = None,
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
    regress: Annotated[
        Path | None,
        typer.Option(
            "--regress", metavar="FILE", help="Beside what --evidence saved here before; exit code 4 where it is worse."
        ),
    ] = None,
    python: Annotated[
        Path | None,
        typer.Option(
            "--python", metavar="FILE", help="Beside another environment, by its Python; exit code 4 where it is worse."
        ),
    ] = None,
    on: there.On = None,
    folder: there.Folder = None,
    wheel: there.Wheel = None,
    offline: there.Offline = False,
    ssh_config: there.SshConfig = None,
    evidence_file: EvidenceFile = None,
    write: Write = True,
    json: Json = False,
    markdown: Markdown = False,
) -> None:
    """Time every variant on every backend, in rounds or by a scenario; or bundles and variants beside each other.

    Several are compared with the first: the ratio of their times with its 95 % interval, and whether that is a
    difference. With --data, the very files that are timed are scored too. With --on, all of it runs on a device.
    """
    given = scenarios.Given(
        variant, fps, minutes, qps, bound_ms, starts, feed, frames, rules, isa, cpus, out
    )  # fmt: skip
    if scenario is not None:
        if rounds is not None or not write:
            raise BadInput(
                "--rounds and --no-write are for bench without --scenario, which keeps nothing in the bundle"
            )
        if len(bundles) > 1 or on or regress or python or evidence_file:
            raise BadInput("--scenario measures one bundle here: without others, --on, --regress, --python, --evidence")
        asked = scenarios.Asked(scenario, seconds, batch, threads, backend, data, max_megapixels, json, markdown)
        scenarios.bench(Path(bundles[0]), asked, given)
        return
    given.refuse()
    seconds = 0.5 if seconds is None else seconds
    from edgecv.cli import comparing
    from edgecv_runtime.bench import table
    from edgecv_runtime.bench.latency import bench as run_bench
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Evidence

    place = there.Place(on, folder, wheel, offline, ssh_config)
    if on is None and place.named:
        raise BadInput(f"{', '.join(place.named)}: of a device; name one: --on user@host")
    if on is not None and (len(bundles) > 1 or data is not None or (batch, threads) != (1, 0)):
        raise BadInput("--on measures one bundle as it is judged: without others, --data, --batch and --threads")
    if sum(each is not None for each in (on, regress, python)) > 1:
        raise BadInput("--on, --regress and --python are three things: give one of them")
    if (regress or python) and (len(bundles) > 1 or markdown or evidence_file is not None or batch != 1):
        raise BadInput("--regress and --python want one bundle, at batch 1, and neither --markdown nor --evidence")
    if python is not None and data is not None:
        raise BadInput("--python compares the answers to the golden inputs: without --data")
    if backend != "auto" and (len(bundles) > 1 or on or regress or python):
        raise BadInput("--backend is of one bundle here; what is compared names its own: BUNDLE#PRECISION@BACKEND")
    if len(bundles) > 1:
        if data is not None or markdown or evidence_file is not None:
            raise BadInput("--data, --evidence and --markdown are of one bundle, and several are compared")
        comparing.compare(bundles, seconds, comparing.ROUNDS if rounds is None else rounds, batch, threads, json)
        return
    path, *how = comparing.split(bundles[0])
    if how != ["auto", "auto"]:
        raise BadInput(f"{bundles[0]}: compared with what? name two or more, or the bundle alone: edgecv bench {path}")
    if (data is not None or evidence_file is not None) and (batch, threads) != (1, 0):
        raise BadInput("--batch and --threads only look: they go with neither --data nor --evidence")
    if evidence_file is not None:
        files.check_place(evidence_file)
    with Bundle(path) as opened:
        if python is not None:
            from edgecv_runtime.bench.upgrade import upgrade

            wanted = comparing.ROUNDS if rounds is None else rounds
            changes = upgrade(opened, python, rounds=wanted, seconds=seconds, threads=threads, progress=say)
            comparing.show_changes(changes, json)
            return
        rounds = 5 if rounds is None else rounds
        if regress is not None:
            _regress(opened, regress, seconds, rounds, threads, data, max_megapixels, json)
            return
        if on is not None:
            entries = there.measure(opened, place, seconds, rounds)
        else:
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
        _save(entries, evidence_file)
        if not _keep(opened, evidence, write):
            raise typer.Exit(Unavailable.exit_code)


def _regress(
    opened: Bundle,
    path: Path,
    seconds: float,
    rounds: int,
    threads: int,
    data: Path | None,
    max_megapixels: float,
    json: bool,
) -> None:
    """Measure a bundle beside a baseline; nothing is kept in it."""
    from edgecv.cli import comparing
    from edgecv.run import elsewhere
    from edgecv_runtime import machine
    from edgecv_runtime import verify as verification
    from edgecv_runtime.bench.latency import bench as run_bench
    from edgecv_runtime.bench.regress import Baseline, regress
    from edgecv_runtime.evidence import Evidence

    baseline = Baseline(elsewhere.read(path), machine.this(), str(path))

    def timed() -> list[Entry]:
        return run_bench(opened, seconds=seconds, rounds=rounds, threads=threads, progress=say)

    proven = [each.entry for each in verification.verify(opened)]
    scored = [] if data is None else _scored(opened, data, max_megapixels, "auto")
    now = Evidence().merged(proven).merged(scored).merged(timed())
    comparing.show_regressions(regress(baseline, opened.manifest, now.entries, timed), json)


def merge(
    bundle: BundlePath,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Evidence, as verify, bench and deploy save it: --evidence.")
    ],
    json: Json = False,
    markdown: Markdown = False,
) -> None:
    """Take into a bundle what other machines measured of its very files."""
    from edgecv.run import elsewhere
    from edgecv_runtime.bundle import Bundle

    with Bundle(bundle) as opened:
        found = elsewhere.merge(opened, [entry for path in paths for entry in elsewhere.read(path).entries])
        _show(opened, found.evidence, json, markdown)
    for line in found.left_out:
        stderr.print(f"edgecv: not taken: {line}", soft_wrap=True)
    say(f"taken: {found.taken} of {found.taken + len(found.left_out)}")


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


def _save(entries: list[Entry], path: Path | None) -> None:
    """Write what was measured to a file of its own, where that was asked for."""
    from edgecv_runtime import records
    from edgecv_runtime.evidence import Evidence

    if path is not None:
        files.write(path, records.encode(Evidence(tuple(entries))))


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
