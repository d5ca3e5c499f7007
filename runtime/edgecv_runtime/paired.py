"""How many times as long one thing takes as another, of pairs measured side by side, with an interval.

A machine has phases of 10 to 60 s in which everything takes up to twice as long. Two medians of different seconds tell
such phases apart, not files; the two times of a pair lie side by side, and their ratio stays. Pairs that are near in
time are not independent: the interval is of a bootstrap that draws neighbours together. Measured with
`benchmarks/comparison/run.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.records import Record

Verdict = Literal["faster", "slower", "as fast", "not told"]

# Less than this is no difference, whatever the interval says.
MARGIN = 0.02
# Two processes that run the same file differ by so much (standard deviation), by where their memory lies.
PROCESS_LUCK = 0.015
# What an interval has to be able to tell apart, to say "as fast": a wider one says nothing.
RESOLUTION = 0.10
GROUPS, LEAST_GROUPS = 8, 4
_DRAWS = 1000
_Z = 1.959964  # of 95 %


class Ratio(Record, frozen=True):
    """How many times as long it takes, with its 95 % interval over `pairs` pairs of blocks."""

    value: float
    low: float
    high: float
    pairs: int

    @property
    def verdict(self) -> Verdict:
        """Faster or slower where the interval is all on that side and the difference is more than MARGIN.

        "not told" where the interval is wider than RESOLUTION: neither a difference nor that there is none.
        """
        if self.low > 1 and self.value > 1 + MARGIN:
            return "slower"
        if self.high < 1 and self.value < 1 / (1 + MARGIN):
            return "faster"
        return "as fast" if self.resolves <= RESOLUTION else "not told"

    @property
    def may_be_slower(self) -> bool:
        """Whether it is slower, or for all that can be told more than RESOLUTION slower."""
        return self.verdict == "slower" or (self.verdict == "not told" and self.high > 1 + RESOLUTION)

    @property
    def resolves(self) -> float:
        """How large a difference has to be to be seen: 0.03 for 3 %."""
        return max(self.high / self.value, self.value / self.low) - 1

    def __str__(self) -> str:
        return f"{self.value:.2f} times, {self.low:.2f}–{self.high:.2f}"


def ratio(own_ms: Sequence[float], other_ms: Sequence[float], groups: int = GROUPS, luck: float = 0.0) -> Ratio | None:
    """The ratio of times of the same moments, in their order; None where there are too few for an interval.

    own_ms, other_ms: of blocks measured in mirrored order (A B B A A B B A), so that two blocks in a row make a pair in
    which a steady drift cancels. groups: of neighbours that the bootstrap draws together; what shares a process is one.
    luck: standard deviation of what the pairs cannot show; PROCESS_LUCK where all are of one process each.
    """
    if len(own_ms) != len(other_ms):
        raise ValueError(f"pairs want as many blocks on both sides, got {len(own_ms)} and {len(other_ms)}")
    logs = np.log(np.asarray(own_ms, np.float64) / np.asarray(other_ms, np.float64))
    logs = logs[: len(logs) // 2 * 2].reshape(-1, 2).mean(axis=1)
    groups = min(groups, len(logs))
    if groups < LEAST_GROUPS:
        return None
    value = float(_midmean(logs, np.ones((1, len(logs))))[0])
    error = float(_bootstrapped(logs, groups).std()) * (groups / (groups - 1)) ** 0.5
    far = math.hypot(_t(groups - 1) * error, _Z * luck)
    low, middle, high = np.exp([value - far, value, value + far])
    return Ratio(float(middle), float(low), float(high), len(logs))


def _bootstrapped(logs: NDArray[Any], groups: int) -> NDArray[Any]:
    """The estimate of many samples, each of as many groups, drawn with replacement; always the same ones."""
    of = np.arange(len(logs)) * groups // len(logs)
    drawn = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), _DRAWS)
    return _midmean(logs, drawn[:, of].astype(np.float64))


def _midmean(values: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """(R,): the mean of the middle half of weighted values (n,), for R rows of weights (R, n); deaf to outliers."""
    order = np.argsort(values)
    weights = weights[:, order]
    upto, total = np.cumsum(weights, axis=1), weights.sum(axis=1, keepdims=True)
    kept = np.clip(upto, total / 4, 3 * total / 4) - np.clip(upto - weights, total / 4, 3 * total / 4)
    found: NDArray[Any] = (kept * values[order]).sum(axis=1) / kept.sum(axis=1)
    return found


def _t(freedom: int) -> float:
    """The 97.5 % point of Student's t, by the expansion of Abramowitz and Stegun 26.7.5; within 2 % from 3 on."""
    z, n = _Z, freedom
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + first + second + third
