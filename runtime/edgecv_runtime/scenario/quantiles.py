"""Percentiles of latencies with intervals that do not assume a shape, and that machines with phases do not deceive."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgecv_runtime.records import Record

_BLOCKS = 20  # of consecutive calls, by which it is told how far calls depend on those before
_TAIL = 0.025


class Percentile(Record, frozen=True):
    """A percentile in ms with its 95 % interval; a side is None where there are too few calls to tell."""

    ms: float
    low_ms: float | None
    high_ms: float | None


def percentile(ms: ArrayLike, share: float) -> Percentile:
    """A percentile of calls in the order in which they were made; share: 0.5, 0.9, 0.99.

    The interval is that of order statistics (Conover 1999, 3.2), of as many calls as would tell as much were they
    independent: the variance of blocks' means against that of shuffled ones says how many those are.
    """
    values = np.asarray(ms, float)
    point = float(np.quantile(values, share))
    n = max(1, int(len(values) / _dependence(values, point, share)))
    low, high = _ranks(n, share)
    ordered = np.sort(values)
    # ranks among n are widened to ranks among all
    low_at = int(low * len(values) / n)
    high_at = int(np.ceil((high + 1) * len(values) / n)) - 1
    return Percentile(
        point,
        float(ordered[low_at]) if low >= 0 else None,
        float(ordered[high_at]) if high < n else None,
    )


def _dependence(values: NDArray[np.float64], point: float, share: float) -> float:
    """How many times as much blocks vary as they would if every call were by itself; at least 1."""
    size = len(values) // _BLOCKS
    if size < 2:
        return 1.0
    above = (values[: size * _BLOCKS] > point).reshape(_BLOCKS, size)
    expected = share * (1 - share) / size
    ratio = float(above.mean(1).var(ddof=1)) / expected
    # within what 20 independent blocks vary by themselves (chi-squared with 19 degrees of freedom, 97.5 %: 1.73)
    return ratio if ratio > 1.73 else 1.0


def _ranks(n: int, share: float) -> tuple[int, int]:
    """Ranks (from 0) of the order statistics between which the quantile lies with 95 %; -1 or n: there is none."""
    cumulative = _binomial_cdf(n, share)
    low = int(np.searchsorted(cumulative, _TAIL)) - 1  # ppf(0.025) - 1
    high = int(np.searchsorted(cumulative, 1 - _TAIL))
    return low, high


def _binomial_cdf(n: int, share: float) -> NDArray[np.float64]:
    """P(X <= k) for k = 0..n successes of n."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    pmf = np.exp(logs[n] - logs - logs[::-1] + k * np.log(share) + (n - k) * np.log1p(-share))
    return np.asarray(np.cumsum(pmf), np.float64)
