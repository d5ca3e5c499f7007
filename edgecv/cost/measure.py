"""Time small networks on a backend, and know when the machine was disturbed meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgecv.cost import blocks
from edgecv.cost.net import Net
from edgecv_runtime.backends import Backend, Options, get

QUIET = 1.15  # a reference call may take so much longer than the fastest ever, and the machine counts as undisturbed
TRIES = 3
RUNS, SECONDS = 6, 0.04  # of one network in one try
SETTLED = 0.025  # the threads of a network that has just run spin for some 20 ms and get in the way


class Clock:
    """Times calls between calls of a reference network whose own time tells whether the machine was disturbed.

    fastest_ms: of the reference, ever. reference_ms: of the reference beside the last call that was timed.
    """

    def __init__(self, backend: Backend, feed: dict[str, Any]) -> None:
        self._reference = partial(backend.run, feed)
        self.fastest_ms = self.reference_ms = self._once()

    def _once(self) -> float:
        return fastest_ms(self._reference, RUNS, SETTLED)

    def __call__(self, call: Callable[[], Any], runs: int = RUNS, seconds: float = SECONDS) -> float:
        """The fastest of many calls, in milliseconds; again when the machine was disturbed."""
        call()
        best, self.reference_ms = float("inf"), float("inf")
        for _ in range(TRIES):
            best = min(best, fastest_ms(call, runs, seconds))
            self.reference_ms = min(self.reference_ms, self._once())
            self.fastest_ms = min(self.fastest_ms, self.reference_ms)
            if self.reference_ms < QUIET * self.fastest_ms:
                break
        return best


def fastest_ms(call: Callable[[], Any], runs: int, seconds: float) -> float:
    """The fastest of at least so many calls, for at least so long, in milliseconds."""
    end = time.perf_counter() + seconds
    best, done = float("inf"), 0
    while done < runs or time.perf_counter() < end:
        best = min(best, _once_ms(call))
        done += 1
    return best


def _once_ms(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


def feed_of(net: Net) -> dict[str, Any]:
    """Random numbers as a network's input."""
    random = np.random.default_rng(0)
    if net.dtype == "uint8":
        return {"input": random.integers(0, 256, net.input).astype(np.uint8)}
    return {"input": random.standard_normal(net.input).astype(np.float32)}


def reference(folder: Path, backend: str, options: Options) -> Clock:
    """A clock whose reference depends on everything that others can disturb: cores, caches and the way between them."""
    net = Net((1, 40, 36, 36))
    blocks.inverted(net, ratio=4, kernel=5, act="relu", gated=True)
    net.shrink()
    path = folder / "reference.onnx"
    path.write_bytes(net.model())
    return Clock(get(backend)(path, options), feed_of(net))
