"""How long to wait before something is tried again; it knows no clock and no thread.

A camera that restarts is back within a second, one that is gone may stay away for a weekend: waits double from 0.5 s to
30 s. What only a human mends (a wrong password) starts at 10 s, because cameras lock accounts that fail often.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from edgecv_runtime.stream.ending import Retry

_JITTER = 0.25  # cameras behind one switch must not come back in step


@dataclass(frozen=True)
class Waits:
    """The times of a Backoff, in seconds.

    first_s, longest_s: of what mends itself; slow_first_s, slow_longest_s: of what a human mends.
    health_s: what was well for so long starts anew.
    crashes, crash_s: so many crashes within so many seconds, and the longest wait comes at once.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    slow_first_s: float = 10.0
    slow_longest_s: float = 300.0
    health_s: float = 30.0
    crashes: int = 5
    crash_s: float = 60.0


class Backoff:
    """Counts tries, and says how long to wait before the next one."""

    def __init__(self, waits: Waits | None = None, luck: Callable[[], float] = random.random) -> None:
        """luck: a number from 0 to 1 for the jitter."""
        self.waits = waits or Waits()
        self._luck = luck
        self._tries = {"fast": 0, "slow": 0, "never": 0}
        self._crashes: list[float] = []

    def next_s(self, retry: Retry, *, now_s: float, healthy_s: float, crashed: bool = False) -> float:
        """Seconds to wait after a failure at `now_s`, which came after `healthy_s` of health.

        crashed: the thing itself broke down, and is not only away.
        """
        waits = self.waits
        if healthy_s >= waits.health_s:
            self._tries = dict.fromkeys(self._tries, 0)
        first_s, longest_s = (
            (waits.slow_first_s, waits.slow_longest_s) if retry == "slow" else (waits.first_s, waits.longest_s)
        )
        wait_s = min(first_s * 2.0 ** min(self._tries[retry], 30), longest_s / (1 + _JITTER))
        self._tries[retry] += 1
        if crashed:
            self._crashes = [at_s for at_s in self._crashes if at_s > now_s - waits.crash_s] + [now_s]
            if self.too_many_crashes:
                wait_s = longest_s / (1 + _JITTER)
        return wait_s * (1 + _JITTER * self._luck())

    @property
    def too_many_crashes(self) -> bool:
        """It crashed so often in a short time that trying again soon makes no sense."""
        return len(self._crashes) >= self.waits.crashes
