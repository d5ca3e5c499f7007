"""The pictures of the zoo: accuracy and cost against latency and size, one family a colour, labels that keep clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.plots import COLOURS, DARK, MARKERS, PALE, STYLE, label, panel, plain, svg
from benchmarks.zoo.figures import Row, Way, usual_ms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOY = 10e6  # MACs: networks of tiny pictures would push all others into a corner
Point = tuple[str, str, float, float]  # label, family, x, y


def draw(rows: list[Row]) -> dict[str, str]:
    """Name -> SVG of each picture that the rows have data for."""
    import matplotlib as mpl

    usual = usual_ms(rows)

    def ms(row: Row, way: str) -> float | None:
        found = row.ways.get(way, Way(why="not measured"))
        return None if found.why else found.median_ms(usual)

    classifiers = [row for row in rows if row.task == "classification"]
    told = [row for row in classifiers if row.published is not None]
    drawn: dict[str, Callable[[], Figure | None]] = {
        "accuracy": lambda: scatter(
            [(row.name, row.family, ms(row, "float32 on openvino"), row.published) for row in told],
            "milliseconds, float32 on OpenVINO, batch 1",
            "top-1 on ImageNet-1k, %, as published",
        ),
        "size": lambda: scatter(
            [(row.name, row.family, row.file_mb["int8"], row.published) for row in told],
            "MB of the int8 file",
            "top-1 on ImageNet-1k, %, as published, of float32",
        ),
        "macs": lambda: scatter(
            [
                (row.name, row.family, row.macs / 1e9, ms(row, "float32 on openvino"))
                for row in classifiers
                if row.macs > TOY
            ],
            "GMACs",
            "milliseconds, float32 on OpenVINO, batch 1",
            log_y=True,
        ),
        "int8": lambda: speedups(
            [(row, [(name, *times(row, ms, backend)) for name, backend in BACKENDS]) for row in classifiers]
        ),
    }
    with mpl.rc_context(STYLE):
        figures = {name: make() for name, make in drawn.items()}
        return {f"{name}.svg": svg(figure, f"zoo-{name}") for name, figure in figures.items() if figure is not None}


BACKENDS = (("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino"))


def times(row: Row, ms: Callable[[Row, str], float | None], backend: str) -> tuple[float | None, float | None]:
    """Milliseconds of float32 and int8."""
    return ms(row, f"float32 on {backend}"), ms(row, f"int8 on {backend}")


def scatter(
    given: Sequence[tuple[str, str, float | None, float | None]], x: str, y: str, log_y: bool = False
) -> Figure | None:
    """One point a network, those of a family joined in the order of x."""
    points: list[Point] = [(name, family, a, b) for name, family, a, b in given if a is not None and b is not None]
    if not points:
        return None
    figure, axis = panel(5.6)
    axis.set_xscale("log")
    if log_y:
        axis.set_yscale("log")
    for family in dict.fromkeys(point[1] for point in points):
        own = sorted((each[2], each[3]) for each in points if each[1] == family)
        colour, marker = look(family)
        axis.plot(*zip(*own, strict=True), color=colour, linewidth=1, alpha=0.5)
        axis.plot(*zip(*own, strict=True), marker, color=colour, markersize=5, label=family)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    for one in (axis.xaxis, axis.yaxis) if log_y else (axis.xaxis,):
        plain(one)
    axis.margins(x=0.09, y=0.06)
    figure.canvas.draw()
    label(figure, axis, [(name, look(family)[0], a, b) for name, family, a, b in points])
    return figure


def speedups(given: Sequence[tuple[Row, Sequence[tuple[str, float | None, float | None]]]]) -> Figure | None:
    """How many times as fast int8 is as float32, a row a network, a mark a backend."""
    rows = [(row.name, [(name, a / b) for name, a, b in found if a and b]) for row, found in given]
    rows = [(name, found) for name, found in rows if found]
    if not rows:
        return None
    figure, axis = panel(0.9 + 0.17 * len(rows))
    for place, (_, found) in enumerate(rows):
        values = [value for _, value in found]
        axis.plot([min(values), max(values)], [place, place], color=PALE, linewidth=1, zorder=1)
    for index, (name, _) in enumerate(BACKENDS):
        spots = [(dict(found)[name], place) for place, (_, found) in enumerate(rows) if name in dict(found)]
        if spots:
            axis.plot(*zip(*spots, strict=True), MARKERS[index], color=COLOURS[index], markersize=5, label=name)
    axis.axvline(1, color=DARK, linewidth=0.8)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7.5)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel("int8 is so many times as fast as float32 on the same backend")
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def look(family: str) -> tuple[str, str]:
    """Colour and marker of a family, the same in every picture."""
    from edgecv import models

    families = list(dict.fromkeys(models.spec(name).family for name in models.names()))
    index = families.index(family)
    return COLOURS[index % len(COLOURS)], MARKERS[index // len(COLOURS) % len(MARKERS)]
