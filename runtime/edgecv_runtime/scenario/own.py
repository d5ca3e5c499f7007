"""Scenarios of edgecv's own: at a camera's pace, flat out, and image files to drawn results stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from edgecv_runtime.scenario.messages import Block

EVERY_S = 1.0  # a block is told: what is lost when somebody interrupts
STAGES = ("decode", "preprocess", "infer", "postprocess", "draw")
MIN_CALLS = 10


def flat_out(
    call: Callable[[int], object], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Block]:
    """One call after the other; `call` is given the number of the call."""
    begin = clock()
    number, stop = 0, begin
    while stop - begin < seconds or number < MIN_CALLS:
        at_s, ms = [], []
        told = stop
        while stop - told < EVERY_S and (stop - begin < seconds or number < MIN_CALLS):
            start = clock()
            call(number)
            stop = clock()
            at_s.append(start - begin)
            ms.append((stop - start) * 1e3)
            number += 1
        yield Block(at_s, ms)


def paced(
    call: Callable[[int], object],
    seconds: float,
    fps: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Block]:
    """A frame every 1 / fps seconds.

    Of the frames that came while the last was computed the newest is taken, as of a camera; the others are dropped.
    Times are of the call alone, after the gap.
    """
    begin = clock()
    due, end = 0, max(MIN_CALLS, round(seconds * fps))
    while due < end:
        at_s, ms, dropped = [], [], 0
        told = clock()
        while due < end and clock() - told < EVERY_S:
            wait = begin + due / fps - clock()
            if wait > 0:
                sleep(wait)
            start = clock()
            newest = min(end - 1, int((start - begin) * fps + 1e-6))
            dropped += max(0, newest - due)
            due = max(due, newest)
            call(due)
            stop = clock()
            at_s.append(start - begin)
            ms.append((stop - start) * 1e3)
            due += 1
        if due == end:  # the gap after the last frame belongs to it
            sleep(max(0.0, begin + end / fps - clock()))
        yield Block(at_s, ms, dropped=dropped)


def staged(
    stages: Callable[[int], Iterator[str]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Block]:
    """One frame after the other, by its stages; `stages` computes one at each step and gives its name.

    What a frame took is measured around all of its stages, apart from them.
    """
    begin = clock()
    number, stop = 0, begin
    while stop - begin < seconds or number < MIN_CALLS:
        at_s: list[float] = []
        ms: list[float] = []
        parts: dict[str, list[float]] = {name: [] for name in STAGES}
        told = stop
        while stop - told < EVERY_S and (stop - begin < seconds or number < MIN_CALLS):
            start = clock()
            last = clock()
            for name in stages(number):
                now = clock()
                parts[name].append((now - last) * 1e3)
                last = now
            stop = clock()
            at_s.append(start - begin)
            ms.append((stop - start) * 1e3)
            number += 1
        yield Block(at_s, ms, parts)
