"""What others do to a measurement, as the kernel counts it: processor time, quotas, throttling; read before and after.

Everything is read from /proc and /sys below a root, which tests replace. What cannot be read is None, never 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from edgecv_runtime import cores
from edgecv_runtime.records import Record

# Other programs' share of one core from which figures are not trusted: a desktop that idles stays below.
BUSY_CORES = 0.15
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Counters(Record, frozen=True):
    """Counts since the start of the machine, or between two moments.

    seconds: of the wall clock. others_s: that the cores of this process were busy with other programs, or given to
    other virtual machines. waits, held_s: how often, and for how long, a quota of this process's control groups or of
    those around them held them up. throttled: how often cores were slowed down for their temperature or current, as
    Intel's driver counts.
    """

    seconds: float
    others_s: float | None
    waits: int | None
    held_s: float | None
    throttled: int | None

    @property
    def other_cores(self) -> float | None:
        """How many cores others took on average."""
        return None if self.others_s is None else max(0.0, self.others_s / (self.seconds or 1.0))

    def since(self, before: Counters) -> Counters:
        """What was counted from then to now."""
        return Counters(
            self.seconds - before.seconds,
            None if self.others_s is None or before.others_s is None else self.others_s - before.others_s,
            None if self.waits is None or before.waits is None else self.waits - before.waits,
            None if self.held_s is None or before.held_s is None else self.held_s - before.held_s,
            None if self.throttled is None or before.throttled is None else self.throttled - before.throttled,
        )


def read(own: Sequence[int] = (), root: Path = Path("/")) -> Counters:
    """The counts now. own: processes besides this one, which live, whose load is no competition."""
    groups = [_of_group(folder / "cpu.stat") for folder in {folder for folder, _ in cores.groups(root)}]
    known = [each for each in groups if each]
    return Counters(
        seconds=time.monotonic(),
        others_s=_others_s(root, (os.getpid(), *own)),
        waits=sum(each.get("nr_throttled", 0) for each in known) if known else None,
        held_s=sum(_held_s(each) for each in known) if known else None,
        throttled=_throttled(root),
    )


def _others_s(root: Path, own: Sequence[int]) -> float | None:
    """Of the cores of this process, without what `own` processes and their ended children took."""
    try:
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = 0
        for line in (root / "proc/stat").read_text().splitlines():
            name, *counts = line.split()
            if name in names:
                user, nice, system, _, _, irq, softirq, steal = map(int, counts[:8])
                ticks += user + nice + system + irq + softirq + steal
        for pid in own:
            # the name, which may hold anything, stands in parentheses
            counts = (root / f"proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks -= sum(map(int, counts[11:15]))
    except (OSError, ValueError, AttributeError):
        return None  # no Linux, or one that hides it
    return ticks / _TICKS if ticks else None


def _of_group(path: Path) -> dict[str, int]:
    """A control group's `cpu.stat`; {} where there is none."""
    try:
        return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
    except (OSError, ValueError):
        return {}


def _held_s(facts: dict[str, int]) -> float:
    """Version 2 counts in microseconds, version 1 in nanoseconds."""
    return facts.get("throttled_usec", 0) / 1e6 + facts.get("throttled_time", 0) / 1e9


def _throttled(root: Path) -> int | None:
    """Of cores and packages; None without such counters."""
    found = []
    for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count"):
        try:
            found.append(int(path.read_text()))
        except (OSError, ValueError):
            continue  # a core that is off
    return sum(found) if found else None
