"""Figures as a page shows them: a title, the drawing, and one sentence that tells how to read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import FuncFormatter


@dataclass(frozen=True)
class Plot:
    """A figure as SVG, with one sentence that tells a newcomer how to read it; place: its rank, height: in inches."""

    place: int
    height: float
    title: str
    svg: str
    caption: str


def columns(plots: Sequence[Plot]) -> tuple[list[Plot], list[Plot]]:
    """Two columns about as long as each other, filled in order: the next figure goes where there is more room."""
    left: list[Plot] = []
    right: list[Plot] = []
    for plot in plots:
        lengths = [sum(each.height + 1 for each in column) for column in (left, right)]
        (left if lengths[0] <= lengths[1] else right).append(plot)
    return left, right


def plain(axis: Any, share: bool = False) -> None:
    """Ticks in plain figures: matplotlib's own would write powers as math markup."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}" if share else f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda *_: ""))
