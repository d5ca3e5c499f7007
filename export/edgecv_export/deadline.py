"""A bound on time that long work asks for itself, between two steps that leave nothing half done."""

from __future__ import annotations

import time
from collections.abc import Callable

# What long work calls between its steps; it raises TimeIsOver when there shall be no further one.
Tick = Callable[[], None]


class TimeIsOver(Exception):
    """The deadline came in the middle of a piece of work, which is dropped."""


class Deadline:
    """A moment some seconds from now; `clock` gives seconds, from any beginning."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self._clock() > self._end

    def check(self) -> None:
        """Raise TimeIsOver when it is."""
        if self.passed:
            raise TimeIsOver


def unbounded() -> None:
    """The tick of work that has all the time in the world."""
