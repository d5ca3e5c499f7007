"""Statistics of a tensor, gathered in one pass and in fixed memory, and the ranges that they suggest to quantize.

A histogram of fixed size doubles its width when a value falls outside: neighbouring bins are then added up, so that
nothing is stored per image and no second pass is needed.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Ranges = Literal["min-max", "mean-min-max", "percentile", "mse"]
ESTIMATORS: tuple[Ranges, ...] = get_args(Ranges)
BINS = 8192
LEVELS = 256
NARROWEST = BINS * float(np.finfo(np.float32).tiny)  # width of the histogram; below, bins per unit overflow float32
PERCENTILE = 99.99
BLOCK = 1 << 16  # values that are counted at once: what is made of them stays in the cache
# Shares of the full range that "mse" tries.
SHARES = np.linspace(0.2, 1.0, 81)
ROUNDS = 2
_Ends = NDArray[np.float32]


class NotFinite(Exception):
    """Statistics met NaN or an infinite value."""


class Statistics:
    """Minimum, maximum and mean of the tensor and of each channel, and a histogram over [-width, width].

    axis: where the channels are; tensors of one dimension have none.
    """

    def __init__(self, axis: int = 1) -> None:
        self.low, self.high = np.inf, -np.inf
        self.channel_low: NDArray[np.float32] | None = None
        self.channel_high: NDArray[np.float32] | None = None
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0  # unknown as long as all values are zero
        self._axis = axis
        self._sums: NDArray[np.float64] | None = None
        self._channels = True  # whether the axis is as long in every batch
        self._images = self._rows = self._zeros = 0
        self._low_sum = self._high_sum = 0.0
        self._found: dict[tuple[Ranges, bool], tuple[float, float]] = {}

    def add(self, values: NDArray[np.float32], images: int | None = None) -> None:
        """Take in one batch of values, (N, C, ...) or (N, ..., C).

        images: how many it is of, where that is not N: attention has windows or tokens of an image one after the other,
        (images * k, ...), or queries, keys and values in front, (3, images, ...).
        Raises NotFinite when one is NaN or infinite.
        """
        self._found.clear()
        values = np.atleast_1d(values)
        least, most = _ends(values, self._axis)
        if not (np.isfinite(least).all() and np.isfinite(most).all()):  # NaN is the least and the most of all
            raise NotFinite
        if values.ndim >= 2:
            self._add_channels(values, least, most)
        images = len(values) if images is None else images
        rows = images if len(values) % images == 0 else 1
        lows, highs = least.reshape(rows, -1).min(axis=1), most.reshape(rows, -1).max(axis=1)
        self._low_sum += float(lows.sum(dtype=np.float64))
        self._high_sum += float(highs.sum(dtype=np.float64))
        self._images += rows
        low, high = float(lows.min()), float(highs.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        if self.width:
            self.counts += _histogram(values, self.width)
        else:
            self._zeros += values.size

    @property
    def channel_means(self) -> NDArray[np.float64] | None:
        """Mean of each channel, (C,); None for a tensor without channels."""
        return None if self._sums is None else self._sums / self._rows

    def range(self, ranges: Ranges, symmetric: bool = False) -> tuple[float, float]:
        """The range to quantize to 8 bits; a symmetric one is (-t, t).

        "mean-min-max" averages the images' own minima and maxima, so that a few images with far larger values do not
        cost all others their resolution. "percentile" leaves out the outermost 0.01 % of values, to within one bin.
        "mse" has the least mean squared error of rounding and clipping together.
        """
        key = ranges, symmetric
        if key not in self._found:
            self._found[key] = self._range(ranges, symmetric)
        return self._found[key]

    def _range(self, ranges: Ranges, symmetric: bool) -> tuple[float, float]:
        if ranges == "min-max" or not self.width:
            return _around(self.low, self.high, symmetric)
        if ranges == "mean-min-max":
            return _around(self._low_sum / self._images, self._high_sum / self._images, symmetric)
        counts, edges = self._seen(symmetric)
        if ranges == "percentile":
            return self._percentile(counts, edges, symmetric)
        return _least(counts, edges, symmetric)

    def channel_ranges(self, symmetric: bool = False) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Minimum and maximum of each channel, (C,) each; symmetric: -t and t."""
        assert self.channel_low is not None
        assert self.channel_high is not None
        if not symmetric:
            return self.channel_low, self.channel_high
        reach = np.maximum(-self.channel_low, self.channel_high)
        return -reach, reach

    def _add_channels(self, values: NDArray[np.float32], least: _Ends, most: _Ends) -> None:
        """Values, and the ends of each channel of each row, (N, C)."""
        self._channels &= self._sums is None or len(self._sums) == least.shape[1]
        if not self._channels:
            self.channel_low = self.channel_high = self._sums = None
            return
        self._rows += len(values)
        low, high = least.min(axis=0), most.max(axis=0)
        sums = np.moveaxis(values, self._axis, 1).mean(axis=tuple(range(2, values.ndim)), dtype=np.float64).sum(axis=0)
        if self._sums is None or self.channel_low is None or self.channel_high is None:
            self.channel_low, self.channel_high, self._sums = low, high, sums
        else:
            self.channel_low = np.minimum(self.channel_low, low)
            self.channel_high = np.maximum(self.channel_high, high)
            self._sums = self._sums + sums

    def _seen(self, symmetric: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The part of the histogram that holds values, or for a symmetric range the histogram of |x|; with edges."""
        edges = np.linspace(-self.width, self.width, BINS + 1)
        if symmetric:
            half = BINS // 2
            return self.counts[half:] + self.counts[:half][::-1], edges[half:]
        held = np.flatnonzero(self.counts)
        first, last = int(held[0]), int(held[-1])
        return self.counts[first : last + 1], edges[first : last + 2]

    def _percentile(
        self, counts: NDArray[np.int64], edges: NDArray[np.float64], symmetric: bool
    ) -> tuple[float, float]:
        share = np.cumsum(counts) / counts.sum()
        tail = (100 - PERCENTILE) / 100 / (1 if symmetric else 2)
        low = float(edges[np.searchsorted(share, tail, side="right")])
        high = float(edges[np.searchsorted(share, 1 - tail, side="left") + 1])
        if symmetric:
            reach = min(high, max(self.high, -self.low))
            return -reach, reach
        # A value may have been rounded into the bin beside its own: the least and the largest seen have the last word.
        low = min(max(low, self.low), self.high)
        return low, min(max(high, low), self.high)

    def _widen(self, reach: float) -> None:
        """Double the histogram's width until it holds `reach`: bins 2i and 2i+1 become one, around the centre."""
        if not self.width and reach > 0:
            self.width = max(reach, NARROWEST)
            self.counts[BINS // 2] = self._zeros
        while reach > self.width:
            merged = self.counts.reshape(BINS // 2, 2).sum(axis=1)
            quarter = BINS // 4
            self.counts = np.concatenate([np.zeros(quarter, np.int64), merged, np.zeros(quarter, np.int64)])
            self.width *= 2


def weight_reach(weights: NDArray[np.float32], ranges: Literal["min-max", "mse"]) -> NDArray[np.float32]:
    """Largest weight that each channel's symmetric int8 grid shall hold: weights (channels, ...) -> (channels,).

    "min-max" holds them all; "mse" is the share of that with the least squared error of rounding and clipping.
    """
    flat = weights.reshape(len(weights), -1)
    reach = np.abs(flat).max(axis=1)
    if ranges == "min-max":
        return reach
    best, least = reach.copy(), np.full(len(reach), np.inf)
    for share in np.linspace(0.4, 1.0, 61):
        step = np.where(reach == 0, 1, reach * share / 127)[:, None]
        errors = ((np.clip(np.round(flat / step), -127, 127) * step - flat) ** 2).sum(axis=1)
        better = errors < least
        least[better], best[better] = errors[better], reach[better] * np.float32(share)
    return best


def _ends(values: NDArray[np.float32], axis: int) -> tuple[_Ends, _Ends]:
    """The least and the most of each channel of each row, (N, C), or of each value of one dimension."""
    if values.ndim < 2:
        return values, values
    if axis == 1:  # in memory, a channel's values lie side by side
        rows = values.reshape(*values.shape[:2], -1)
        return rows.min(axis=2), rows.max(axis=2)
    rows = np.moveaxis(values, axis, -1).reshape(len(values), -1, values.shape[axis])
    return rows.min(axis=1), rows.max(axis=1)


def _histogram(values: NDArray[np.float32], width: float) -> NDArray[np.int64]:
    """Counts in BINS equal bins over [-width, width]; the right edge belongs to the last bin, as in numpy."""
    counts = np.zeros(BINS + 1, np.int64)
    flat = values.ravel()
    for start in range(0, flat.size, BLOCK):
        places = flat[start : start + BLOCK] * np.float32(BINS / (2 * width))
        places += np.float32(BINS / 2)
        counts += np.bincount(places.astype(np.intp), minlength=BINS + 1)
    counts[-2] += counts[-1]
    return counts[:-1]


def _around(low: float, high: float, symmetric: bool) -> tuple[float, float]:
    reach = max(-low, high)
    return (-reach, reach) if symmetric else (low, high)


def _least(counts: NDArray[np.int64], edges: NDArray[np.float64], symmetric: bool) -> tuple[float, float]:
    """The range of the least squared error: first both ends shrunk together, then each end by itself, in turn.

    symmetric: counts are of |x|, which has half the levels.
    """
    low, high = (0.0, float(edges[-1])) if symmetric else (min(float(edges[0]), 0.0), max(float(edges[-1]), 0.0))
    centres = (edges[1:] + edges[:-1]) / 2
    levels = LEVELS // 2 if symmetric else LEVELS

    def shrunk(left: float, right: float) -> float:
        return _squared_error(counts, centres, low * left, high * right, levels)

    both = float(min(SHARES, key=lambda share: shrunk(share, share)))
    if symmetric:
        return -high * both, high * both
    left, right = both if low else 1.0, both if high else 1.0
    for _ in range(ROUNDS):
        left = float(min(SHARES, key=lambda share: shrunk(share, right))) if low else 1.0
        right = float(min(SHARES, key=lambda share: shrunk(left, share))) if high else 1.0
    return low * left, high * right


def _squared_error(
    counts: NDArray[np.int64], centres: NDArray[np.float64], low: float, high: float, levels: int
) -> float:
    """Mean squared error of rounding the bins' centres to so many levels over low..high."""
    step = (high - low) / (levels - 1)
    rounded = np.clip(np.round((centres - low) / step), 0, levels - 1) * step + low
    return float((counts * (rounded - centres) ** 2).sum() / counts.sum())
