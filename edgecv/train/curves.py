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
    """One epoch: the learning rate at its end, losses, top-1 shares of 0..1, and speed.

    Training figures are of augmented images and smoothed targets as the weights change; validation figures are of the
    kept weights on plain images, so that validation is often the better of the two.
    """

    epoch: int
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    images_per_s: float
    seconds: float


def write_csv(path: Path, history: Sequence[Epoch]) -> None:
    """Write one row an epoch, atomically; figures are written so that equal ones read equal."""
    names = [field.name for field in fields(Epoch)]
    rows = [",".join(map(repr, astuple(epoch))) for epoch in history]
    with storing(path):
        files.write(path, "\n".join([",".join(names), *rows, ""]).encode())


def write_svg(path: Path, history: Sequence[Epoch]) -> None:
    """Draw loss and top-1 over the epochs; the same history gives the same bytes."""
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
    shares.plot(epochs, [100 * row.train_top1 for row in history], label="training", color="#7a7a7a", marker=".")
    shares.plot(epochs, [100 * row.val_top1 for row in history], label="validation", color="#1f6feb", marker=".")
    best = max(history, key=lambda row: row.val_top1)
    shares.axhline(100 * best.val_top1, color="#1f6feb", linewidth=0.6, linestyle="--")
    shares.set_title(f"best {100 * best.val_top1:.2f} %", fontsize=9, loc="right")
    shares.set_ylabel("top-1 (%)")
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
