"""Find the fastest way to run by short measurements, and remember it for this hardware and these files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgecv_runtime import files, machine
from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.goals import Goal, Trial
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.records import Record

if TYPE_CHECKING:
    from edgecv_runtime.backends import Backend
    from edgecv_runtime.choose import Target

ROUNDS, SECONDS_EACH = 3, 0.08
BATCHES = (1, 2, 4, 8)
# What wins by less than this is not told from noise.
_MARGIN = 0.99
# A target that starts this much behind the best is not set any further.
_NEAR = 1.3

Measure = Callable[[Sequence["Target"]], list[Trial]]


class Memory(Record, frozen=True):
    """What was tried, and the best of it."""

    best: Trial
    trials: tuple[Trial, ...]


def recall(digest: str) -> Memory | None:
    """What was remembered under a digest; None when there is nothing, or nothing that can be read."""
    try:
        return msgspec.json.decode((files.cache_folder("auto") / f"{digest}.json").read_bytes(), type=Memory)
    except (OSError, msgspec.DecodeError):
        return None


def remember(digest: str, memory: Memory) -> None:
    """Keep it; a read-only or full cache folder costs the next start a measurement, no more."""
    try:
        files.write(files.cache_folder("auto") / f"{digest}.json", msgspec.json.encode(memory))
    except OSError:
        return


def start(target: Target, goal: Goal) -> Target:
    """The settings a search starts from: one call at a time for latency, else a stream for each core."""
    streams = 1 if goal.is_latency else target.threads or machine.this().cores
    return msgspec.structs.replace(target, streams=streams, batch=1)


def settings(target: Target) -> list[Target]:
    """Every way to set a target's threads (unless they were given), streams and batch: the grid of a search."""
    cores = machine.this().cores
    sizes = [2**power for power in range(cores.bit_length()) if 2**power < cores]
    return [
        msgspec.structs.replace(target, threads=threads, streams=streams, batch=batch)
        for threads in ([target.threads] if target.threads else [0, *reversed(sizes)])  # 0: all of them
        for streams in [*sizes, cores]
        if streams <= (threads or cores)
        for batch in BATCHES
    ]


class Search:
    """Coordinate descent over the grid of all targets, in a quarter of its trials (but each target once)."""

    def __init__(self, targets: Sequence[Target], goal: Goal, measured: Measure) -> None:
        self.trials: dict[Target, Trial] = {}
        self._goal = goal
        self._measured = measured
        self._targets = targets
        self._grid = [each for target in targets for each in settings(target)]
        self._left = max(len(targets), len(self._grid) // 4)

    def run(self) -> Target:
        """Measure every target once, then change one setting at a time of the best ones for as long as it helps."""
        first = self.once()
        ranked = sorted(self.trials, key=self._cost)
        best = self._climb(first)
        for rival in ranked[1:]:  # a close second may win once it is set well
            own = self._climb(rival) if self._cost(rival) < _NEAR * self._cost(ranked[0]) else rival
            if own != rival:
                best = self._better(best, own)
        return best

    def once(self) -> Target:
        """Measure every target once, where a search starts -> the best."""
        starts = [start(target, self._goal) for target in self._targets]
        self._try(starts)
        return min(starts, key=self._cost)

    def memory(self, best: Target) -> Memory:
        """What the search found, to be kept."""
        return Memory(best=self.trials[best], trials=tuple(self.trials.values()))

    def _climb(self, target: Target) -> Target:
        """Streams decide most, then batch, then threads."""
        for knob in ("threads",) if self._goal.is_latency else ("streams", "batch", "threads"):
            here = {knob: getattr(target, knob)}
            line = [each for each in self._grid if msgspec.structs.replace(each, **here) == target]
            at = line.index(target)
            for steps in (line[at + 1 :], line[:at][::-1]):
                for step in steps:
                    if step not in self.trials and self._left < 1:
                        return target
                    if self._better(target, step) != step:
                        break
                    target = step
        return target

    def _better(self, leader: Target, other: Target) -> Target:
        """Measure both in turn; the leader stays unless it is beaten twice by more than noise."""
        for _ in range(2):
            self._try([leader, other])
            if self._cost(other) >= _MARGIN * self._cost(leader):
                return leader
        return other

    def _cost(self, target: Target) -> float:
        return self._goal.cost(self.trials[target])

    def _try(self, targets: Sequence[Target]) -> None:
        self._left -= sum(target not in self.trials for target in targets)
        self.trials.update(zip(targets, self._measured(targets), strict=True))


def measure(targets: Sequence[Target], spec: TensorSpec) -> list[Trial]:
    """Short measurements in interleaved rounds, each target with all its streams busy; one that fails says why.

    Raises the first error when nothing runs.
    """
    opened: dict[Target, Backend] = {}
    errors: dict[Target, EdgecvError] = {}
    for target in targets:
        try:
            opened[target] = target.open()
            opened[target].run(_feed(spec, target.batch))
        except EdgecvError as exc:
            errors[target] = exc
    working = [target for target in targets if target not in errors]
    times: dict[Target, list[float]] = {target: [] for target in working}
    rates: dict[Target, list[float]] = {target: [] for target in working}
    for _ in range(ROUNDS if working else 0):
        for target in working:
            own, rate = _busy(opened[target], _feed(spec, target.batch), target.streams)
            times[target] += own
            rates[target].append(rate * target.batch)
    for backend in opened.values():
        backend.close()
    if not working:
        raise errors[targets[0]]
    return [
        target.trial(failed=str(errors[target])) if target in errors else _trial(target, times[target], rates[target])
        for target in targets
    ]


def _busy(backend: Backend, feed: dict[str, Any], streams: int) -> tuple[list[float], float]:
    from edgecv_runtime.bench.timing import concurrent_times_ms

    return concurrent_times_ms(lambda: backend.run(feed), SECONDS_EACH, streams)


def _trial(target: Target, times: list[float], rates: list[float]) -> Trial:
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return target.trial(p50_ms=p50, p90_ms=p90, p99_ms=p99, frames_per_s=float(np.median(rates)))


def _feed(spec: TensorSpec, batch: int) -> dict[str, Any]:
    shape = [batch, *(size if isinstance(size, int) else 1 for size in spec.shape[1:])]
    return {spec.name: np.random.default_rng(0).integers(0, 256, shape).astype(spec.dtype)}
