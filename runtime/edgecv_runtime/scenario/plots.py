"""The pictures of a report as SVG that stands in its page: colours are the page's own."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from edgecv_runtime.bench.table import number
from edgecv_runtime.scenario.report import Run, Stage

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 22, 36
BINS = 60
COLOURS = ("var(--blue)", "var(--orange)", "var(--green)", "var(--red)", "var(--purple)")


def distribution(run: Run) -> str:
    """How often calls took how long, over logarithmic bins; percentiles stand as lines with their intervals."""
    took = np.asarray(run.took_ms)
    low, high = took.min() * 0.98, took.max() * 1.02
    x = _Axis(low, high, LEFT, WIDTH - RIGHT, log=high > 3 * low)
    edges = np.geomspace(low, high, BINS + 1) if x.log else np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(took, edges)
    y = _Axis(0, counts.max() * 1.05, HEIGHT - BOTTOM, TOP)
    parts = [
        _rect(x(a), y(count), max(0.5, x(b) - x(a) - 0.5), y(0) - y(count), "var(--blue)")
        for a, b, count in zip(edges, edges[1:], counts, strict=False)
        if count
    ]
    for name, found in (("p50", run.times.p50), ("p90", run.times.p90), ("p99", run.times.p99)):
        if found.low_ms is not None and found.high_ms is not None:
            start, end = max(low, found.low_ms), min(high, found.high_ms)
            parts.append(
                _rect(x(start), TOP, max(1.0, x(end) - x(start)), HEIGHT - TOP - BOTTOM, "var(--orange)", 0.25)
            )
        parts += [_line(x(found.ms), TOP, x(found.ms), HEIGHT - BOTTOM, "var(--orange)"),
                  _text(x(found.ms), TOP - 6, name, "middle")]  # fmt: skip
    return _figure([*parts, *x.ticks("ms"), *y.side("calls")], "How long calls took; bands are 95 % intervals")


def timeline(run: Run) -> str:
    """Medians over the run, with the range of 10 to 90 % of the calls, and every call beyond p99."""
    at, took = np.asarray(run.at_s), np.asarray(run.took_ms)
    x = _Axis(0, max(at.max(), 1e-6), LEFT, WIDTH - RIGHT)
    y = _Axis(took.min() * 0.9, took.max() * 1.1, HEIGHT - BOTTOM, TOP, log=took.max() > 3 * took.min())
    parts = []
    middles = []
    for which in np.array_split(np.argsort(at, kind="stable"), min(BINS * 2, len(at))):
        low, middle, high = np.percentile(took[which], [10, 50, 90])
        place = x(float(at[which].mean()))
        parts.append(_line(place, y(low), place, y(high), "var(--blue)", 3, 0.35))
        middles.append(f"{place:.1f},{y(middle):.1f}")
    parts.append(f'<polyline points="{" ".join(middles)}" style="fill: none; stroke: var(--blue); stroke-width: 1.5"/>')
    slow = np.flatnonzero(took > run.times.p99.ms)
    for index in slow[:: max(1, len(slow) // 300)]:
        parts.append(_dot(x(at[index]), y(took[index]), 1.8, "var(--orange)"))
    return _figure([*parts, *x.ticks("s"), *y.side("ms")], "Over the run: medians, 10 to 90 %, and the slowest calls")


def waterfall(stages: Sequence[Stage], whole_ms: float) -> str:
    """Stages one after the other, as long as their share of the whole."""
    row = 26
    height = TOP + row * len(stages) + BOTTOM
    left = 110
    x = _Axis(0, whole_ms, left, WIDTH - 130)
    parts, begun = [], 0.0
    for index, stage in enumerate(stages):
        length = stage.share * whole_ms
        top = TOP + row * index
        parts.append(_text(left - 8, top + 16, stage.name, "end"))
        parts.append(_rect(x(begun), top + 4, max(0.8, x(begun + length) - x(begun)), row - 8, COLOURS[index % 5]))
        parts.append(_text(x(begun + length) + 5, top + 17, f"{number(length)} ms, {stage.share:.1%}", "start"))
        begun += length
    return _figure([*parts, *x.ticks("ms", height)], "Where a frame's time goes, on average", height)


def front(runs: Sequence[Run]) -> str:
    """Accuracy against p50, both with their intervals, of the runs whose file was scored; "" without any."""
    scored = [(run, run.score) for run in runs if run.score is not None]
    if not scored:
        return ""
    height = HEIGHT + 60
    slowest = max(run.times.p50.high_ms or run.times.p50.ms for run, _ in scored)
    lows, highs = [score.low for _, score in scored], [score.high for _, score in scored]
    x = _Axis(0, slowest * 1.3, LEFT, WIDTH - RIGHT)
    y = _Axis(100 * max(0, min(lows) - 0.01), 100 * min(1.0, max(highs) + 0.01), height - BOTTOM, TOP)
    parts = []
    for index, (run, score) in enumerate(scored):
        colour, p50 = COLOURS[index % 5], run.times.p50
        place, level = x(p50.ms), y(100 * score.value)
        parts.append(_line(place, y(100 * score.low), place, y(100 * score.high), colour, 1.5))
        if p50.low_ms is not None and p50.high_ms is not None:
            parts.append(_line(x(p50.low_ms), level, x(p50.high_ms), level, colour, 1.5))
        parts += [_dot(place, level, 4.5, colour), _text(place + 8, level - 6 + 12 * (index % 2), run.target, "start")]
    metric = " or ".join(dict.fromkeys(score.metric for _, score in scored))
    return _figure([*parts, *x.ticks("p50 ms", height), *y.side(f"{metric} %")], "Accuracy against latency", height)


class _Axis:
    """From values to places in the picture."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self.low, self.high = float(low), float(high) if high > low else float(low) + 1
        self.start, self.end = start, end
        self.log = log and low > 0

    def __call__(self, value: float) -> float:
        share = (
            np.log(value / self.low) / np.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return self.start + float(share) * (self.end - self.start)

    def values(self) -> list[float]:
        """Where ticks stand: 1, 2 and 5 of each decade, at most seven."""
        if self.log:
            powers = range(int(np.floor(np.log10(self.low))), int(np.ceil(np.log10(self.high))) + 1)
            every = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        else:
            rough = (self.high - self.low) / 5
            size = 10 ** np.floor(np.log10(rough))
            step = float(next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough))
            every = [step * k for k in range(int(np.ceil(self.low / step)), int(self.high / step) + 1)]
        inside = [each for each in every if self.low <= each <= self.high]
        return inside[:: max(1, -(-len(inside) // 7))]

    def ticks(self, unit: str, height: int = HEIGHT) -> list[str]:
        base = height - BOTTOM
        marks = [_line(self.start, base, self.end, base, "var(--muted)")]
        for value in self.values():
            marks += [_line(self(value), base, self(value), base + 4, "var(--muted)"),
                      _text(self(value), base + 17, f"{value:g}", "middle")]  # fmt: skip
        return [*marks, _text(self.end, base + 32, unit, "end")]

    def side(self, unit: str) -> list[str]:
        marks = [_text(LEFT - 8, TOP - 8, unit, "end")]
        for value in self.values():
            marks += [_line(LEFT - 4, self(value), LEFT, self(value), "var(--muted)"),
                      _text(LEFT - 8, self(value) + 4, f"{value:g}", "end")]  # fmt: skip
        return marks


def _figure(parts: Sequence[str], title: str, height: int = HEIGHT) -> str:
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg><figcaption>{escape(title)}</figcaption></figure>"
    )


def _rect(x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0) -> str:
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {size} style="fill: {colour}; opacity: {opacity:g}"/>'


def _line(x: float, y: float, to_x: float, to_y: float, colour: str, width: float = 1, opacity: float = 1.0) -> str:
    style = f"stroke: {colour}; stroke-width: {width:g}; opacity: {opacity:g}"
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" style="{style}"/>'


def _dot(x: float, y: float, radius: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" style="fill: {colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" style="fill: var(--ink); text-anchor: {anchor}">{escape(text)}</text>'
