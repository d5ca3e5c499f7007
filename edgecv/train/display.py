"""Show a run to whoever waits for it: a bar on a terminal, else one line an epoch in the log."""

from __future__ import annotations

import logging
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from edgecv.train.curves import Epoch

if TYPE_CHECKING:
    from rich.progress import Progress

log = logging.getLogger("edgecv.train")


class Display:
    """A progress bar on stderr when that is a terminal and `bar` is set; closed by `with`.

    steps: of the whole run; done: how many of them earlier sessions took.
    """

    def __init__(self, epochs: int, steps: int, done: int, *, bar: bool) -> None:
        self._epochs = epochs
        self._progress = _progress() if bar and sys.stderr.isatty() else None
        self._val = ""
        if self._progress is not None:
            self._task = self._progress.add_task("training", total=steps, completed=done, figures="")

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def step(self, epoch: int, loss: float, right: float, images_per_s: float) -> None:
        """Show the epoch's running loss, share of right answers and speed after one step more."""
        if self._progress is not None:
            self._progress.update(
                self._task,
                advance=1,
                description=f"epoch {epoch}/{self._epochs}",
                figures=f"loss {loss:.3f}  train {right:.1%}{self._val}  {images_per_s:.0f} images/s",
            )

    def epoch(self, row: Epoch) -> None:
        """Show a finished epoch."""
        self._val = f"  val {row.val_score:.2%}"
        log.info(
            "epoch %d/%d: loss %.3f, train %.2f %%, val loss %.3f, val %.2f %%, %.0f images/s",
            row.epoch,
            self._epochs,
            row.train_loss,
            100 * row.train_right,
            row.val_loss,
            100 * row.val_score,
            row.images_per_s,
        )


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
