"""What happened epoch by epoch, as CSV and as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from edgecv.train.checkpoint import storing
from edgecv_runtime import files
from edgecv_runtime.errors import Unavailable


@dataclass(frozen=True)
class Epoch:
    """One epoch: the learning rate at its end, losses, scores of 0..1, and speed.

    train_right: the share of right answers, for a task whose score needs more than that something like it; val_score:
    the task's score. Training figures are of augmented images and smoothed targets as the weights change; validation
    figures are of the kept weights on plain images, so that validation is often the better of the two.
    """

    epoch: int
    lr: float
    train_loss: float
    train_right: float
    val_loss: float
    val_score: float
    images_per_s: float
    seconds: float


@dataclass(frozen=True)
class Names:
    """What the shares of training and the scores of validation are called: "top-1" and "top-1", or as the task says."""

    progress: str
    metric: str

    def columns(self) -> list[str]:
        """The names of an epoch's figures in curves.csv: train_top1, val_top1, val_mIoU, ..."""
        told = {"train_right": f"train_{_word(self.progress)}", "val_score": f"val_{_word(self.metric)}"}
        return [told.get(field.name, field.name) for field in fields(Epoch)]


def _word(name: str) -> str:
    return name.replace("-", "").replace(" ", "_")


def write_csv(path: Path, history: Sequence[Epoch], names: Names) -> None:
    """Write one row an epoch, atomically; figures are written so that equal ones read equal."""
    rows = [",".join(map(repr, astuple(epoch))) for epoch in history]
    with storing(path):
        files.write(path, "\n".join([",".join(names.columns()), *rows, ""]).encode())


def write_svg(path: Path, history: Sequence[Epoch], names: Names) -> None:
    """Draw loss and score over the epochs; the same history gives the same bytes."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as exc:
        raise Unavailable("curves need matplotlib", extra="train") from exc

    epochs = [row.epoch for row in history]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    losses.plot(epochs, [row.train_loss for row in history], label="training", color="#7a7a7a", marker=".")
    losses.plot(epochs, [row.val_loss for row in history], label="validation", color="#1f6feb", marker=".")
    losses.set_ylabel("loss")
    told = ["training", "validation"]
    if names.progress != names.metric:
        told = [f"training ({names.progress})", f"validation ({names.metric})"]
    shares.plot(epochs, [100 * row.train_right for row in history], label=told[0], color="#7a7a7a", marker=".")
    shares.plot(epochs, [100 * row.val_score for row in history], label=told[1], color="#1f6feb", marker=".")
    best = max(history, key=lambda row: row.val_score)
    shares.axhline(100 * best.val_score, color="#1f6feb", linewidth=0.6, linestyle="--")
    shares.set_title(f"best {100 * best.val_score:.2f} %", fontsize=9, loc="right")
    shares.set_ylabel(f"{names.metric} (%)")
    for axes in (losses, shares):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False)
    picture = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "edgecv"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    with storing(path):
        files.write(path, picture.getvalue())
