"""How many cores this process may use: those it may run on, and no more than its container's quota of CPU time.

`docker run --cpus 2` on a machine of 64 cores leaves all 64 to be seen. A pool of 64 threads then uses up the quota of
a period (100 ms) in 3 ms, and all of them stand still until the next one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# Where the kernel's two ways to group processes are mounted (cgroups(7)), version 1 with its controller's name.
_VERSION_2 = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
_VERSION_1 = {
    "cpu": ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu"),
    "memory": ("sys/fs/cgroup/memory",),
}


def usable(root: Path = Path("/")) -> int:
    """Cores that may compute at once, at least 1; half a core of quota counts as a whole one.

    root: of the file system, for tests.
    """
    return max(1, min([seen(), *(math.ceil(quota) for quota in quotas(root))]))


def seen() -> int:
    """Cores that this process may run on, as libraries count them that look at no quota."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def groups(root: Path = Path("/"), controller: str = "cpu") -> Iterator[tuple[Path, bool]]:
    """The folders of this process's control groups and of those around them; True for version 2.

    controller: "cpu" or "memory"; of version 1, where each has groups of its own.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        is_2 = number == "0" and not controllers
        if not is_2 and controller not in controllers.split(","):
            continue
        inside = Path(group.lstrip("/"))
        for mount in filter(lambda each: (root / each).is_dir(), _VERSION_2 if is_2 else _VERSION_1[controller]):
            # a container sees its own group at the top, whatever path the line names
            for folder in (inside, *inside.parents):
                yield root / mount / folder, is_2


def quotas(root: Path) -> Iterator[float]:
    """The quotas of this process's groups and of those around them, in cores."""
    for folder, is_2 in groups(root):
        found = (_of_version_2 if is_2 else _of_version_1)(folder)
        if found is not None:
            yield found


def _of_version_2(folder: Path) -> float | None:
    """`cpu.max`: microseconds of CPU time, or "max", and the period that they are for."""
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    return _ratio(quota, period or "100000")


def _of_version_1(folder: Path) -> float | None:
    """`cpu.cfs_quota_us`, -1 for none, and `cpu.cfs_period_us`."""
    return _ratio(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # no such file, "max", or what no kernel writes
        return None
    return share if share > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
