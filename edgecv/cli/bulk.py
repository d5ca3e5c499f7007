"""The verb for very many images: bulk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli.device import EXIT_LOSSES, Json, ModelPath
from edgecv.cli.loading import Loading, loads
from edgecv.cli.output import say, show_json, stdout
from edgecv_runtime.errors import BadInput

if TYPE_CHECKING:
    from edgecv_runtime.bulk import Progress

_SAID_S = 5.0  # between two lines of progress


@loads
def bulk(
    bundle: ModelPath,
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="A folder, 'a/*.jpg', a text file with a path a line, or a URL.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="TABLE", help="A .parquet, .jsonl or .csv file.")],
    loading: Loading,
    columns: Annotated[
        str, typer.Option("--columns", metavar="A,B", help="Of the task's columns; all but the largest without it.")
    ] = "",
    workers: Annotated[int, typer.Option("--workers", help="Processes; 0: one a core.")] = 0,
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="On a Ray cluster: auto, HOST:PORT; local: one of this machine."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, whatever is there.")] = False,
    max_megapixels: Annotated[float, typer.Option(help="A larger picture is refused unread.")] = 50.0,
    json: Json = False,
) -> None:
    """Results of very many images as one table; killed at any moment, the same command goes on.

    A row an image, in the order of their names. One that is broken has its error in its row (exit code 4).
    """
    import edgecv_runtime as rt
    from edgecv_runtime import bulk as bulks

    asked = tuple(filter(None, (name.strip() for name in columns.split(","))))
    if columns and not asked:
        raise BadInput(f"--columns wants names with commas between them, got '{columns}'")
    predictor = rt.Predictor(
        bundle,
        **loading.asked(),
        columns=asked or None,
        max_pixels=round(max_megapixels * 1e6),
    )
    done = bulks.run(
        predictor, images, out, workers=workers, ray=ray, overwrite=overwrite, progress=_Teller().tell, told=say
    )
    if json:
        show_json({"out": str(out), **{name: getattr(done, name) for name in done.__struct_fields__}})
    else:
        stdout.print(f"{out}: {done.images} images, {done.errors} of them with an error", soft_wrap=True)
    if done.errors:
        raise typer.Exit(EXIT_LOSSES)


class _Teller:
    """Lines of progress, now and then."""

    def __init__(self) -> None:
        self._said_s = time.monotonic()

    def tell(self, progress: Progress) -> None:
        """Say how far it is, when the last line is some time ago."""
        now_s = time.monotonic()
        if now_s - self._said_s >= _SAID_S:
            self._said_s = now_s
            rate = progress.here / progress.seconds
            say(f"{progress.done} of {progress.images} images, {rate:.0f} a second, {progress.errors} errors")
