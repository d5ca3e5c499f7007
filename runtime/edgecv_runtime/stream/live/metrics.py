"""Metrics for Prometheus: per source and never averaged over sources, since a mean hides the one that is broken."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from edgecv_runtime import __version__
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.stream.events import STATES
from edgecv_runtime.stream.live.board import Board
from edgecv_runtime.stream.report import Percentiles, SourceReport

# Upper bounds in milliseconds: a frame at 30/s is 33, what feels immediate 100, a lost camera seconds.
_BOUNDS_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 33.0, 50.0, 67.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0)
_THERMAL = "class/thermal"

_PROC_RSS = "VmRSS:"


class Measured(Protocol):
    """What a running `Stream` measures."""

    def times(self) -> Mapping[str, tuple[Percentiles, Percentiles]]:
        """Of each source the ages of its results and the durations of inference."""
        ...

    def processes(self) -> Mapping[str, int]:
        """The process that reads a source, where it has one of its own."""
        ...


class Metrics:
    """The text that Prometheus reads, made of a board when it is asked for."""

    def __init__(self, board: Board, stream: Measured | None = None, *, sysfs: str | Path = "/sys") -> None:
        """stream: what is measured; sysfs: where temperatures are.

        Raises Unavailable without prometheus-client.
        """
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
        except ImportError as exc:
            raise Unavailable("metrics need prometheus-client", extra="page") from exc
        self._board = board
        self._stream = stream
        self._sysfs = Path(sysfs)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)

    def describe(self) -> list[Any]:
        """Nothing: names are known when they are collected."""
        return []

    def collect(self) -> Iterator[Any]:
        """The metrics of this moment."""
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        about = InfoMetricFamily("edgecv", "What runs.")
        about.add_metric([], {"version": __version__, "model": self._board.model})
        yield about
        report = self._board.report
        if report is not None:
            yield from self._of_sources(report.sources)
            yield from _of_sinks(report.sinks)
        temperature = GaugeMetricFamily(
            "edgecv_temperature_celsius", "Of the parts of this machine that say it.", labels=["zone"]
        )
        for zone, celsius in temperatures(self._sysfs):
            temperature.add_metric([zone], celsius)
        yield temperature

    def _of_sources(self, sources: tuple[SourceReport, ...]) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        read = CounterMetricFamily("edgecv_frames_read", "Frames that a source gave.", labels=["source"])
        outcome = CounterMetricFamily(
            "edgecv_frames", "Frames by what became of them, and why.", labels=["source", "outcome", "reason"]
        )
        state = GaugeMetricFamily("edgecv_source_state", "1 for the state of a source.", labels=["source", "state"])
        tries = CounterMetricFamily("edgecv_source_attempts", "Connections that were tried.", labels=["source"])
        connections = CounterMetricFamily(
            "edgecv_source_connections", "Connections that gave frames; each after the first is a reconnect.",
            labels=["source"],
        )  # fmt: skip
        damaged = CounterMetricFamily(
            "edgecv_source_damaged", "Frames or packets that a decoder reported as broken.", labels=["source"]
        )
        since = GaugeMetricFamily(
            "edgecv_result_age_seconds", "Time since the last result of a source.", labels=["source"]
        )
        ages = HistogramMetricFamily("edgecv_frame_age_seconds", "From capture to result.", labels=["source"])
        calls = HistogramMetricFamily("edgecv_inference_seconds", "The model's call alone.", labels=["source"])
        came = CounterMetricFamily(
            "edgecv_source_transitions", "How often a source came into a state.", labels=["source", "state"]
        )
        memory = GaugeMetricFamily(
            "edgecv_source_resident_memory_bytes", "Of the process that reads a source.", labels=["source"]
        )
        for (name, one), count in sorted(self._board.transitions.items()):
            came.add_metric([name, one], count)
        for name, number in (self._stream.processes() if self._stream is not None else {}).items():
            rss_bytes = resident_bytes(number)
            if rss_bytes is not None:
                memory.add_metric([name], rss_bytes)
        times = self._stream.times() if self._stream is not None else {}
        now_s = time.monotonic()
        for each in sources:
            read.add_metric([each.name], each.read)
            outcome.add_metric([each.name, "inferred", ""], each.inferred)
            outcome.add_metric([each.name, "failed", ""], each.failed)
            for reason, count in sorted(each.dropped.items()):
                outcome.add_metric([each.name, "dropped", reason], count)
            for one in STATES:
                state.add_metric([each.name, one], float(each.state == one))
            tries.add_metric([each.name], each.attempts)
            connections.add_metric([each.name], each.connections)
            damaged.add_metric([each.name], each.damaged)
            age_s = self._board.health.age_s(each.name, now_s)
            if age_s is not None:
                since.add_metric([each.name], age_s)
            if each.name in times:
                for family, spread in zip((ages, calls), times[each.name], strict=True):
                    buckets = [(f"{bound / 1e3:g}", count) for bound, count in spread.below(_BOUNDS_MS)]
                    family.add_metric([each.name], [*buckets, ("+Inf", spread.runs)], spread.total_ms / 1e3)
        yield from (read, outcome, state, came, tries, connections, damaged, since, memory, ages, calls)


def _of_sinks(sinks: tuple[Any, ...]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    outcome = CounterMetricFamily(
        "edgecv_sink_results", "Results by what became of them, and why.", labels=["sink", "outcome", "reason"]
    )
    is_up = GaugeMetricFamily("edgecv_sink_up", "1 while a sink works.", labels=["sink"])
    for each in sinks:
        outcome.add_metric([each.name, "delivered", ""], each.delivered)
        outcome.add_metric([each.name, "failed", ""], each.failed)
        for reason, count in sorted(each.dropped.items()):
            outcome.add_metric([each.name, "dropped", reason], count)
        is_up.add_metric([each.name], float(each.state == "up"))
    yield from (outcome, is_up)


def resident_bytes(process_id: int) -> int | None:
    """Memory of a process as Linux counts it, None where it has ended or cannot be asked."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(_PROC_RSS)]
    return int(found[0][1]) * 1024 if found else None


def temperatures(sysfs: Path) -> Iterator[tuple[str, float]]:
    """(zone, °C) of Linux' thermal zones below `sysfs`; two of one name are told apart by their number."""
    seen: set[str] = set()
    for zone in sorted((sysfs / _THERMAL).glob("thermal_zone*")):
        try:
            name = (zone / "type").read_text().strip()
            celsius = int((zone / "temp").read_text()) / 1000
        except (OSError, ValueError):  # a zone whose sensor is off says so when it is read
            continue
        name = f"{name} {zone.name.removeprefix('thermal_zone')}" if name in seen else name
        seen.add(name)
        yield name, celsius
