"""Find the fastest way to run by short measurements, and remember it for this hardware and these files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgecv_runtime import backends, files, machine, records
from edgecv_runtime.errors import BadInput, ComputationError, EdgecvError
from edgecv_runtime.goals import Goal, Trial
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.records import Record

if TYPE_CHECKING:
    from edgecv_runtime.backends import Backend
    from edgecv_runtime.target import Target

ROUNDS, SECONDS_EACH = 3, 0.08
BATCHES = (1, 2, 4, 8)
# What wins by less than this is not told from noise.
_MARGIN = 0.99
# What is this much behind the best is not set any further.
_NEAR = 1.3
# So many measurements of a knob in a row may bring nothing before a search gives it up: the way to a better batch can
# lead over a worse one.
_PATIENCE = 2
# What comes so close to the best is measured again: at most so many, so many times, all in turn. First measurements lie
# seconds or minutes apart, and a shared machine may be much slower in one than in the other.
_CLOSE, _FINALISTS, _RUN_OFF = 1.3, 4, 5
# What then comes this close to the best is as fast.
_EVEN = 1.03
# By how much a first measurement may miss a bound that is kept later: a quarter of a second says little of slow calls.
_SLACK = 1.15

Measure = Callable[[Sequence["Target"]], list[Trial]]


class Memory(Record, frozen=True):
    """What was tried, and the best of it."""

    best: Trial
    trials: tuple[Trial, ...]


def recall(digest: Callable[[], str]) -> Memory | None:
    """What was remembered under a digest; None when there is nothing, or nothing that can be read.

    digest: called only where anything was remembered: loading the library for it costs a start 3 ms.
    """
    try:
        folder = files.cache_folder("auto")
        if not any(folder.iterdir()):
            return None
        path = folder / f"{digest()}.json"
        return records.decode(path.read_bytes(), Memory, str(path))
    except (OSError, BadInput):
        return None


def remember(digest: str, memory: Memory) -> str:
    """Keep it -> why it could not be kept, or "": that costs the next start a measurement, no more."""
    try:
        files.write(files.cache_folder("auto") / f"{digest}.json", msgspec.json.encode(memory))
    except OSError as exc:
        return f"not remembered: {exc}; set EDGECV_CACHE to a folder that can be written"
    return ""


def start(target: Target, goal: Goal) -> Target:
    """The settings a search starts from: one call at a time for latency, else a stream for each core."""
    streams = 1 if goal.is_latency else _busy_cores(target.threads)
    return msgspec.structs.replace(target, streams=streams, batch=1)


def settings(target: Target) -> list[Target]:
    """Every way to set a target's threads (unless they were given), streams and batch: the grid of a search."""
    fewer = [] if target.is_remote else _up_to(machine.this().cores)[:-1]
    return [
        msgspec.structs.replace(target, threads=threads, streams=streams, batch=batch)
        for threads in ([target.threads] if target.threads else [0, *reversed(fewer)])  # 0: all of them
        for streams in _up_to(_busy_cores(threads))
        for batch in BATCHES
    ]


def _busy_cores(threads: int) -> int:
    cores = machine.this().cores
    return min(threads or cores, cores)


def _up_to(most: int) -> list[int]:
    """The powers of two below a number, and the number."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


class Search:
    """Coordinate descent over the grid of all targets, in a quarter of its trials (but each target once)."""

    def __init__(self, targets: Sequence[Target], goal: Goal, measured: Measure) -> None:
        self.trials: dict[Target, Trial] = {}
        self._settled: set[Target] = set()
        self._goal = goal
        self._measured = measured
        self._starts = [start(target, goal) for target in targets]
        self._grid = [each for target in targets for each in settings(target)]
        self._left = max(len(targets), len(self._grid) // 4)

    def run(self) -> Target:
        """Measure every target once, then change one setting at a time of the near ones for as long as it helps."""
        least = self._cost(self.once())
        for target in sorted(self._starts, key=self._cost):  # a close second may win once it is set well
            if self._cost(target) < _NEAR * least:
                self._climb(target)
        return self._run_off()

    def once(self) -> Target:
        """Measure every target once, where a search starts -> the best."""
        self._try(self._starts)
        return min(self._starts, key=self._cost)

    def memory(self, best: Target) -> Memory:
        """What the search found, to be kept."""
        return Memory(best=self.trials[best], trials=tuple(self.trials.values()))

    def _climb(self, target: Target) -> None:
        """Batch first: the streams are near their best where a search starts, and threads matter least."""
        for knob in ("threads",) if self._goal.is_latency else ("batch", "streams", "threads"):
            here = {knob: getattr(target, knob)}
            line = [each for each in self._grid if msgspec.structs.replace(each, **here) == target]
            at = line.index(target)
            for steps in (line[at + 1 :], line[:at][::-1]):
                target = self._walk(target, steps)

    def _walk(self, leader: Target, steps: Sequence[Target]) -> Target:
        """Measure step after step, each in turn with the leader, until they bring no more -> the leader then."""
        missed = 0
        for step in steps:
            if missed >= _PATIENCE or (step not in self.trials and self._left < 1):
                break
            self._try([leader, step])
            if self._cost(step) < _MARGIN * self._cost(leader):
                leader, missed = step, 0
            else:
                missed += 1 if self._cost(step) < _NEAR * self._cost(leader) else _PATIENCE
        return leader

    def _run_off(self) -> Target:
        """The best of all that came close to it, once they have been measured again in turn.

        The median cost counts; but one that missed the bound once misses it, and what comes after it is close then. Of
        those that are as fast, the one that is furthest from the bound.
        """
        while True:
            ranked = sorted(self.trials, key=self._cost)
            close = [each for each in ranked[:_FINALISTS] if self._cost(each) < _CLOSE * self._cost(ranked[0])]
            alone = len(close) == 1 and self._goal.kept_by(self.trials[ranked[0]])
            if alone or self._settled.issuperset(close):
                even = [each for each in close if self._cost(each) < _EVEN * self._cost(ranked[0])]
                return min(even, key=lambda each: self._goal.excess(self.trials[each]))
            again = [self._measured(close) for _ in range(_RUN_OFF)]
            for target, trials in zip(close, zip(*again, strict=True), strict=True):
                *_, worst = by_cost = sorted(trials, key=self._goal.cost)
                self.trials[target] = by_cost[_RUN_OFF // 2] if self._goal.kept_by(worst) else worst
            self._settled.update(close)

    def _cost(self, target: Target) -> float:
        """What a target costs; a bound that a first, short measurement misses by little may yet be kept."""
        return self._goal.cost(self.trials[target], slack=1.0 if target in self._settled else _SLACK)

    def _try(self, targets: Sequence[Target]) -> None:
        self._left -= sum(target not in self.trials for target in targets)
        self.trials.update(zip(targets, self._measured(targets), strict=True))


def measure(targets: Sequence[Target], spec: TensorSpec) -> list[Trial]:
    """Short measurements in interleaved rounds, each target with all its streams busy; one that fails says why.

    An int8 file that runs in mixed precision fails, too, where another target runs. Raises the first error when nothing
    runs.
    """
    opened: dict[Target, Backend] = {}
    errors: dict[Target, EdgecvError] = {}
    times: dict[Target, list[float]] = {target: [] for target in targets}
    rates: dict[Target, list[float]] = {target: [] for target in targets}
    try:
        for target in targets:
            try:
                opened[target] = target.open()
                opened[target].run(_feed(spec, target.batch))
            except EdgecvError as exc:
                errors[target] = exc
        working = [target for target in targets if target not in errors]
        mixed = {target: why for target in working if (why := _mixed(target, opened[target]))}
        if len(mixed) < len(working):
            errors |= {target: ComputationError(why) for target, why in mixed.items()}
            working = [target for target in working if target not in mixed]
        for number in range(ROUNDS if working else 0):
            for target in working if number % 2 == 0 else reversed(working):
                own, rate = _busy(opened[target], _feed(spec, target.batch), target.streams)
                times[target] += own
                rates[target].append(rate * target.batch)
    finally:
        for backend in opened.values():
            backend.close()
    if not working:
        raise errors[targets[0]]
    return [
        target.trial(failed=str(errors[target])) if target in errors else _trial(target, times[target], rates[target])
        for target in targets
    ]


def _mixed(target: Target, backend: Backend) -> str:
    return backends.mixed(backend.executed().layers, target.islands) if target.is_int8 else ""


def _busy(backend: Backend, feed: dict[str, Any], streams: int) -> tuple[list[float], float]:
    from edgecv_runtime.timing import concurrent_times_ms

    return concurrent_times_ms(lambda: backend.run(feed), SECONDS_EACH, streams)


def _trial(target: Target, times: list[float], rates: list[float]) -> Trial:
    p50, p90, p99 = (float(value) for value in np.percentile(times, [50, 90, 99]))
    return target.trial(p50_ms=p50, p90_ms=p90, p99_ms=p99, frames_per_s=float(np.median(rates)))


def _feed(spec: TensorSpec, batch: int) -> dict[str, Any]:
    shape = [batch, *(size if isinstance(size, int) else 1 for size in spec.shape[1:])]
    return {spec.name: np.random.default_rng(0).integers(0, 256, shape).astype(spec.dtype)}
