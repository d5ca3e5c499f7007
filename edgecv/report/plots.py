"""The figures of a report: one function each, from a run to a matplotlib figure, or None with nothing to show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from edgecv.pages import svg
from edgecv.pages.figures import Plot, plain
from edgecv.run.folder import Candidate, Quantization, Run
from edgecv_runtime.bench.table import Row, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP"
_DASHED, _DOTTED = (0, (3, 2)), (0, (1, 2))
_RING: dict[str, Any] = {"color": svg.INK, "marker": "o", "fillstyle": "none", "markersize": 12}
_BAR, _HEAD = 0.42, 0.5  # inches: of one bar with its label, of the axis around them


def draw(run: Run, prefix: str) -> list[Plot]:
    """Every figure for which the run has data; `prefix` keeps the ids of several runs apart."""
    with svg.style():
        figures = [
            (title + where, figure_of(part), caption)
            for part, where in _by_machine(run)
            for title, figure_of, caption in TIMED
        ]
        figures += [(title, figure_of(run), caption) for title, figure_of, caption in OTHERS]
        return [
            Plot(place, figure.get_figheight(), title, svg.render(figure, f"{prefix}-{place}", title), caption)
            for place, (title, figure, caption) in enumerate(figures)
            if figure is not None
        ]


def curves(run: Run) -> Figure | None:
    """Loss, the task's score and learning rate over the epochs, whatever the header of curves.csv names."""
    if not run.curves:
        return None
    names = [name for name in run.curves if any(map(math.isfinite, run.curves[name]))]
    steps = next((run.curves[name] for name in names if name.lower() in ("epoch", "step")), None)
    kinds = {"loss": ("loss",), "accuracy": ("acc", "top1", "top_1"), "learning rate": ("learning", "lr")}
    found = {kind: [name for name in names if any(key in name.lower() for key in keys)] for kind, keys in kinds.items()}
    told = {name for columns in found.values() for name in columns}
    found["score"] = [name for name in names if name.startswith(("train_", "val_")) and name not in told]
    found = {kind: columns for kind, columns in found.items() if columns}
    if not found:
        return None
    figure, axes = svg.panels(0.5 + 1.35 * len(found), rows=len(found), sharex=True)
    for axis, (kind, columns) in zip(axes, found.items(), strict=True):
        for name in columns:
            values = run.curves[name]
            role, shade = _role(name)
            axis.plot(steps or range(1, len(values) + 1), values, ".-", color=shade, label=role, markersize=4)
        axis.set_ylabel(kind)
        axis.grid(axis="y")
        shares = all(value <= 1 for name in columns for value in run.curves[name] if math.isfinite(value))
        plain(axis.yaxis, share=kind in ("accuracy", "score") and shares)
        if len(columns) > 1:
            axis.legend(ncols=len(columns), loc="best")
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def latency(run: Run) -> Figure | None:
    """One bar per target: the median, with marks at p90 and p99."""
    rows = [row for row in run.rows if row.latency]
    if not rows:
        return None
    figure, axis = _bars([_name(row) for row in rows])
    timed = [row.latency for row in rows if row.latency]
    limit = min(max(each.p99_ms for each in timed), 3 * max(each.p50_ms for each in timed))
    for place, row in enumerate(rows):
        assert row.latency is not None
        times, shade = row.latency, svg.color(row.executed)
        axis.barh(place, times.p50_ms, height=0.3, color=shade, alpha=1 if row.offered else 0.45)
        axis.plot([times.p50_ms, min(times.p99_ms, limit)], [place, place], color=svg.MUTED, linewidth=0.8)
        for value, ink in ((times.p99_ms, svg.MUTED), (times.p90_ms, svg.INK)):
            if value <= limit:
                axis.plot(value, place, "|", color=ink, markersize=9, markeredgewidth=1.5)
        if times.p99_ms > limit:
            axis.plot(limit, place, ">", color=svg.MUTED, markersize=4)
        text = f"{number(times.p50_ms)} ms" + ("" if times.p99_ms <= limit else f", p99 {number(times.p99_ms)}")
        _above(axis, place, text, right=True)
    axis.set_xlim(0, limit * 1.03)
    axis.set_xlabel("milliseconds per call")
    return figure


def quality(run: Run) -> Figure | None:
    """Accuracy, or agreement where there are no labels, against the median latency."""
    labelled = any(row.score for row in run.rows)
    points = [(row, row.score if labelled else row.agreement and row.agreement.share) for row in run.rows]
    shown = [(row, row.latency.p50_ms, found) for row, found in points if row.latency and found]
    if not shown:
        return None
    figure, (axis,) = svg.panels(3.1)
    backends = list(dict.fromkeys(row.backend for row, _, _ in shown))
    for row, time, found in shown:
        shade = svg.color(row.executed)
        spread = [[max(0.0, 100 * (found.value - found.low))], [max(0.0, 100 * (found.high - found.value))]]
        axis.errorbar(
            time, 100 * found.value, yerr=spread, fmt=_MARKERS[backends.index(row.backend) % len(_MARKERS)],
            color=shade, markerfacecolor=shade if row.offered else svg.PAPER, markersize=7, elinewidth=1, capsize=2.5,
        )  # fmt: skip
    axis.set_xlabel("median milliseconds per call")
    axis.set_ylabel("accuracy, %" if labelled else "agreement with PyTorch, %")
    axis.set_xlim(0, 1.1 * max(time for _, time, _ in shown))
    axis.grid()
    plain(axis.xaxis)
    plain(axis.yaxis)
    marks = [_mark(name or "", _MARKERS[place % len(_MARKERS)], svg.MUTED) for place, name in enumerate(backends)]
    precisions = dict.fromkeys(row.executed or "" for row, _, _ in shown)
    shades = [Patch(color=svg.color(name), label=name) for name in precisions]
    if not all(row.offered for row, _, _ in shown):
        marks.append(_mark("hollow: not offered", "o", svg.MUTED, svg.PAPER))
    _legend(figure, [*shades, *marks])
    return figure


def sizes(run: Run) -> Figure | None:
    """One bar per file of the bundle that holds a network."""
    megabytes = {row.variant: row.file_mb for row in run.rows}
    if len(megabytes) < 2:
        return None
    precisions = {variant.name: variant.precision for variant in run.manifest.variants}
    return _amounts(megabytes, "MB", "megabytes", lambda name: svg.color(precisions[name]))


def durations(run: Run) -> Figure | None:
    """One bar per step of the build."""
    if not run.seconds:
        return None
    return _amounts(run.seconds, "s", f"seconds, {number(sum(run.seconds.values()))} in all", lambda _: svg.BLUE)


def candidates(run: Run) -> Figure | None:
    """What each way to quantize loses against its latency, one panel per backend."""
    return None if run.quantization is None else front(run.quantization)


def front(quantization: Quantization) -> Figure | None:
    """Points of accuracy lost against latency, one panel per backend, and the front of the trials that nothing beats.

    Without labels, divergence from float32 stands for accuracy. None when there are no trials.
    """
    tried = quantization.candidates
    labelled = all(each.drop_points is not None for each in tried)
    floats = {"float32": (quantization.float_ms, _DASHED), "bf16": (quantization.bf16_ms, _DOTTED)}
    backends = list(dict.fromkeys(name for each in tried for name in each.p50_ms))
    if not backends:
        return None
    figure, axes = svg.panels(0.6 + 1.9 * len(backends), rows=len(backends), sharex=True, sharey=True)
    shades = dict(zip(dict.fromkeys(each.placement for each in tried), _cycle(), strict=False))
    marks = dict(zip(dict.fromkeys(each.ranges for each in tried), _MARKERS, strict=False))
    for axis, backend in zip(axes, backends, strict=True):
        spots = [(each, (each.p50_ms[backend], _lost(each))) for each in tried if backend in each.p50_ms]
        axis.step(*zip(*_unbeaten(spot for _, spot in spots), strict=True), where="post", color=svg.MUTED, linewidth=1)
        for each, spot in spots:
            axis.plot(*spot, marks[each.ranges], color=shades[each.placement], markersize=6, alpha=0.8)
            if each.chosen:
                axis.plot(*spot, **_RING)
        if labelled and quantization.max_drop_points is not None:
            axis.axhline(quantization.max_drop_points, color=svg.INK, linewidth=1)
        for known, dashes in floats.values():
            if backend in known:
                axis.axvline(known[backend], color=svg.MUTED, linewidth=1, linestyle=dashes)
        axis.margins(y=0.15)
        axis.set_title(backend, loc="left", fontsize=9)
        axis.set_ylabel("points lost" if labelled else "divergence, nats")
        axis.grid()
    if labelled:
        axes[0].set_yscale("symlog", linthresh=1)  # linear within a point
    elif all(each.kl > 0 for each in tried):
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_minor_locator(NullLocator())
    plain(axes[0].yaxis)
    axes[-1].set_xlabel("median milliseconds per call")
    axes[-1].set_xlim(left=0)
    plain(axes[-1].xaxis)
    handles: list[Artist] = [Patch(color=shade, label=name) for name, shade in shades.items()]
    handles += [_mark(name, mark, svg.MUTED) for name, mark in marks.items()]
    for name, (known, dashes) in floats.items():
        if known:
            handles.append(Line2D([], [], color=svg.MUTED, linewidth=1, linestyle=dashes, label=name))
    handles.append(Line2D([], [], color=svg.MUTED, linewidth=1, label="front"))
    if labelled and quantization.max_drop_points is not None:
        handles.append(Line2D([], [], color=svg.INK, linewidth=1, label="may lose"))
    _legend(figure, [*handles, Line2D([], [], label="chosen", linestyle="", **_RING)])
    return figure


def _lost(each: Candidate) -> float:
    return each.kl if each.drop_points is None else each.drop_points


def _unbeaten(spots: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spots than which no other is both faster and better, from the fastest to the best."""
    found: list[tuple[float, float]] = []
    for time, lost in sorted(spots):
        if not found or lost < found[-1][1]:
            found.append((time, lost))
    return found


# Title, function and how to read it; the first ones are drawn for each machine.
Drawing = tuple[str, Callable[[Run], Figure | None], str]
TIMED: tuple[Drawing, ...] = (
    (
        "Latency",
        latency,
        "How long one call takes: the bar is the median, 90 % of the calls stay below the black mark and 99 % below "
        "the grey one (an arrow: it lies further right); pale bars are not offered.",
    ),
    (
        "Quality against speed",
        quality,
        "Up is better, left is faster; the whiskers hold the true value with 95 % confidence, so points whose whiskers "
        "overlap much cannot be told apart on so few frames.",
    ),
)
OTHERS: tuple[Drawing, ...] = (
    (
        "Ways to quantize",
        candidates,
        "Each mark is one int8 file that was made and measured: lower loses less, further left is faster, and what "
        "lies left of the dashed line beats float32. Nothing is both faster and better than what lies on the front.",
    ),
    (
        "Training",
        curves,
        "One dot per pass over the training images: the loss should fall, and validation, on images that the network "
        "never trained on, should follow; training images are altered at random, so validation may well look better.",
    ),
    ("Duration of the steps", durations, "Where the time of the build went; what is unchanged is skipped next time."),
    ("File size", sizes, "What has to be copied to the device and kept in its storage."),
)


def _by_machine(run: Run) -> Iterable[tuple[Run, str]]:
    """The run with the rows of one machine at a time, and what tells them apart in a title."""
    machines = list(dict.fromkeys(row.machine for row in run.rows if row.machine))
    for machine in machines:
        rows = [row for row in run.rows if row.machine == machine]
        yield dataclasses.replace(run, rows=rows), f" on {machine}" if len(machines) > 1 else ""


def _bars(names: list[str]) -> tuple[Figure, Axes]:
    """Horizontal bars with their names above them, so that long names have room on a phone."""
    figure, (axis,) = svg.panels(_HEAD + _BAR * len(names) + 0.12)
    for place, name in enumerate(names):
        _above(axis, place, name)
    axis.set_ylim(len(names) - 0.7, -0.7)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.grid(axis="x")
    plain(axis.xaxis)
    return figure, axis


def _above(axis: Axes, place: int, text: str, right: bool = False) -> None:
    """Write above a bar, at the left or right end of the panel."""
    side, x = ("right", 1.0) if right else ("left", 0.0)
    axis.annotate(text, (x, place), (0, 11.5), axis.get_yaxis_transform(), "offset points", ha=side, va="center")


def _amounts(amounts: dict[str, float], unit: str, axis_label: str, shade: Callable[[str], str]) -> Figure:
    figure, axis = _bars(list(amounts))
    for place, (name, amount) in enumerate(amounts.items()):
        axis.barh(place, amount, height=0.3, color=shade(name))
        text = f"{number(amount)} {unit}"
        _above(axis, place, text, right=True)
    axis.set_xlim(0, 1.05 * max(amounts.values()) or 1)
    axis.set_xlabel(axis_label)
    return figure


def _name(row: Row) -> str:
    return row.target + ("" if row.offered else " (not offered)")


def _role(name: str) -> tuple[str, str]:
    """Label and colour of a training curve by its column's name."""
    lowered = name.lower()
    if "ema" in lowered:
        return name.replace("_", " "), svg.GREEN
    if "val" in lowered or "test" in lowered:
        return "validation", svg.ORANGE
    return "training" if "train" in lowered else name.replace("_", " "), svg.BLUE


def _cycle() -> Iterable[str]:
    return (svg.BLUE, svg.ORANGE, svg.GREEN, svg.PURPLE, svg.INK, svg.MUTED)


def _mark(label: str, marker: str, shade: str, face: str | None = None) -> Line2D:
    return Line2D([], [], color=shade, marker=marker, markerfacecolor=face or shade, linestyle="", label=label)


def _legend(figure: Figure, handles: Sequence[Artist]) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.2)
