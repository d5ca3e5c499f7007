"""A stream under faults for a given time, and what became of memory, descriptors, threads, ages and the account."""

from __future__ import annotations

import logging
import os
import signal
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from edgecv_runtime.errors import EdgecvError
from edgecv_runtime.records import Record
from edgecv_runtime.stream.engine import Model
from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.loop import Stream
from edgecv_runtime.stream.report import Percentiles, Spread, StreamReport
from edgecv_runtime.stream.settings import Settings
from edgecv_runtime.stream.sinks.base import Output, Sink
from edgecv_runtime.stream.sources import Source, open_source
from edgecv_runtime.stream.sources.isolated import AVAILABLE, Isolated

# Scripted cameras that freeze, fail, hang up and set their clocks; each begins its script anew when it is connected.
SCRIPTS = (
    "test://?fps=25&size=640x480&400&freeze=3.5&200&fail",
    "test://?fps=15&size=640x480&300&end",
    "test://?fps=10&size=320x240&100&jump=-3600&100&size=640x360&100&fail",
)
ISOLATED = "test://?fps=25&size=640x480&100000&"
MOST_MB_PER_MINUTE = 1.0  # growth of memory after the warm-up
MOST_MORE = 16  # files and threads at the end than after the warm-up; a camera that is just coming back has some
MOST_AGE_MS = 5000.0  # of any result: a stream that is bounded never shows what is seconds old
_WARM = 0.25  # of the time, for caches and arenas to fill
_SAMPLE_S = 1.0
_MEBI = 1 << 20


class Recovery(Record, frozen=True):
    """How often a source was lost and came back, and how long that took, in seconds."""

    source: str
    count: int
    median_s: float | None
    worst_s: float | None


class Soak(Record, frozen=True):
    """What a soak found.

    report: the account, which closed; killed: decoders' processes that were killed on purpose.
    rss_mb: memory of this process at the end of the warm-up and at the end; rss_mb_per_minute: its slope between (least
    squares), None where the system does not tell. descriptors, threads: at the same two moments.
    age_early, age_late: of results, in the first and in the last half after the warm-up.
    errors: what was logged as an error meanwhile, first lines.
    """

    minutes: float
    report: StreamReport
    recoveries: tuple[Recovery, ...]
    killed: int
    rss_mb: tuple[int, int] | None
    rss_mb_per_minute: float | None
    descriptors: tuple[int, int] | None
    threads: tuple[int, int]
    age_early: Spread | None
    age_late: Spread | None
    errors: tuple[str, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """One line for each thing that a stream which runs for months must not do."""
        found = []
        slope = self.rss_mb_per_minute
        if slope is not None and slope > MOST_MB_PER_MINUTE:
            found.append(f"memory grows by {slope:.2f} MB a minute, more than {MOST_MB_PER_MINUTE:g}")
        oldest_ms = max((each.max_ms for each in (self.age_early, self.age_late) if each is not None), default=0.0)
        if oldest_ms > MOST_AGE_MS:
            found.append(f"a result was {oldest_ms / 1e3:.1f} s old, more than {MOST_AGE_MS / 1e3:g}")
        for name, ends in (("open files", self.descriptors), ("threads", self.threads)):
            if ends is not None and ends[1] - ends[0] > MOST_MORE:
                found.append(f"{name} grew from {ends[0]} to {ends[1]}")
        if self.errors:
            found.append(f"{len(self.errors)} errors were logged, the first: {self.errors[0]}")
        if self.report.gave_up or self.report.hung:
            found.append(f"the model failed: {self.report.first_failure or 'it hangs'}")
        return (*found, *(f"{each.name}: gave no frame" for each in self.report.sources if not each.inferred))

    def check(self) -> None:
        """Raise EdgecvError when something was wrong."""
        if self.failures:
            raise EdgecvError("; ".join(self.failures))


def soak(
    model: Model,
    sources: Sequence[str | Source] = (),
    *,
    minutes: float = 3.0,
    kill_every_s: float = 15.0,
    stop: threading.Event | None = None,
    settings: Settings | None = None,
) -> Soak:
    """Run a model on sources, and on scripted cameras that fail, while decoders' processes are killed in turn.

    sources: besides the scripted ones; minutes: for how long; kill_every_s: from one kill to the next. Raises BadInput,
    and LedgerError if a frame were lost.
    """
    scripted: list[str | Source] = [*SCRIPTS]
    scripted += [Isolated(open_source(ISOLATED))] if AVAILABLE else []
    ages = _Ages(minutes)
    running = Stream(model, [*sources, *scripted], [ages], settings)
    recoveries = _Recoveries()
    running.journal.subscribe(recoveries.note)
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    over = threading.Event()
    watcher = _Watcher(running, minutes, kill_every_s, stop or threading.Event(), over)
    watcher.start()
    try:
        report = running.run(over)
    finally:
        over.set()
        watcher.join()
        logging.getLogger().removeHandler(errors)
    return Soak(
        minutes=round(report.wall_s / 60, 3),
        report=report,
        recoveries=recoveries.found(),
        killed=watcher.killed,
        rss_mb=watcher.ends_of("rss_mb"),
        rss_mb_per_minute=watcher.slope(),
        descriptors=watcher.ends_of("descriptors"),
        threads=watcher.ends_of("threads") or (0, 0),
        age_early=ages.early.spread(),
        age_late=ages.late.spread(),
        errors=tuple(errors.lines),
    )


class _Ages(Sink):
    """Ages of results in two halves, after the warm-up."""

    name = "ages"

    def __init__(self, minutes: float) -> None:
        self.early, self.late = Percentiles(), Percentiles()
        self._start_s = time.monotonic()
        self._length_s = minutes * 60

    def write(self, output: Output) -> None:
        part = (time.monotonic() - self._start_s) / self._length_s
        if part > _WARM:
            (self.early if part < (1 + _WARM) / 2 else self.late).add(output.age_ms)

    def close(self) -> None:
        pass


class _Recoveries:
    """Times from the first sign of trouble to the next live frame, by source."""

    def __init__(self) -> None:
        self._lost_ns: dict[str, int] = {}
        self._times_s: dict[str, list[float]] = {}

    def note(self, event: Event) -> None:
        if event.about != "source":
            return
        if event.state in ("stalled", "backing off"):
            self._lost_ns.setdefault(event.name, event.monotonic_ns)
        elif event.state == "live" and event.name in self._lost_ns:
            lost_ns = self._lost_ns.pop(event.name)
            self._times_s.setdefault(event.name, []).append((event.monotonic_ns - lost_ns) / 1e9)

    def found(self) -> tuple[Recovery, ...]:
        return tuple(
            Recovery(name, len(times_s), round(statistics.median(times_s), 3), round(max(times_s), 3))
            for name, times_s in sorted(self._times_s.items())
        )


class _Errors(logging.Handler):
    """What is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.lines) < 100:
            self.lines.append(record.getMessage().splitlines()[0])


class _Watcher(threading.Thread):
    """Samples the process, kills decoders in turn, and ends the run when its time is over."""

    def __init__(
        self, running: Stream, minutes: float, kill_every_s: float, stop: threading.Event, over: threading.Event
    ) -> None:
        super().__init__(name="edgecv-soak", daemon=True)
        self.killed = 0
        self._running, self._stop_asked, self._over = running, stop, over
        self._end_s = time.monotonic() + minutes * 60
        self._warm_s = time.monotonic() + minutes * 60 * _WARM
        self._kill_every_s = kill_every_s
        self._samples: list[tuple[float, dict[str, float | None]]] = []

    def run(self) -> None:
        kill_s = time.monotonic() + self._kill_every_s
        while not self._over.wait(_SAMPLE_S):
            now_s = time.monotonic()
            if now_s > self._end_s or self._stop_asked.is_set():
                self._over.set()
            if now_s > self._warm_s:
                self._samples.append((now_s, _sample()))
            if now_s > kill_s:
                kill_s = now_s + self._kill_every_s
                self._kill()

    def ends_of(self, name: str) -> tuple[int, int] | None:
        """A figure at the end of the warm-up and at the end."""
        values = [sample[name] for _, sample in self._samples if sample[name] is not None]
        return (round(values[0] or 0), round(values[-1] or 0)) if values else None

    def slope(self) -> float | None:
        """Growth of the memory in MB a minute, None for fewer than three samples."""
        points = [(moment_s, sample["rss_mb"]) for moment_s, sample in self._samples]
        known = [(moment_s / 60, rss_mb) for moment_s, rss_mb in points if rss_mb is not None]
        if len(known) < 3:
            return None
        slope, _ = statistics.linear_regression(*zip(*known, strict=True))
        return round(slope, 3)

    def _kill(self) -> None:
        children = [camera.source.process_id for camera in self._running.cameras if isinstance(camera.source, Isolated)]
        alive = [child for child in children if child is not None]
        if alive:
            number = signal.SIGKILL if self.killed % 2 else signal.SIGSEGV
            try:
                os.kill(alive[self.killed % len(alive)], number)
            except ProcessLookupError:  # it ended by itself in this moment
                return
            self.killed += 1


def _sample() -> dict[str, float | None]:
    """Memory, descriptors and threads of this process now; None where the system does not tell."""
    rss_mb: float | None = None
    descriptors: float | None = None
    statm, opened = Path("/proc/self/statm"), Path("/proc/self/fd")
    if statm.exists():
        rss_mb = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / _MEBI
        descriptors = sum(1 for _ in opened.iterdir())
    return {"rss_mb": rss_mb, "descriptors": descriptors, "threads": threading.active_count()}
