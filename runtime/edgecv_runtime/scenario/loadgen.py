"""Scenarios by LoadGen, the load generator of MLCommons: it decides when frames come, keeps time, and judges.

Its name may be written, that of the benchmark it was made for may not: every run here is "unofficial".
"""

from __future__ import annotations

import json
import queue
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from edgecv_runtime.errors import ComputationError, Unavailable
from edgecv_runtime.scenario.messages import Block
from edgecv_runtime.scenario.plan import LOADGEN, RULES_S, Plan

Call = Callable[[Sequence[int]], object]  # computes the inputs of these numbers, as one call

TOLD_EVERY_S, TOLD_CALLS = 10.0, 1000  # at most: telling takes the interpreter from what is measured
SAMPLES_A_QUERY = 8  # of multi-stream, by its rules
RULES_SAMPLES = 24_576  # of offline, by its rules
_KEPT = (
    "effective_scenario", "effective_min_duration_ms", "effective_min_query_count", "effective_target_qps",
    "effective_target_latency_ns", "effective_target_latency_percentile", "effective_samples_per_query",
    "effective_performance_sample_count", "result_validity", "result_invalid_reason", "result_perf_constraints_met",
    "result_min_duration_met", "result_min_queries_met", "early_stopping_met", "early_stopping_result",
    "result_query_count", "result_overlatency_query_count", "result_samples_per_second",
    "result_completed_samples_per_sec", "result_scheduled_samples_per_sec", "result_qps_with_loadgen_overhead",
    "result_qps_without_loadgen_overhead", "result_min_latency_ns", "result_max_latency_ns", "result_mean_latency_ns",
    "result_50.00_percentile_latency_ns", "result_90.00_percentile_latency_ns", "result_95.00_percentile_latency_ns",
    "result_97.00_percentile_latency_ns", "result_99.00_percentile_latency_ns", "result_99.90_percentile_latency_ns",
    "power_begin", "power_end", "loadgen_version", "num_errors",
)  # fmt: skip


def module() -> Any:
    """LoadGen's Python module; raises Unavailable with the command that installs it."""
    try:
        import mlperf_loadgen
    except ImportError as exc:
        raise Unavailable("scenarios by LoadGen need mlcommons-loadgen", extra="referee") from exc
    return mlperf_loadgen


def play(
    act: str,
    call: Call,
    inputs: int,
    plan: Plan,
    seconds: float,
    call_s: float,
    streams: int,
    tell: Callable[[Block], object] = lambda _: None,
) -> tuple[Block, int, dict[str, Any]]:
    """Play a scenario -> every call's times as LoadGen took them, the frames computed, and what it logged.

    inputs: how many there are to choose from. call_s: what a call takes, about. streams: calls that compute at once,
    of "offline" and "server". Latency is from the moment at which a request was due. Of "offline", whose requests are
    all due at once, it is each call's own. tell: is given calls' own times meanwhile, for who interrupts it.
    """
    lg = module()
    settings = _settings(lg, act, plan, seconds, call_s, streams)
    with tempfile.TemporaryDirectory(prefix="edgecv-loadgen-") as folder:
        output = lg.LogOutputSettings()
        output.outdir = folder
        output.copy_summary_to_stdout = False
        log = lg.LogSettings()
        log.log_output = output
        log.enable_trace = act != "offline"
        own_threads = streams if act in ("offline", "server") else 0
        under_test = _UnderTest(lg, call, plan.calls, own_threads, tell, min(TOLD_EVERY_S, seconds / 5))
        library = lg.ConstructQSL(inputs, inputs, lambda _: None, lambda _: None)
        system = lg.ConstructSUT(under_test.issue, lambda: None)
        try:
            lg.StartTestWithLogSettings(system, library, settings, log)
        finally:
            under_test.close()
            lg.DestroyQSL(library)
            lg.DestroySUT(system)
        if under_test.failed is not None:
            raise under_test.failed
        found = _logged(Path(folder) / "mlperf_log_detail.txt")
        block = under_test.told() if act == "offline" else _traced(Path(folder) / "mlperf_log_trace.json")
    return block, under_test.frames, found


def moments(found: dict[str, Any]) -> tuple[float, float]:
    """LoadGen's power_begin and power_end as seconds of the wall clock; it writes local time, the player's is UTC."""
    begin, end = (
        datetime.strptime(found[key], "%m-%d-%Y %H:%M:%S.%f").replace(tzinfo=timezone.utc).timestamp()
        for key in ("power_begin", "power_end")
    )
    return begin, end


def _settings(lg: Any, act: str, plan: Plan, seconds: float, call_s: float, streams: int) -> Any:
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, LOADGEN[act])
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1e3 * (RULES_S if plan.rules else seconds))
    settings.min_query_count = 1 if act == "offline" else 100
    # queries are drawn beforehand, so many that a machine of four times the speed does not run out of them
    expected_ns = max(1, round(1e9 * call_s / 4))
    settings.single_stream_expected_latency_ns = expected_ns
    settings.multi_stream_expected_latency_ns = expected_ns
    settings.multi_stream_samples_per_query = SAMPLES_A_QUERY
    settings.offline_expected_qps = max(1.0, streams * plan.calls / call_s)
    if act == "offline" and plan.rules:
        settings.min_query_count = RULES_SAMPLES
    if act == "server":
        settings.server_target_qps = plan.qps
        settings.server_target_latency_ns = round(plan.bound_ms * 1e6)
    return settings


class _UnderTest:
    """What LoadGen asks: it computes in the asking thread, or, with streams, in threads of its own."""

    def __init__(
        self, lg: Any, call: Call, calls: int, streams: int, tell: Callable[[Block], object], every_s: float
    ) -> None:
        self.failed: BaseException | None = None
        self.frames = 0
        self._lg, self._call, self._calls = lg, call, calls
        self._tell, self._every_s = tell, every_s
        self._begun = 0.0  # when the first was asked
        self._times = array("d")  # begin, end of each call in turn; small, as the process's memory is measured
        self._over = threading.Event()
        self._waiting: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(streams)]
        self._teller = threading.Thread(target=self._tell_meanwhile, daemon=True)
        for thread in (*self._threads, self._teller):
            thread.start()

    def issue(self, queries: list[Any]) -> None:
        self._begun = self._begun or time.perf_counter()
        self.frames += len(queries)
        for start in range(0, len(queries), self._calls):
            some = queries[start : start + self._calls]
            if self._threads:
                self._waiting.put(some)
            else:
                self._compute(some)

    def close(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        self._over.set()
        for thread in (*self._threads, self._teller):
            thread.join()

    def told(self) -> Block:
        """The calls' own times."""
        return self._block(self._times)

    def _tell_meanwhile(self) -> None:
        told = 0
        while not self._over.wait(self._every_s):
            while new := self._times[told : told + 2 * TOLD_CALLS]:
                self._tell(msgspec.structs.replace(self._block(new), so_far=True))
                told += len(new)

    def _block(self, times: array[float]) -> Block:
        calls = sorted(zip(times[::2], times[1::2], strict=True))
        return Block([start - self._begun for start, _ in calls], [1e3 * (end - start) for start, end in calls])

    def _work(self) -> None:
        while (some := self._waiting.get()) is not None:
            self._compute(some)

    def _compute(self, queries: list[Any]) -> None:
        start = time.perf_counter()
        if self.failed is None:
            try:
                self._call([query.index for query in queries])
            except BaseException as exc:  # through LoadGen's own code an exception would end the process
                self.failed = exc
        else:
            time.sleep(1e-3)  # so that what is left is over soon, and is not a flood
        self._times.extend((start, time.perf_counter()))
        self._lg.QuerySamplesComplete([self._lg.QuerySampleResponse(query.id, 0, 0) for query in queries])


def _logged(path: Path) -> dict[str, Any]:
    """What LoadGen's log says, of the keys that are kept."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines():
        if line.startswith(":::MLLOG "):
            entry = json.loads(line.removeprefix(":::MLLOG "))
            if entry["key"] in _KEPT:
                found[entry["key"]] = entry["value"]
    missing = [key for key in ("result_validity", "power_begin", "power_end") if key not in found]
    if missing:
        raise ComputationError(f"LoadGen ended without a result: its log lacks {', '.join(missing)}")
    return found


def _traced(path: Path) -> Block:
    """Each query's latency from LoadGen's trace: from when it was due to the end of its last sample."""
    due: dict[int, float] = {}
    took: dict[int, float] = {}
    for line in path.open():
        if line.startswith('{"name":"Sample",') and '"ph":"b"' in line:
            event = json.loads(line.rstrip().rstrip(","))
            number = event["args"]["query_seq"]
            due[number] = min(event["ts"], due.get(number, event["ts"]))
            took[number] = max(event["args"]["complete_ns"], took.get(number, 0))
    order = sorted(due, key=lambda number: due[number])
    first = due[order[0]] if order else 0.0
    return Block([(due[each] - first) / 1e6 for each in order], [took[each] / 1e6 for each in order])
