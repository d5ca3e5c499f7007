"""Figures of a comparison: shares and scores with their intervals, distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.budget import Z, paired
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Interval

SAMPLES = 200  # of a bootstrap
_QUANTILES = (0.025, 0.975)
_ADDED = 2  # frames of which nothing is known: one at each end of what could be


class Metric(Protocol):
    """What makes a figure of what frames add: a task, or its agreement; see `tasks.base.Scoring`."""

    def score(self, tallies: Sequence[Any], /) -> float:
        """Of all frames."""
        ...

    def resampled(self, tallies: Sequence[Any], times: NDArray[np.int64], /) -> NDArray[np.float64]:
        """Of the same frames, each taken so many times: (samples, frames) -> (samples,)."""
        ...


class Figure:
    """A metric over the frames behind some tallies, and over bootstraps of them: each is computed once."""

    def __init__(self, metric: Metric, tallies: Sequence[Any]) -> None:
        self._metric, self.tallies = metric, tallies

    @cached_property
    def value(self) -> float:
        """The metric of all frames."""
        return self._metric.score(self.tallies)

    @cached_property
    def samples(self) -> NDArray[np.float64]:
        """The metric of frames drawn from these, (SAMPLES,): the same choices for as many frames, so that pairs stay
        pairs and a second look gives the same figures.
        """
        count = len(self.tallies)
        drawn = np.random.default_rng(0).integers(0, count, (SAMPLES, count))
        times = np.stack([np.bincount(each, minlength=count) for each in drawn])
        return self._metric.resampled(self.tallies, times)

    @property
    def are_hits(self) -> bool:
        """Whether each frame is right or wrong."""
        return all(isinstance(each, bool) for each in self.tallies)


def interval(figure: Figure) -> Interval:
    """The metric with its 95 % interval: Wilson's where each frame is right or wrong, else a bootstrap over frames
    (Efron 1979, percentiles), which what one frame holds is not independent for, with two frames added of which nothing
    is known.
    """
    count = len(figure.tallies)
    if figure.are_hits:
        return wilson(sum(figure.tallies), count)
    low, high = _doubted(figure.value, figure.samples, count, (0.0, 1.0))
    return Interval(value=figure.value, low=low, high=high, count=count)


def lost(before: Figure, after: Figure) -> tuple[float, float, float]:
    """How much less the metric is after than before on the same frames, with its paired 95 % interval."""
    count = len(before.tallies)
    if before.are_hits and after.are_hits:
        pairs = list(zip(before.tallies, after.tallies, strict=True))
        losses = sum(was and not is_ for was, is_ in pairs)
        gains = sum(is_ and not was for was, is_ in pairs)
        return (losses - gains) / count, *paired(losses, gains, count)
    drop = before.value - after.value
    return drop, *_doubted(drop, before.samples - after.samples, count, (-1.0, 1.0))


def _doubted(value: float, found: NDArray[np.float64], count: int, ends: tuple[float, float]) -> tuple[float, float]:
    """The percentiles of a bootstrap with a frame added at each end of what a frame can be.

    Frames that are all alike, and one frame always, have a bootstrap without any width. Two more frames move the middle
    and have a variance of their own, as in `paired`, whose interval this is where no frame changes.
    """
    low, high = (float(each) for each in np.nanquantile(found, _QUANTILES))  # NaN: drawn were frames that tell nothing
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
