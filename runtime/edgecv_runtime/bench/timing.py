"""Time single calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

WARM_UP_CALLS, MIN_CALLS = 5, 10


def times_ms(call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each call, for the given time and at least MIN_CALLS calls, after a few that do not count."""
    for _ in range(WARM_UP_CALLS):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    stop = 0.0
    while stop < end or len(times) < MIN_CALLS:
        start = time.perf_counter()
        call()
        stop = time.perf_counter()
        times.append((stop - start) * 1e3)
    return times
