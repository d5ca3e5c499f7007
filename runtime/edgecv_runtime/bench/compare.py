"""Contenders against one another, in an order in which the machine's phases fall on all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from edgecv_runtime.backends import Executed
from edgecv_runtime.bench.process import Worker, measure_round
from edgecv_runtime.bench.quiet import Disturbance, Watch
from edgecv_runtime.bench.worker import Job
from edgecv_runtime.errors import BadInput
from edgecv_runtime.evidence import Score
from edgecv_runtime.paired import LEAST_GROUPS, Ratio, ratio
from edgecv_runtime.records import Record


class Contender(Record, frozen=True):
    """What is compared, by a name of its own.

    command: what runs its worker process, by default this Python; environment: of that, None for this one's. score: of
    that very file on that backend, where it is known.
    """

    name: str
    job: Job
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    score: Score | None = None


class Timed(Record, frozen=True):
    """A contender as it was measured.

    block_ms: median of each block, in their order; the blocks of all contenders were interleaved.
    ratio: to the first contender, None for that one itself. score: as it was given.
    """

    name: str
    executed: Executed
    p50_ms: float
    p90_ms: float
    p99_ms: float
    runs: int
    block_ms: tuple[float, ...]
    ratio: Ratio | None = None
    score: Score | None = None

    @property
    def verdict(self) -> str:
        """Beside the first contender, in words."""
        return self.ratio.verdict if self.ratio else ""


class Compared(Record, frozen=True):
    """Contenders, the first being what the others are compared with, and what disturbed the measurement."""

    contenders: tuple[Timed, ...]
    rounds: int
    seconds: float
    disturbance: Disturbance


def compare(
    contenders: Sequence[Contender],
    *,
    rounds: int = 8,
    seconds: float = 0.5,
    progress: Callable[[str], None] = lambda _: None,
) -> Compared:
    """Time contenders side by side -> their times as ratios of the first one's.

    rounds: each with new processes, since a process keeps the place in memory that it got by luck; seconds: of a round
    of one contender. Raises BadInput, or ComputationError where one cannot be loaded.
    """
    if len(contenders) < 2 or rounds < LEAST_GROUPS or seconds <= 0:
        raise BadInput(
            f"a comparison wants two contenders or more, {LEAST_GROUPS} rounds or more for an interval, and a time: "
            f"got {len(contenders)}, {rounds}, {seconds}"
        )
    calls: list[list[float]] = [[] for _ in contenders]
    blocks: list[list[float]] = [[] for _ in contenders]
    executed: list[Executed] = []
    watch = Watch()
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        with ExitStack() as stack:
            workers = [stack.enter_context(Worker(each.name, each.command, each.environment)) for each in contenders]
            for worker, each in zip(workers, contenders, strict=True):
                worker.begin(each.job)
            for worker in workers:
                worker.wait()
            executed = [worker.ready.executed for worker in workers]
            with watch.over(workers):
                # who comes first changes from round to round
                measure_round(workers if number % 2 == 0 else workers[::-1], seconds)
            for worker, own_calls, own_blocks in zip(workers, calls, blocks, strict=True):
                own_calls += [ms for block in worker.blocks for ms in block.ms]
                own_blocks += [float(np.median(block.ms)) for block in worker.blocks]
    found = []
    for number, each in enumerate(contenders):
        p50, p90, p99 = map(float, np.percentile(calls[number], [50, 90, 99]))
        against = ratio(blocks[number], blocks[0], rounds) if number else None
        runs = len(calls[number])
        own = tuple(blocks[number])
        found.append(Timed(each.name, executed[number], p50, p90, p99, runs, own, against, each.score))
    return Compared(tuple(found), rounds, seconds, watch.found())
