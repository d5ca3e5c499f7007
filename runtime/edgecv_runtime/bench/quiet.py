"""Whether a machine was quiet while something was measured: other programs, a quota, a processor that grew hot."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgecv_runtime import cores
from edgecv_runtime.bench.process import Worker
from edgecv_runtime.records import Record

# Other programs' share of one core from which figures are not trusted: a desktop that idles stays below.
BUSY_CORES = 0.15
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


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
        if (self.other_cores or 0.0) > BUSY_CORES:
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
        self._other_s: float | None = 0.0
        self._wall_s = self._throttled_s = 0.0
        self._hot = 0

    @contextmanager
    def over(self, workers: Sequence[Worker]) -> Iterator[None]:
        """Watch while this goes on; the workers live all the time."""
        pids = [os.getpid(), *(worker.pid for worker in workers)]
        start, before = time.monotonic(), (self._busy_s(pids), self._quota_s(), self._hot_count())
        yield
        busy_s = self._busy_s(pids)
        self._wall_s += time.monotonic() - start
        self._throttled_s += self._quota_s() - before[1]
        self._hot += self._hot_count() - before[2]
        if busy_s is None or before[0] is None or self._other_s is None:
            self._other_s = None
        else:
            self._other_s += busy_s - before[0]

    def found(self) -> Disturbance:
        """What was seen so far."""
        other = None if self._other_s is None else max(0.0, self._other_s / (self._wall_s or 1.0))
        return Disturbance(other, max(0.0, self._throttled_s), max(0, self._hot))

    def _busy_s(self, own: Sequence[int]) -> float | None:
        """Seconds that the cores of this process were busy, or given to others, without those of `own` processes."""
        try:
            lines = (self._root / "proc/stat").read_text().splitlines()
            names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
            ticks = 0
            for line in lines:
                name, *counts = line.split()
                if name in names:
                    user, nice, system, _, _, irq, softirq, steal = map(int, counts[:8])
                    ticks += user + nice + system + irq + softirq + steal
            for pid in own:
                # the name, which may hold anything, stands in parentheses
                counts = (self._root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks -= int(counts[11]) + int(counts[12])
        except (OSError, ValueError, AttributeError):
            return None  # no Linux, or one that hides it
        return ticks / _TICKS if ticks else None

    def _quota_s(self) -> float:
        """Seconds that the quotas of this process's control groups, and of those around them, have held them up."""
        folders = {folder for folder, _ in cores.groups(self._root)}
        return sum(_throttled_s(folder / "cpu.stat") for folder in folders)

    def _hot_count(self) -> int:
        """How often cores were slowed down, as Intel's driver counts."""
        total = 0
        for path in (self._root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
            try:
                total += int(path.read_text())
            except (OSError, ValueError):
                continue  # a core that is off
        return total


def _throttled_s(path: Path) -> float:
    """Of a control group's `cpu.stat`, version 2 in microseconds, version 1 in nanoseconds."""
    try:
        facts = dict(line.split() for line in path.read_text().splitlines())
        return int(facts.get("throttled_usec", 0)) / 1e6 + int(facts.get("throttled_time", 0)) / 1e9
    except (OSError, ValueError):
        return 0.0
