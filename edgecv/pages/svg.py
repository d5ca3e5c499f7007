"""Figures as inline SVG whose colours and fonts are the page's, so that they follow its light or dark theme."""

from __future__ import annotations

import html
import io
import re
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 4.8  # inches: text keeps its size on a phone, where a figure fills the width
# Okabe and Ito's colours (2008), told apart by the colour-blind too; the style sheet defines each for both themes.
INK, MUTED, LINE, PAPER = "#1c2330", "#5b6573", "#d5dae1", "#fefdfc"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#aa4499"
_VARIABLES = {
    INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)",
    BLUE: "var(--blue)", ORANGE: "var(--orange)", GREEN: "var(--green)", PURPLE: "var(--purple)",
}  # fmt: skip
_PRECISIONS = {"float32": BLUE, "int8": ORANGE, "bf16": GREEN, "fp16": GREEN}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "edgecv",  # equal figures give equal bytes
    "text.parse_math": False,  # a label may hold a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.columnspacing": 1.2,
    "text.color": INK,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
}


def color(precision: str | None) -> str:
    """The colour of a precision, the same in every figure."""
    return _PRECISIONS.get(precision or "", PURPLE)


def style() -> AbstractContextManager[None]:
    """Draw in the style of the pages: figures are made and rendered inside this."""
    return mpl.rc_context(_STYLE)


def panels(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the common width and `height` inches, and its panels from top left to bottom right."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(grid.flat)


def render(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element without references to anything outside; `name` keeps its ids apart."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", text)
    text = re.sub(r"font(-family)?: ([\d.]+px )?[^;\"]*DejaVu[^;\"]*", _font, text)
    text = re.sub(r"(fill|stroke): (#\w{6})", lambda match: f"{match[1]}: {_VARIABLES.get(match[2], match[2])}", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


def _font(match: re.Match[str]) -> str:
    """Keep the size, leave the family to the page."""
    return f"font-size: {match[2].strip()}" if match[2] else "font-family: inherit"
