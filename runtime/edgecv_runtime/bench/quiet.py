"""Whether a machine was quiet while something was measured: other programs, a quota, a processor that grew hot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgecv_runtime import cores, counters
from edgecv_runtime.bench.process import Worker
from edgecv_runtime.records import Record


class Disturbance(Record, frozen=True):
    """What disturbed a measurement.

    other_cores: how many cores other programs, or other virtual machines, took on average; None where the system does
    not tell. throttled_s: how long a quota (of a container, say) held it up; hot: how often a core was slowed down for
    its temperature or current.
    """

    other_cores: float | None = None
    throttled_s: float = 0.0
    hot: int = 0

    @property
    def said(self) -> list[str]:
        """Each in words, as far as it matters."""
        lines = []
        if (self.other_cores or 0.0) > counters.BUSY_CORES:
            lines.append(f"other programs took {self.other_cores:.1f} of {cores.usable()} cores meanwhile")
        if self.throttled_s > 0:
            lines.append(f"throttled: a quota of the processor held it up for {self.throttled_s:.1f} s")
        if self.hot:
            lines.append(f"throttled: the processor slowed down {self.hot} times for its temperature or current")
        return lines


class Watch:
    """Counts what others do while workers measure; root: of the system's files."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._seen: list[counters.Counters] = []

    @contextmanager
    def over(self, workers: Sequence[Worker]) -> Iterator[None]:
        """Watch while this goes on; the workers live all the time."""
        own = [worker.pid for worker in workers]
        before = counters.read(own, self._root)
        yield
        self._seen.append(counters.read(own, self._root).since(before))

    def found(self) -> Disturbance:
        """What was seen so far."""
        times = [each.others_s for each in self._seen]
        known = [each for each in times if each is not None]
        wall_s = sum(each.seconds for each in self._seen)
        return Disturbance(
            max(0.0, sum(known) / (wall_s or 1.0)) if len(known) == len(times) else None,
            max(0.0, sum(each.held_s or 0.0 for each in self._seen)),
            max(0, sum(each.throttled or 0 for each in self._seen)),
        )
