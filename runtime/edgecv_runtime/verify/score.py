"""Figures of a comparison: shares and scores with their intervals, distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.budget import Z, paired
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Interval

SAMPLES = 200  # of a bootstrap
_QUANTILES = (0.025, 0.975)
_ADDED = 2  # frames of which nothing is known: one at each end of what could be

Metric = Callable[[Sequence[Any]], float]


def interval(metric: Metric, tallies: Sequence[Any]) -> Interval:
    """The metric over the frames behind these tallies with its 95 % interval: Wilson's where each is right or wrong,
    else a bootstrap over frames (Efron 1979, percentiles), which what one frame holds is not independent for, with two
    frames added of which nothing is known.
    """
    if _are_hits(tallies):
        return wilson(sum(tallies), len(tallies))
    value = metric(tallies)
    found = [metric([tallies[i] for i in chosen]) for chosen in _samples(len(tallies))]
    low, high = _doubted(value, found, len(tallies), (0.0, 1.0))
    return Interval(value=value, low=low, high=high, count=len(tallies))


def lost(metric: Metric, before: Sequence[Any], after: Sequence[Any]) -> tuple[float, float, float]:
    """How much less the metric is after than before on the same frames, with its paired 95 % interval."""
    if _are_hits(before) and _are_hits(after):
        losses = sum(was and not is_ for was, is_ in zip(before, after, strict=True))
        gains = sum(is_ and not was for was, is_ in zip(before, after, strict=True))
        return (losses - gains) / len(before), *paired(losses, gains, len(before))
    drop = metric(before) - metric(after)
    found = [
        metric([before[i] for i in chosen]) - metric([after[i] for i in chosen]) for chosen in _samples(len(before))
    ]
    return drop, *_doubted(drop, found, len(before), (-1.0, 1.0))


def _are_hits(tallies: Sequence[Any]) -> bool:
    return all(isinstance(each, bool) for each in tallies)


def _samples(count: int) -> Iterator[NDArray[np.int64]]:
    """The same choices of frames every time: pairs stay pairs, and a second look gives the same figures."""
    drawn = np.random.default_rng(0)
    return (drawn.integers(0, count, count) for _ in range(SAMPLES))


def _doubted(value: float, found: list[float], count: int, ends: tuple[float, float]) -> tuple[float, float]:
    """The percentiles of a bootstrap with a frame added at each end of what a frame can be.

    Frames that are all alike, and one frame always, have a bootstrap without any width. Two more frames move the middle
    and have a variance of their own, as in `paired`, whose interval this is where no frame changes.
    """
    low, high = (float(each) for each in np.quantile(found, _QUANTILES))
    middle = (count * value + sum(ends)) / (count + _ADDED)
    doubt = Z * (ends[1] - ends[0]) / math.sqrt(2) / (count + _ADDED)
    below, above = (math.hypot(doubt, side) for side in (value - low, high - value))
    return min(value, max(ends[0], middle - below)), max(value, min(ends[1], middle + above))


def wilson(hits: int, count: int, z: float = Z) -> Interval:
    """Share of hits with its Wilson score interval (Wilson 1927), 95 % by default.

    >>> wilson(50, 100)
    Interval(value=0.5, low=0.4038315..., high=0.5961684..., count=100)
    """
    if count < 1:
        raise BadInput("an interval wants at least one frame")
    share = hits / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(
        value=share, low=min(share, max(0.0, centre - half)), high=max(share, min(1.0, centre + half)), count=count
    )


def distance(wanted: NDArray[Any], got: NDArray[Any], floor: float = 1.0) -> float:
    """Largest difference, relative to the largest wanted value (at least `floor`); infinite for other shapes or NaN."""
    if wanted.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(wanted - got).max(initial=0)) / max(floor, float(np.abs(wanted).max(initial=0)))


def relative_error(wanted: NDArray[Any], got: NDArray[Any]) -> float:
    """Root mean square of the difference over that of the wanted values; infinite for other shapes or NaN."""
    if wanted.shape != got.shape or not np.isfinite(got).all():
        return float("inf")
    size = math.sqrt(float(np.mean(np.square(wanted, dtype=np.float64))))
    return math.sqrt(float(np.mean(np.square(got.astype(np.float64) - wanted)))) / max(size, 1e-12)
