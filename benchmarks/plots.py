"""How the studies' pictures look, and what is drawn of a page's tables: bars, dots with intervals, two columns."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from benchmarks import pages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#e69f00", "#56b4e9", "#882255", "#44aa99", "#999933", "#332288",
           "#cc6677", "#117733")  # fmt: skip
MARKERS = "osD^vP"
DARK, PALE = "#5b6573", "#c5cbd3"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "edgecv",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e3e6ea",
    "legend.frameon": False,
}
AROUND = ((5, 4, "left"), (5, -9, "left"), (-5, 4, "right"), (-5, -9, "right"), (0, 8, "center"), (0, -14, "center"))
ROW, HEAD, SERIES = 0.21, 0.95, 0.08  # inches: a row, axis and legend, each mark of a row after its first


class Picture(Protocol):
    """What is drawn of a page."""

    def draw(self, blocks: Iterable[pages.Block], name: str) -> str:
        """The SVG; name: of its ids."""


@dataclass(frozen=True)
class Row:
    """A row of a page's table: its cells by column, and the heading above the table."""

    cells: dict[str, pages.Cell]
    heading: str
    table: int

    def __getitem__(self, name: str) -> str:
        """A cell's text, without marks of Markdown."""
        return plain_text(self.cells.get(name, ""))

    @property
    def first(self) -> str:
        """The first cell's text."""
        return plain_text(next(iter(self.cells.values())))

    @property
    def corner(self) -> str:
        """The first column's heading."""
        return plain_text(next(iter(self.cells)))


class Mark(NamedTuple):
    """What stands in a row: a number with its interval and its text; a text alone is a bar of no length."""

    value: float
    low: float | None
    high: float | None
    text: str


def first(row: Row) -> str:
    """Names a row by its first cell."""
    return row.first


def heading(row: Row) -> str:
    """Groups rows by the heading above their table."""
    return row.heading


@dataclass(frozen=True)
class Rows:
    """A row of a table each: dots with their intervals, or bars.

    unit: what the axis tells. values: column -> name in the legend. label: names a row; rows of the same group and
    label share a line. series: names the marks of a row instead of `values`' names. group: stands above rows that
    share it. part: which number of the cell. where: rows that are left out give
    False. line: a value to compare with. share_of: draw per cent of this column, or for "" of the
    cell's own second number. linear_to: below it a logarithmic axis is linear, and holds 0 and negative numbers.
    """

    unit: str
    values: Mapping[str, str]
    label: Callable[[Row], str] = first
    series: Callable[[Row], str] | None = None
    group: Callable[[Row], str] = lambda _: ""
    where: Callable[[Row], bool] = lambda _: True
    part: int = 0
    bars: bool = False
    stacked: bool = False
    share_of: str | None = None
    log: bool = False
    line: float | None = None
    linear_to: float | None = None

    def draw(self, blocks: Iterable[pages.Block], name: str) -> str:
        """The SVG."""
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            drawn = [row for row in rows(blocks) if self.values.keys() & row.cells.keys() and self.where(row)]
            return svg(self._figure(drawn), name)

    def _figure(self, given: Sequence[Row]) -> Figure:
        missing = [column for column in self.values if not any(column in row.cells for row in given)]
        if missing:
            raise ValueError(f"no row that is drawn has a column {missing}; the page's tables have changed")
        lines: dict[tuple[str, str], dict[str, Mark]] = {}
        for row in given:
            for column, called in self.values.items():
                mark = self._mark(row, row.cells.get(column, ""))
                if mark is not None:
                    series = self.series(row) if self.series else called
                    line = (self.group(row), self.label(row))
                    if lines.setdefault(line, {}).setdefault(series, mark) != mark:
                        raise ValueError(f"two rows are {line}, {series!r}: they would be one mark")
        groups = list(dict.fromkeys(group for group, _ in lines))
        names = list(dict.fromkeys(series for marks in lines.values() for series in marks))
        ordered = [(group, label) for group in groups for each, label in [(group, ""), *lines] if each == group]
        ordered = [each for each in ordered if each[1] or each[0]]
        side = 1 if self.stacked else len(names)
        figure, axis = panel(HEAD + (ROW + SERIES * (side - 1)) * len(ordered))
        if self.linear_to:
            axis.set_xscale("symlog", linthresh=self.linear_to)
        elif self.log:
            axis.set_xscale("log")
        ticks = []
        for place, (group, label) in enumerate(ordered):
            ticks.append(label or group)
            marks = lines.get((group, label), {})
            (self._bars if self.bars else self._dots)(
                axis, place, [(names.index(s), m) for s, m in marks.items()], side
            )
        axis.set_yticks(range(len(ordered)), ticks, fontsize=7.5)
        for tick, (_, label) in zip(axis.get_yticklabels(), ordered, strict=True):
            tick.set_fontweight("normal" if label else "bold")
        axis.set_ylim(len(ordered) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
        if self.log or self.linear_to:
            plain(axis.xaxis, self.linear_to)
        if self.bars:
            axis.set_xlim(left=0)
        if self.line is not None:
            axis.axvline(self.line, color=DARK, linewidth=0.8, zorder=0.9)
        axis.set_xlabel(self.unit)
        if len(names) > 1:
            self._legend(axis, names)
        return figure

    def _mark(self, row: Row, cell: pages.Cell) -> Mark | None:
        value, text = pages.number(cell, self.part), plain_text(cell)
        low, high = (cell.low, cell.high) if isinstance(cell, pages.Figure) and not self.part else (None, None)
        if value is None or (self.log and not self.linear_to and value <= 0):
            return Mark(0, None, None, text) if self.bars and text not in ("", "–") else None
        if self.share_of is not None:
            whole = pages.number(row.cells[self.share_of]) if self.share_of else pages.number(cell, 1)
            value = 100 * value / (whole or 1)
        return Mark(value, low, high, text)

    def _bars(self, axis: Axes, place: int, marks: list[tuple[int, Mark]], side: int) -> None:
        start, height = 0.0, 0.76 / side
        for index, mark in marks:
            y = place if self.stacked else place + (index - (side - 1) / 2) * height
            axis.barh(y, mark.value, height * 0.92, start, color=COLOURS[index])
            if self.stacked:
                start += mark.value
            else:
                axis.annotate(mark.text, (mark.value, y), (3, 0), textcoords="offset points", va="center",
                              fontsize=6.5, color=DARK)  # fmt: skip

    def _dots(self, axis: Axes, place: int, marks: list[tuple[int, Mark]], side: int) -> None:
        for index, mark in marks:
            y = place + (index - (side - 1) / 2) * 0.66 / side
            if mark.low is not None and mark.high is not None:
                axis.plot([mark.low, mark.high], [y, y], color=COLOURS[index], linewidth=1.2, alpha=0.55)
            axis.plot(mark.value, y, (MARKERS * 2)[index], color=COLOURS[index], markersize=4.5)

    def _legend(self, axis: Axes, names: Sequence[str]) -> None:
        from matplotlib.lines import Line2D

        markers = "s" * len(names) if self.bars else MARKERS * 2
        handles = [
            Line2D([], [], linestyle="", color=COLOURS[index], marker=markers[index], markersize=5, label=name)
            for index, name in enumerate(names)
        ]
        axis.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(4, len(names)))


@dataclass(frozen=True)
class Against:
    """A point a row, a column against another on logarithmic axes, with the line on which both are the same.

    x, y: column and what its axis tells. part: which number of the cells. series: names the colour. named: factor from
    the line from which on points have their names. same: names the line.
    """

    x: tuple[str, str]
    y: tuple[str, str]
    series: Callable[[Row], str] = lambda _: ""
    part: int = 0
    named: float = 1.0
    same: str = "the same"

    def draw(self, blocks: Iterable[pages.Block], name: str) -> str:
        """The SVG."""
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            drawn = [row for row in rows(blocks) if {self.x[0], self.y[0]} <= row.cells.keys()]
            return svg(self._figure(drawn), name)

    def _figure(self, given: Sequence[Row]) -> Figure:
        figure, axis = panel(5.6)
        axis.set_xscale("log")
        axis.set_yscale("log")
        names = list(dict.fromkeys(map(self.series, given)))
        points = []
        for row in given:
            x, y = (pages.number(row.cells[column], self.part) for column in (self.x[0], self.y[0]))
            if x and y:
                points.append((row.first, COLOURS[names.index(self.series(row))], float(x), float(y)))
        for index, name in enumerate(names):
            own = [(x, y) for _, colour, x, y in points if colour == COLOURS[index]]
            axis.plot(*zip(*own, strict=True), MARKERS[index], color=COLOURS[index], markersize=4.5, label=name or None)
        ends = [min(min(x, y) for *_, x, y in points), max(max(x, y) for *_, x, y in points)]
        axis.plot(ends, ends, color=DARK, linewidth=0.8, zorder=0.9, label=self.same)
        axis.legend(loc="upper left")
        axis.set_xlabel(self.x[1])
        axis.set_ylabel(self.y[1])
        for one in (axis.xaxis, axis.yaxis):
            plain(one)
        axis.minorticks_off()
        figure.canvas.draw()
        label(figure, axis, points, lambda x, y: max(x / y, y / x) >= self.named)
        return figure


def rows(blocks: Iterable[pages.Block]) -> list[Row]:
    """The rows of all tables of a page."""
    found: list[Row] = []
    above, table = "", -1
    for block in blocks:
        if isinstance(block, pages.Table):
            table += 1
            names = [column.name for column in block.columns]
            found += [Row(dict(zip(names, cells, strict=True)), above, table) for cells in block.rows]
        elif block.startswith("#"):
            above = plain_text(block.lstrip("# "))
    return found


def plain_text(cell: object) -> str:
    """A cell's text without marks of Markdown."""
    return re.sub(r"[`*]|\\(?=\|)", "", str(cell))


def panel(height: float) -> tuple[Figure, Axes]:
    """A figure of the common width, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def plain(axis: Axis, linear_to: float | None = None) -> None:
    """Ticks at 1, 2 and 5 of each decade, or at 1 of many, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if linear_to is None:
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def label(
    figure: Figure,
    axis: Axes,
    points: Sequence[tuple[str, str, float, float]],
    is_named: Callable[[float, float], bool] = lambda *_: True,
) -> None:
    """Name the points where there is room around them; one that has none stays without a name.

    points: name, colour, x, y.
    """
    from matplotlib.transforms import Bbox

    scale = figure.dpi / 72
    places = [axis.transData.transform((x, y)) for _, _, x, y in points]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in places]
    inside = figure.bbox
    for (name, colour, x, y), (left, base) in sorted(zip(points, places, strict=True), key=lambda each: -each[1][1]):
        if not is_named(x, y):
            continue
        width, height = len(name) * 4.3 * scale, 8 * scale
        for (dx, dy, side), reach in itertools.product(AROUND, (1, 2)):
            start = left + dx * reach * scale - {"left": 0, "right": width, "center": width / 2}[side]
            box = Bbox.from_bounds(start, base + dy * reach * scale, width, height)
            fits = inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1
            if fits and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                axis.annotate(name, (x, y), (dx * reach, dy * reach), textcoords="offset points", ha=side, fontsize=7,
                              color=colour)  # fmt: skip
                break


def svg(figure: Figure, name: str) -> str:
    """As a file that stands alone and inside of a page: white ground, ids of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace('id="', f'id="{name}-').replace("url(#", f"url(#{name}-")
    text = text.replace("<svg ", f'<svg id="{name}" ', 1).replace("*{", f"#{name} *{{", 1)  # its style is its own
    return text.replace('xlink:href="#', f'xlink:href="#{name}-').replace("\n\n", "\n")
