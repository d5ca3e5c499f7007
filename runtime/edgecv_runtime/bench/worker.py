"""One benchmark process: loads one variant on one backend, then measures a round each time it is told to.

Talks JSON lines over stdin and stdout: after the job, each `Ask` is answered with the times of one block.
A process of its own gives each target its own thread pools and its own peak memory.
"""

from __future__ import annotations

import functools
import os
import pickle
import sys
import time
from typing import Any

import msgspec

from edgecv_runtime import spawned
from edgecv_runtime.backends import Executed
from edgecv_runtime.machine import peak_rss_mb
from edgecv_runtime.records import Record
from edgecv_runtime.timing import block_ms, times_ms


class Job(Record, frozen=True):
    """What to load, and the size (height, width) of the frames of the frame-to-result measurement.

    threads: 0 leaves them to the backend; fewer than there are cores run on the first ones. One core of a machine may
    be slower than another for a while, and who is compared has to run on the same.
    injected: the backend, pickled, where it is an object.
    """

    bundle: str
    variant: str
    backend: str
    hint: str
    threads: int
    batch: int
    frame_size: tuple[int, int]
    injected: bytes = b""


class Ready(Record, frozen=True):
    """Answer to the job: milliseconds from the call of `load` to the first result, and what executes."""

    load_ms: float
    executed: Executed


class Ask(Record, frozen=True):
    """What to time for so long: `run` on a ready tensor, or from a frame to a result."""

    seconds: float
    of_frames: bool = False


class Round(Record, frozen=True):
    """Answer to one question: every call's milliseconds, and the most memory so far."""

    ms: list[float]
    peak_rss_mb: float


def main() -> int:
    """Serve one job until stdin closes."""
    _answers()
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    if job.threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.threads])
    import cv2
    import numpy as np

    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.loading import of_target
    from edgecv_runtime.target import targets

    start = time.perf_counter()
    bundle = Bundle(job.bundle)
    wanted = (job.variant, job.hint)
    backend = pickle.loads(job.injected) if job.injected else job.backend
    (target,) = [each for each in targets(bundle, backend, job.threads) if (each.variant, each.hint) == wanted]
    with of_target(bundle, target) as model:
        golden = bundle.golden().images
        batch = np.ascontiguousarray(np.resize(golden, (job.batch, *golden.shape[1:])))
        model.results(batch)
        load_ms = (time.perf_counter() - start) * 1e3
        _say(Ready(load_ms=load_ms, executed=Executed(model.info.precision, model.info.layers)))
        frame: Any = cv2.resize(golden[0], job.frame_size[::-1])
        frame = frame if frame.ndim == 3 else cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR)
        for line in sys.stdin.buffer:
            ask = msgspec.json.decode(line, type=Ask)
            if ask.of_frames:
                ms = times_ms(lambda: model(frame), ask.seconds)
            else:
                ms = block_ms(lambda: model.run({model.input.name: batch}), ask.seconds)
            _say(Round(ms, peak_rss_mb()))
    return 0


_answers = functools.cache(spawned.answers)


def _say(answer: Record) -> None:
    _answers().write(msgspec.json.encode(answer) + b"\n")
    _answers().flush()


if __name__ == "__main__":
    sys.exit(main())
