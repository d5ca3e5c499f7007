"""Verbs on a finished bundle: verify, bench, report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli.output import say, show_json, stderr, stdout
from edgecv_runtime.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgecv_runtime.bench.table import Row
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.manifest import Entry, Evidence, Manifest
    from edgecv_runtime.preprocess import Image

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder or .edgecv file.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="The table as Markdown.")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder with one folder of images a class, named as the labels are.")
]


def verify(bundle: BundlePath, data: Data = None, json: Json = False, markdown: Markdown = False) -> None:
    """Run every variant on every backend against the golden inputs, or on your own labelled images."""
    from edgecv_runtime import verify as verification
    from edgecv_runtime.bundle import Bundle

    with Bundle(bundle) as opened:
        entries = _scored(opened, data) if data is not None else [each.entry for each in verification.verify(opened)]
        judged, evidence = keep(opened, entries, bundle)
    _show(bundle, json, markdown)
    measured = {entry.key for entry in entries}
    failed = [
        entry for entry in evidence.entries if entry.key in measured and not verification.is_faithful(entry, judged)
    ]
    for each in failed:
        why = each.failed or "it does not keep within the budget"
        stderr.print(f"edgecv: {each.variant} on {each.backend}: {why}", soft_wrap=True)
    if failed:
        raise typer.Exit(4)


def bench(
    bundle: BundlePath,
    seconds: Annotated[float, typer.Option(help="Of one round of one target.")] = 0.5,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 5,
    batch: Annotated[int, typer.Option(help="Frames a call.")] = 1,
    threads: Annotated[int, typer.Option(help="0 leaves them to the backend.")] = 0,
    data: Data = None,
    json: Json = False,
    markdown: Markdown = False,
) -> None:
    """Time every variant on every backend, in interleaved rounds; with --data, score the same files too."""
    from edgecv_runtime.bench import table
    from edgecv_runtime.bench.latency import bench as run_bench
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.manifest import Evidence

    if data is not None and (batch, threads) != (1, 0):
        raise BadInput("--data scores the bundle, --batch and --threads only look: give one or the other")
    with Bundle(bundle) as opened:
        entries = run_bench(opened, seconds=seconds, rounds=rounds, batch=batch, threads=threads, progress=say)
        if (batch, threads) != (1, 0):
            say("not kept in the bundle: it is judged at batch 1, with the threads that a backend takes by itself")
            found = table.of_entries(opened, entries)
            show_json(found) if json else _print(found, markdown)
            return
        if data is not None:
            entries = list(Evidence(entries=tuple(entries)).merged(_scored(opened, data)).entries)
        keep(opened, entries, bundle)
    _show(bundle, json, markdown)


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
        with Bundle(run / "bundle") as opened:
            found += rows(opened)
    path = write(runs, out, clip=clip)
    if json:
        show_json({"report": str(path), "rows": found})
        return
    _print(found, markdown)
    say(f"report: {path.absolute()}")


def _scored(opened: Bundle, data: Path) -> list[Entry]:
    """Accuracy of every target on labelled images; float32 here is no proof of itself, so agreement is left out."""
    import msgspec

    from edgecv_runtime import verify as verification

    frames, labels = labelled(opened, data)
    expected = verification.float_outputs(opened, frames)
    done = verification.verify(opened, frames, expected, reference_name="float32 here", labels=labels)
    return [msgspec.structs.replace(each.entry, agreement=None) for each in done]


def keep(opened: Bundle, entries: list[Entry], path: Path) -> tuple[Manifest, Evidence]:
    """Put new evidence into the bundle and judge it again."""
    from edgecv_runtime import bundle
    from edgecv_runtime.verify import judge

    evidence = opened.evidence().merged(entries)
    judged = judge(opened.manifest, evidence)
    try:
        bundle.update(opened, manifest=judged, evidence=evidence)
    except OSError as exc:
        raise Unavailable(f"{path}: the evidence cannot be written: {exc.strerror}; the bundle is as it was") from exc
    return judged, evidence


def preprocessed(opened: Bundle, frames: Iterable[Image]) -> Image:
    """Frames as the network sees them, one after the other: full-size frames are not held together."""
    import numpy as np

    return np.stack([opened.manifest.preprocess(frame) for frame in frames])


def _show(path: Path, json: bool, markdown: bool) -> None:
    from edgecv_runtime.bench.table import rows
    from edgecv_runtime.bundle import Bundle

    with Bundle(path) as opened:
        found = rows(opened)
    if json:
        show_json(found)
    else:
        _print(found, markdown)


def _print(found: list[Row], markdown: bool) -> None:
    from edgecv.report.console import print_table
    from edgecv_runtime.bench import table

    if markdown:
        stdout.print(table.markdown(found), soft_wrap=True)
    else:
        print_table(found, stdout)


def labelled(opened: Bundle, data: Path) -> tuple[Image, NDArray[np.int64]]:
    """Images of a folder whose class folders are named as the bundle's labels: frames and label indices."""
    from edgecv_runtime import images

    paths, labels = labelled_paths(opened, data)
    return preprocessed(opened, map(images.read, paths)), labels


def labelled_paths(opened: Bundle, data: Path) -> tuple[list[Path], NDArray[np.int64]]:
    """Files in a folder whose class folders are named as the bundle's labels, and their label indices."""
    import numpy as np

    from edgecv_runtime import images

    labels = opened.manifest.labels
    folders = sorted(folder for folder in data.iterdir() if folder.is_dir()) if data.is_dir() else []
    unknown = [folder.name for folder in folders if folder.name not in labels]
    if not folders or unknown:
        what = f"folders that are no labels: {', '.join(unknown[:5])}" if unknown else "no class folders"
        raise BadInput(
            f"{data}: {what}; expected one folder a class, named as the labels: {', '.join(labels[:5])}, ..."
        )
    found = [(path, labels.index(folder.name)) for folder in folders for path in images.find(folder)]
    if not found:
        raise BadInput(f"{data}: holds no images")
    return [path for path, _ in found], np.array([label for _, label in found], np.int64)
