"""The loop: frames from sources through a model into sinks, with every frame accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from edgecv_runtime import signals
from edgecv_runtime.errors import BadInput
from edgecv_runtime.preprocess import Image
from edgecv_runtime.stream.buffer import WhenLate
from edgecv_runtime.stream.camera import Camera
from edgecv_runtime.stream.delivery import Delivery
from edgecv_runtime.stream.events import Event, Journal
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.ledger import Ledger
from edgecv_runtime.stream.redact import redact
from edgecv_runtime.stream.report import Percentiles, SourceReport, StreamReport
from edgecv_runtime.stream.sinks.base import Output, Sink
from edgecv_runtime.stream.sources import Source, open_source

Model = Callable[[Image], Any]

_POLL_S = 0.1  # how soon a set `stop` is seen
_PROGRESS_S = 0.5  # least time between two calls of `on_progress`
_STOP_S = 1.5  # how long a stop waits for sinks to flush and cameras to let go, together


def run(
    model: Model,
    sources: str | int | Path | Source | Sequence[str | int | Path | Source],
    sinks: Sequence[Sink] = (),
    *,
    when_late: WhenLate | Literal["auto"] = "auto",
    max_frames: int | None = None,
    stop: threading.Event | None = None,
    on_progress: Callable[[StreamReport], object] | None = None,
    on_event: Callable[[Event], object] | None = None,
    max_failures: int = 30,
) -> StreamReport:
    """Run a model on every frame of one or several sources and hand the results to sinks, until all sources end.

    model: (H, W, 3) uint8 BGR -> a result with `draw` and `as_dict` (see tasks.Result); it is called by this thread.
    sources: what `open_source` takes, or sources; each is read by a thread of its own, served in turn, and closed.
    sinks: each in a thread of its own, and closed; results of cameras are dropped, counted, when a sink is too slow.
    when_late: "drop-oldest", "drop-newest", "wait"; "auto": cameras drop the oldest, recordings wait.
    max_frames: end each source after this many frames went through the model.
    stop: when set, the run ends in order within 2 s, whatever the sources are doing (see `stop_on_signals`).
    on_progress: called about twice a second with the report so far.
    on_event: called with each event as it comes (a source connects, is live, ends, ...), by the thread it happens in.
    max_failures: failures of the model in a row that end the run.
    Raises BadInput for sources or sinks that cannot be used; every later trouble stands in the report, whose `check()`
    raises it and whose `exit_code` says it. Raises LedgerError if a frame were lost.
    """
    given = [sources] if isinstance(sources, (str, int, Path, Source)) else list(sources)
    if not given:
        raise BadInput("no sources: expected at least one camera, URL, video file or folder")
    if max_frames is not None and max_frames < 1:
        raise BadInput(f"max_frames must be at least 1, got {max_frames}")
    opened = [source if isinstance(source, Source) else open_source(source) for source in given]
    if len(set(map(id, opened))) < len(opened):
        raise BadInput("the same source was given twice; open_source gives a new one each time")
    names = _unique([source.name for source in opened])
    for sink in sinks:
        sink.start(names)
    for name, source in zip(names, opened, strict=True):
        source.name = name
    journal = Journal()
    if on_event is not None:
        journal.subscribe(on_event)
    this = _Run(model, opened, sinks, when_late, max_frames, stop or threading.Event(), max_failures, journal)
    return this.until_all_ended(on_progress)


class SignalEvent(threading.Event):
    """An event that knows which signal set it: `signum`, None before."""

    signum: int | None = None


@contextmanager
def stop_on_signals(*numbers: int) -> Iterator[SignalEvent]:
    """An event for `run(stop=...)` that SIGTERM and SIGINT (or the given ones) set; in the main thread only.

    A second signal does what it would have done without.
    """
    stop = SignalEvent()

    def note(number: int) -> None:
        stop.signum = number
        stop.set()

    with signals.at_first(note, *numbers):
        yield stop


class _Lane:
    """One source: its camera, and what is measured of it."""

    def __init__(self, camera: Camera, max_frames: int | None) -> None:
        self.camera = camera
        self.max_frames = max_frames
        self.age = Percentiles()
        self.inference = Percentiles()
        self.taken = 0
        self.first_ns = 0
        self.last_ns = 0

    @property
    def name(self) -> str:
        return self.camera.name

    def report(self) -> SourceReport:
        camera, counts = self.camera, self.camera.account.as_dict()
        span_s = (self.last_ns - self.first_ns) / 1e9
        detail = camera.detail
        if camera.abandoned:
            detail = f"inside a read or an open, which ends by itself within {camera.source.timeout_s:g} s"
        return SourceReport(
            name=self.name,
            live=camera.facts.live,
            when_late=camera.when_late,
            read=counts["read"],
            inferred=counts["inferred"],
            dropped=counts["dropped"],
            failed=counts["failed"],
            in_flight=counts["in_flight"],
            fps=(counts["inferred"] - 1) / span_s if counts["inferred"] > 1 and span_s > 0 else None,
            age=self.age.spread(),
            inference=self.inference.spread(),
            declared_frames=camera.facts.declared_frames,
            damaged=camera.damaged,
            first_damaged=camera.end.first_damaged if camera.end is not None else None,
            ended=camera.ended or "running",
            detail=detail,
            error_code=camera.end.exit_code if camera.end is not None else 0,
        )


class _Run:
    """The state of one run; everything here happens in the caller's thread."""

    def __init__(
        self,
        model: Model,
        sources: Sequence[Source],
        sinks: Sequence[Sink],
        when_late: WhenLate | Literal["auto"],
        max_frames: int | None,
        stop: threading.Event,
        max_failures: int,
        journal: Journal,
    ) -> None:
        self.model = model
        self.model_name = identity(model)
        self.stop = stop
        self.max_failures = max_failures
        self.start_s = time.monotonic()
        self.changed = threading.Condition()  # a frame has come, a source has ended, a sink has given up
        self.ledger = Ledger()
        self.first_failure: str | None = None
        self.failures_in_a_row = 0
        self.gave_up = False
        self.lanes = []
        for source in sources:
            camera = Camera(
                source,
                when_late=when_late,
                max_frames=max_frames,
                account=self.ledger.add_source(source.name),
                journal=journal,
                changed=self.changed,
            )
            self.lanes.append(_Lane(camera, max_frames))
        names = _unique([sink.name for sink in sinks])
        accounts = [self.ledger.add_sink(name) for name in names]
        self.deliveries = [Delivery(sink, account, self.changed) for sink, account in zip(sinks, accounts, strict=True)]
        for delivery in self.deliveries:
            journal.subscribe(delivery.tell)

    def until_all_ended(self, on_progress: Callable[[StreamReport], object] | None) -> StreamReport:
        told_s = self.start_s
        try:
            for lane in self.lanes:
                lane.camera.start()
            for lane, frame in self._frames():
                if frame is not None:
                    self._infer(lane, frame)
                if on_progress is not None and time.monotonic() - told_s >= _PROGRESS_S:
                    told_s = time.monotonic()
                    on_progress(self._report())
            self._finish_sinks()
        finally:
            self._close()
        self.ledger.check(final=True)
        return self._report()

    def _frames(self) -> Iterator[tuple[_Lane, Frame | None]]:
        """The next frame of each source in turn (None when none comes), until all ended or something ends the run."""
        turn = 0
        while not self._ending():
            for step in range(len(self.lanes)):
                lane = self.lanes[(turn + step) % len(self.lanes)]
                frame = lane.camera.take()
                if frame is not None:
                    turn += step + 1
                    yield lane, frame
                    break
            else:
                with self.changed:
                    if not self._ending() and not any(lane.camera.waiting for lane in self.lanes):
                        self.changed.wait(_POLL_S)
                yield self.lanes[0], None

    def _ending(self) -> bool:
        return (
            self.stop.is_set()
            or self.gave_up
            or self._no_sink_left()
            or any(delivery.stop_asked for delivery in self.deliveries)
            or all(lane.camera.finished for lane in self.lanes)
        )

    def _no_sink_left(self) -> bool:
        return bool(self.deliveries) and all(delivery.given_up for delivery in self.deliveries)

    def _infer(self, lane: _Lane, frame: Frame) -> None:
        start_ns = time.monotonic_ns()
        try:
            result = self.model(frame.image)
        except Exception as exc:  # a model may raise anything; the frame counts as failed
            self._failed(lane, frame, exc)
        else:
            now_ns = time.monotonic_ns()
            self.failures_in_a_row = 0
            age_ms = (now_ns - frame.captured_ns) / 1e6
            output = Output(frame, result, age_ms, time.time() - age_ms / 1e3, self.model_name)
            lane.age.add(age_ms)
            lane.inference.add((now_ns - start_ns) / 1e6)
            lane.first_ns, lane.last_ns = lane.first_ns or now_ns, now_ns
            self.ledger.inferred(lane.name, frame.index)
            for delivery in self.deliveries:
                delivery.put(output, wait=lane.camera.when_late == "wait", stop=self.stop)
        lane.taken += 1
        if lane.taken == lane.max_frames:
            lane.camera.stop("max_frames")

    def _failed(self, lane: _Lane, frame: Frame, exc: Exception) -> None:
        lane.camera.account.failed(frame.index)
        self.first_failure = self.first_failure or redact(f"{type(exc).__name__}: {exc}")
        self.failures_in_a_row += 1
        self.gave_up = self.failures_in_a_row >= self.max_failures

    def _finish_sinks(self) -> None:
        """Let the sinks take what waits; without end, as long as nobody stops the run."""
        for delivery in self.deliveries:
            delivery.finish()
        for delivery in self.deliveries:
            while not delivery.join(_POLL_S) and not self.stop.is_set():
                pass

    def _close(self) -> None:
        """Stop what still runs, in bounded time."""
        end_s = time.monotonic() + _STOP_S
        for lane in self.lanes:
            if self.gave_up:
                lane.camera.stop("error", f"the model failed for {self.failures_in_a_row} frames in a row")
            elif self._no_sink_left():
                lane.camera.stop("error", "every sink failed")
            else:
                lane.camera.stop()
        for delivery in self.deliveries:
            delivery.finish()
        for delivery in self.deliveries:
            if not delivery.join(max(0.0, end_s - time.monotonic())):
                delivery.abandon(f"did not finish within {_STOP_S} s of the stop")
        for lane in self.lanes:
            lane.camera.join(max(0.0, end_s - time.monotonic()))

    def _report(self) -> StreamReport:
        return StreamReport(
            sources=tuple(lane.report() for lane in self.lanes),
            sinks=tuple(delivery.report() for delivery in self.deliveries),
            wall_s=time.monotonic() - self.start_s,
            first_failure=self.first_failure,
            gave_up=self.gave_up,
        )


def identity(model: object) -> str:
    """What a model is called in outputs: its name and variant, or the name of the function that it is."""
    info = getattr(model, "info", None)
    if info is not None:
        return f"{info.name} {info.variant}"
    return str(getattr(model, "__name__", type(model).__name__))


def _unique(names: Sequence[str]) -> list[str]:
    """The same names, the second of two equal ones as `name#2`."""
    return [
        name if names[:at].count(name) == 0 else f"{name}#{names[:at].count(name) + 1}" for at, name in enumerate(names)
    ]
