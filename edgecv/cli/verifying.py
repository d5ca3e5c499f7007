"""`edgecv verify`: is every variant on every backend what it should be?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli import evidence
from edgecv.cli.output import say, show_json, stderr, stdout
from edgecv_runtime import files
from edgecv_runtime.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from edgecv_runtime.evidence import Entry, Evidence, Finding
    from edgecv_runtime.manifest import Manifest


def verify(
    bundle: evidence.BundlePath,
    data: evidence.Data = None,
    backend: evidence.Backend = "auto",
    max_megapixels: evidence.MaxMegapixels = 50.0,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against", help="A .npy or .npz that your own code made of the golden pictures; see --pictures."
        ),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Write the golden pictures to this folder.")
    ] = None,
    evidence_file: evidence.EvidenceFile = None,
    write: evidence.Write = True,
    json: evidence.Json = False,
    markdown: evidence.Markdown = False,
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
            evidence.scored(opened, data, max_megapixels, backend)
            if data is not None
            else [each.entry for each in verification.verify(opened, backend=backend)]
        )
        manifest, before = opened.manifest, opened.evidence()
        known_now = before.merged(entries)
        (say if json or markdown else stdout.print)(_verified(entries, manifest))
        evidence.show(opened, Evidence(tuple(entries)), json, markdown, judged=known_now)
        evidence.save(entries, evidence_file)
        kept = evidence.keep(opened, known_now, write)
    here = {entry.key for entry in entries}
    failed = [entry for entry in known_now.entries if entry.key in here and not is_faithful(entry, manifest)]
    places = {entry.machine.key: entry.machine for entry in entries}.values()
    old = [each for place in places for each in measured(manifest, before, place)]
    known = {each.key for each in old if not is_faithful(each, manifest)}
    for finding in found:
        stderr.print(f"edgecv: {finding}", soft_wrap=True)
    for each in failed:
        why = each.finding or each.failed or _beyond(each, manifest, known_now)
        before_too = "withheld, as before: " if _is_known(each, known, manifest) else ""
        stderr.print(f"edgecv: {each.variant} on {each.backend}: {before_too}{why}", soft_wrap=True)
    if found or not all(_is_known(each, known, manifest) for each in failed):
        raise typer.Exit(evidence.EXIT_LOSSES)
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


def _beyond(entry: Entry, manifest: Manifest, known: Evidence) -> str:
    """What an entry that ran loses beyond the budget."""
    from edgecv_runtime.offers import offered

    offers = offered(manifest, known, entry.machine)
    return offers.why_not.get(entry.target, "") or f"it does not keep within the budget when it runs in {entry.hint}"


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
        raise typer.Exit(evidence.EXIT_LOSSES)
