"""Time calls: one after the other, or from several threads at once."""

from __future__ import annotations

import threading
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


def concurrent_times_ms(call: Callable[[], Any], seconds: float, workers: int) -> tuple[list[float], float]:
    """The same from several threads at once: milliseconds of each call, and calls per second of all together."""
    times: list[float] = []
    failures: list[Exception] = []
    rates: list[float] = []
    together = threading.Barrier(workers)

    def work() -> None:
        try:
            together.wait()
            own = times_ms(call, seconds)
        except Exception as exc:  # raised again in the caller's thread
            failures.append(exc)
            return
        times.extend(own)
        rates.append(1e3 * len(own) / sum(own))

    if workers == 1:
        work()
    else:
        threads = [threading.Thread(target=work) for _ in range(workers)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # Ctrl-C: whoever made `call` may only take it down when nobody is inside
            together.abort()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            raise
    if failures:
        raise failures[0]
    return times, sum(rates)
