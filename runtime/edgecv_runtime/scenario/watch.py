"""What surrounds a measurement: clocks, temperatures, governor, throttling, what else computes, memory limits.

Everything is read from /proc and /sys below a root, which tests replace. What cannot be read is None or empty, and said
so: nothing that nobody watched counts as in order.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from edgecv_runtime import cores, counters, machine
from edgecv_runtime.records import Record
from edgecv_runtime.scenario.energy import Energy, meters, spent

ROOT = Path("/")
EVERY_S = 0.1
_PROCESSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")  # hwmon's drivers of their sensors


class Moment(Record, frozen=True):
    """The machine at one moment: highest temperature, mean clock of the cores in use, load of the last minute."""

    temperature_c: float | None
    clock_mhz: float | None
    load_1min: float | None


class Surroundings(Record, frozen=True):
    """The machine around one act.

    throttled: how often the kernel's counters of thermal throttling went up, None without such counters. quota_waits:
    how often the container's quota of CPU time was used up. others_cores: cores that other programs kept busy.
    """

    before: Moment
    after: Moment
    clocks_mhz: list[float]
    temperatures_c: list[float]
    throttled: int | None
    quota_waits: int | None
    others_cores: float | None


class Settings(Record, frozen=True):
    """How the machine is set: what a report must say, and who reads it cannot ask any more.

    isa: what instruction sets were limited to; "native" is not at all. quota_cores: of the container, None without.
    """

    isa: str
    affinity: list[int]
    quota_cores: float | None
    memory_limit_mb: float | None
    governor: str
    power_mode: str
    swap_used_mb: float | None


def settings(isa: str = "native", root: Path = ROOT) -> Settings:
    """How this machine is set now."""
    power = machine.power_settings(root)
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    quotas = [*cores.quotas(root)]
    facts = _table(root / "proc/meminfo")
    swap = facts["SwapTotal"] - facts["SwapFree"] if {"SwapTotal", "SwapFree"} <= set(facts) else None
    return Settings(
        isa=isa,
        affinity=affinity,
        quota_cores=min(quotas) if quotas else None,
        memory_limit_mb=_memory_limit(root),
        governor=power.pop("governor", ""),
        power_mode=", ".join(f"{name} {value}" for name, value in power.items()),
        swap_used_mb=None if swap is None else swap * 1024 / 1e6,
    )


def moment(root: Path = ROOT) -> Moment:
    """This machine now."""
    load = _text(root / "proc/loadavg").split()
    return Moment(_temperature(root), _clock(root), float(load[0]) if load else None)


class Watcher:
    """Samples the machine while something runs; `with` starts and ends it."""

    def __init__(self, own: Sequence[int] = (), gpu: bool = False, root: Path = ROOT) -> None:
        """own: processes whose load is no competition; gpu: whether its energy counts."""
        self._root, self._own, self._stop = root, tuple(own), threading.Event()
        self._meters, self._why = meters(root, gpu)
        self._energy: list[tuple[float, list[float]]] = []
        self._moments: list[tuple[float, Moment]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failed = ""

    def __enter__(self) -> Watcher:
        self._begun = counters.read(self._own, self._root)
        self._sample(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def around(self, begin: float, end: float) -> Surroundings:
        """What was seen between two moments of the wall clock, while the processes of one's own still live."""
        counted = counters.read(self._own, self._root).since(self._begun)
        inside = [each for at, each in self._moments if begin <= at <= end]
        return Surroundings(
            before=self._moments[0][1],
            after=self._moments[-1][1],
            clocks_mhz=[each.clock_mhz for each in inside if each.clock_mhz is not None],
            temperatures_c=[each.temperature_c for each in inside if each.temperature_c is not None],
            throttled=counted.throttled,
            quota_waits=counted.waits,
            others_cores=counted.other_cores,
        )

    def energy(self, begin: float, end: float, frames: int) -> Energy:
        """What was spent between two moments, or why that is not known."""
        if not self._meters or self._failed:
            return Energy(unavailable=self._why or self._failed)
        source = ", ".join(meter.name for meter in self._meters)
        try:
            joules = spent(self._meters, self._energy, begin, end)
        except ValueError as exc:
            return Energy(unavailable=f"{source}: {exc}")
        return Energy(source, joules, joules / (end - begin), joules / frames * 1e3 if frames else None)

    def _run(self) -> None:
        count = 0
        while not self._stop.wait(EVERY_S):
            count += 1
            self._sample(count)
        self._sample(0)

    def _sample(self, count: int) -> None:
        if self._meters and not self._failed:
            try:
                readings = [meter.read() for meter in self._meters]
            except (OSError, ValueError) as exc:
                self._failed = f"{self._meters[0].name} failed meanwhile: {exc}"
            else:
                self._energy.append((time.time(), readings))
        if count % 10 == 0:  # reading clocks may ask each core
            self._moments.append((time.time(), moment(self._root)))


def _temperature(root: Path) -> float | None:
    """The hottest zone, or of a machine without zones the hottest sensor of its processor, in degrees Celsius."""
    places = [*(root / "sys/class/thermal").glob("thermal_zone*/temp")] or [
        place
        for folder in (root / "sys/class/hwmon").glob("hwmon*")
        if _text(folder / "name") in _PROCESSORS
        for place in folder.glob("temp*_input")
    ]
    found = [int(text) / 1e3 for text in map(_text, places) if text.lstrip("-").isdigit()]
    return max((each for each in found if -40 < each < 150), default=None)


def _clock(root: Path) -> float | None:
    """Mean clock in MHz of the cores that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    found = []
    for number in allowed:
        text = _text(root / f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq")
        if text.isdigit():
            found.append(int(text) / 1e3)
    return sum(found) / len(found) if found else None


def _memory_limit(root: Path) -> float | None:
    """In MB, the least of this process's control groups and of those around them; None where there is none."""
    found = []
    for folder, is_2 in cores.groups(root, "memory"):
        text = _text(folder / ("memory.max" if is_2 else "memory.limit_in_bytes"))
        if text.isdigit() and int(text) < 1 << 60:  # without a limit version 1 shows a number close to 2^63
            found.append(int(text) / 1e6)
    return min(found, default=None)


def _table(path: Path) -> dict[str, int]:
    pairs = (line.partition(":") for line in _text(path).splitlines())
    return {name: int(rest.split()[0]) for name, _, rest in pairs if rest.split() and rest.split()[0].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
