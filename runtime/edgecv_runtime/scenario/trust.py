"""Can a run be trusted? Each reason to doubt is looked for, and what nobody could watch is said to be not known."""

from __future__ import annotations

import numpy as np

from edgecv_runtime.counters import BUSY_CORES
from edgecv_runtime.scenario.report import Times, Trust
from edgecv_runtime.scenario.watch import Settings, Surroundings
from edgecv_runtime.timing import STEADY

SLOWER_CLOCK, SLOWER_CALLS = 0.93, 1.07  # together: an idle clock alone is no throttling
DRIFT = 1.1
RESOLVED = 0.05  # half an interval of the median against it
HOT_C = 85.0
FEW = 5  # calls whose median tells something


def phases(took_ms: list[float]) -> float:
    """How many times as long as in its fastest tenth a run's calls take in its slowest, by medians of FEW and more."""
    parts = np.array_split(np.asarray(took_ms), max(1, min(10, len(took_ms) // FEW)))
    medians = [float(np.median(each)) for each in parts]
    return max(medians) / min(medians)


def judged(
    times: Times, took_ms: list[float], around: Surroundings | None, settings: Settings, flat_out: bool
) -> list[Trust]:
    """The answers for one run; flat_out: whether it computed all the time, so that its clocks mean something."""
    found = [_steady(took_ms), _drift(times, flat_out), _resolution(times), _tail(times)]
    if around is None:
        return [*found, Trust("surroundings", None, "nobody watched the machine meanwhile")]
    return [*found, _throttling(times, around, flat_out), _temperature(around), _others(around), _quota(around),
            _governor(settings), _swap(settings)]  # fmt: skip


def _steady(took_ms: list[float]) -> Trust:
    if len(took_ms) < 2 * FEW:
        return Trust("steady speed", None, f"{len(took_ms)} calls are too few to tell")
    apart = phases(took_ms)
    if apart > STEADY:
        return Trust(
            "steady speed", False, f"tenths of the run lie {apart:.2f} times apart: the machine changed its speed"
        )
    return Trust("steady speed", True, f"tenths of the run lie within {apart:.2f} times")


def _drift(times: Times, flat_out: bool) -> Trust:
    if times.calls < 2 * FEW:
        return Trust("no drift", None, f"{times.calls} calls are too few to tell")
    if times.drift > DRIFT and flat_out:
        return Trust("no drift", False, f"the last tenth takes {times.drift:.2f} times as long as the first")
    return Trust("no drift", True, f"the last tenth takes {times.drift:.2f} times as long as the first")


def _resolution(times: Times) -> Trust:
    low, high = times.p50.low_ms, times.p50.high_ms
    if low is None or high is None:
        return Trust(
            "resolution", False, f"{times.calls} calls are too few for an interval of the median; measure longer"
        )
    half = (high - low) / 2 / times.p50.ms
    detail = f"the median is known to {half:.1%}: differences below {2 * half:.1%} are not to be seen"
    return Trust("resolution", half <= RESOLVED, detail + ("" if half <= RESOLVED else "; measure longer, or quieter"))


def _tail(times: Times) -> Trust:
    known = times.p99.high_ms is not None
    return Trust("tail", known, f"{times.calls} calls " + ("bound p99" if known else "are too few to bound p99"))


def _throttling(times: Times, around: Surroundings, flat_out: bool) -> Trust:
    if around.throttled:
        return Trust("no throttling", False, f"the kernel counted {around.throttled} events of thermal throttling")
    clocks = around.clocks_mhz
    if flat_out and len(clocks) >= 4:
        third = max(1, len(clocks) // 3)
        first, last = float(np.median(clocks[:third])), float(np.median(clocks[-third:]))
        if last < SLOWER_CLOCK * first and times.drift > SLOWER_CALLS:
            slower = (
                f"clocks fell from {first:.0f} to {last:.0f} MHz while calls became {times.drift:.2f} times as long"
            )
            return Trust("no throttling", False, slower)
        return Trust("no throttling", True, f"clocks of {first:.0f} MHz at first and {last:.0f} at last")
    if around.throttled == 0:
        return Trust("no throttling", True, "the kernel counted no event of thermal throttling")
    why = "no clocks and no counters to be read here" if flat_out else "with idle gaps a low clock tells nothing"
    return Trust("no throttling", None, why)


def _temperature(around: Surroundings) -> Trust:
    before, after = around.before.temperature_c, around.after.temperature_c
    if before is None or after is None:
        return Trust("temperature", None, "no sensor to be read here")
    return Trust("temperature", max(before, after) < HOT_C, f"{before:.0f} °C before, {after:.0f} °C after")


def _others(around: Surroundings) -> Trust:
    if around.others_cores is None:
        return Trust("alone", None, "/proc/stat cannot be read")
    detail = f"other programs kept {around.others_cores:.2f} cores busy"
    return Trust("alone", around.others_cores <= BUSY_CORES, detail)


def _quota(around: Surroundings) -> Trust:
    if around.quota_waits is None:
        return Trust("within quota", None, "no cgroup to be read here")
    return Trust(
        "within quota", not around.quota_waits, f"the quota of CPU time was used up {around.quota_waits} times"
    )


def _governor(settings: Settings) -> Trust:
    if not settings.governor:
        return Trust("governor", None, "none to be read here")
    return Trust("governor", settings.governor == "performance", settings.governor)


def _swap(settings: Settings) -> Trust:
    if settings.swap_used_mb is None:
        return Trust("no swap", None, "/proc/meminfo cannot be read")
    return Trust("no swap", settings.swap_used_mb < 1, f"{settings.swap_used_mb:.0f} MB in use")
