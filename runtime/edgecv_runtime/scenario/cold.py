"""A start from nothing, split into what it consists of.

The clock begins when the process is asked for (CLOCK_MONOTONIC is the same in all processes of a machine). What the
operating system keeps of files in memory is warm; dropping it is for an administrator.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edgecv_runtime import spawned
from edgecv_runtime.backends import Executed
from edgecv_runtime.errors import ComputationError
from edgecv_runtime.records import Record
from edgecv_runtime.target import Target

# The first line that is Python's own business: from here on it is imports.
_BEGIN = "import time; began = time.monotonic(); from edgecv_runtime.scenario import cold; cold.main(began)"
STAGES = ("start", "import", "load", "compile", "first", "second")
EMPTY, KEPT = "cold start, nothing compiled", "cold start, compiled before"


class Start(Record, frozen=True):
    """One start: seconds since it was asked for at which each stage ended, what executes, and memory at its end."""

    ends_s: list[float]
    executed: Executed
    rss_mb: float
    peak_rss_mb: float

    @property
    def stages_ms(self) -> dict[str, float]:
        """Each stage's milliseconds; they add up to the whole by how they are taken."""
        return {
            name: 1e3 * (end - begin)
            for name, begin, end in zip(STAGES, [0.0, *self.ends_s], self.ends_s, strict=False)
        }


def starts(root: Path, target: Target, threads: int, count: int) -> Iterator[tuple[str, Start]]:
    """Start `count` pairs of processes: with an empty cache of compiled models, and with what the first one kept."""
    for _ in range(count):
        with tempfile.TemporaryDirectory(prefix="edgecv-cold-") as cache:
            for kind in (EMPTY, KEPT):
                yield kind, _start(root, target, threads, cache)


def _start(root: Path, target: Target, threads: int, cache: str) -> Start:
    given = [str(root), target.variant, target.asked, target.hint, str(threads)]
    command = [*spawned.command(_BEGIN), *given]
    asked = time.monotonic()
    done = subprocess.run(
        [*command, repr(asked)], env={**os.environ, "EDGECV_CACHE": cache}, capture_output=True, check=False
    )
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise ComputationError(f"{target.key}: a start failed: {words[-1] if words else 'no message'}")
    return msgspec.json.decode(done.stdout, type=Start)


def main(began: float) -> None:
    """Be the process that starts: bundle, variant, backend, hint, threads, moment -> a Start on stdout."""
    root, variant, backend, hint, threads, asked = sys.argv[1:]
    answers = spawned.answers()
    from edgecv_runtime import backends
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.loading import of_target
    from edgecv_runtime.machine import peak_rss_mb, rss_mb
    from edgecv_runtime.preprocess import import_cv2
    from edgecv_runtime.target import targets

    import_cv2()
    backends.get(backend).probe()  # imports the backend's library
    ends = [began, time.monotonic()]
    bundle = Bundle(root)
    found = [each for each in targets(bundle, backend, int(threads)) if (each.variant, each.hint) == (variant, hint)]
    one = bundle.golden().images[:1]
    ends.append(time.monotonic())
    with of_target(bundle, found[0]) as model:
        ends.append(time.monotonic())
        for _ in range(2):
            model.results(one)
            ends.append(time.monotonic())
        memory = rss_mb(), peak_rss_mb()
        executed = Executed(model.info.precision, model.info.layers)
        said = Start([end - float(asked) for end in ends], executed, *memory)
        answers.write(msgspec.json.encode(said))
        answers.flush()
