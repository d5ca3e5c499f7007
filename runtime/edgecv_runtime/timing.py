"""Time calls: one after the other, or from several threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WARM_UP_CALLS, MIN_CALLS = 5, 10
BLOCK_CALLS = 3
STEADY = 1.25  # what a machine's slowest round may take of its fastest


def times_ms(call: Callable[[], Any], seconds: float) -> list[float]:
    """Milliseconds of each call, for the given time and at least MIN_CALLS calls, after a few that do not count."""
    for _ in range(WARM_UP_CALLS):
        call()
    return _timed(call, seconds, MIN_CALLS)


def block_ms(call: Callable[[], Any], seconds: float) -> list[float]:
    """The same of a short block among those of others: at least BLOCK_CALLS calls, and fewer that do not count.

    What others did meanwhile has to be forgotten (caches, threads that sleep), in at most a fifth of the time.
    """
    end = time.perf_counter() + seconds / 5
    for _ in range(WARM_UP_CALLS):
        call()
        if time.perf_counter() > end:
            break
    return _timed(call, seconds, BLOCK_CALLS)


def _timed(call: Callable[[], Any], seconds: float, least: int) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    stop = 0.0
    while stop < end or len(times) < least:
        start = time.perf_counter()
        call()
        stop = time.perf_counter()
        times.append((stop - start) * 1e3)
    return times


def concurrent_times_ms(call: Callable[[], Any], seconds: float, workers: int) -> tuple[list[float], float]:
    """The same from several threads at once: milliseconds of each call, and calls per second of all together."""
    every = [times_ms(call, seconds)] if workers == 1 else _together(lambda: times_ms(call, seconds), workers)
    return [each for own in every for each in own], sum(1e3 * len(own) / sum(own) for own in every)


def _together(measure: Callable[[], list[float]], workers: int) -> list[list[float]]:
    """What it gives in each of several threads that begin at the same time.

    Not by Thread.join: until Python 3.13, Ctrl-C in it counts a thread that runs as ended, and whoever made what is
    measured may only take it down when nobody is inside.
    """
    begin = threading.Barrier(workers)

    def work() -> list[float]:
        begin.wait()
        return measure()

    with ThreadPoolExecutor(workers) as pool:
        try:
            running = [pool.submit(work) for _ in range(workers)]
            return [each.result() for each in running]
        except BaseException:
            begin.abort()  # who was begun waits for the others
            raise
