"""The latest of every source, for whoever looks: nothing is drawn or encoded before somebody does."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from typing import Any

import numpy as np

from edgecv_runtime.errors import ComputationError
from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.live.health import Health
from edgecv_runtime.stream.redact import redact
from edgecv_runtime.stream.report import StreamReport
from edgecv_runtime.stream.sinks.base import Output, Sink
from edgecv_runtime.stream.sinks.jsonlines import wall_clock

_EVENTS = 50  # that the page lists
_WIDEST = 960  # pixels of a picture on the page
_QUALITY = 75


class Board:
    """What is known of a run at the moment; every method may be called by any thread."""

    def __init__(self, health: Health | None = None, model: str = "") -> None:
        """health: watches the same reports; model: what the page calls the model."""
        self.health = health or Health()
        self.model = model
        self._lock = threading.Lock()
        self._latest: dict[str, Output] = {}
        self._pictures: dict[str, tuple[Output, bytes]] = {}
        self._encoding = threading.Lock()  # one picture at a time: watching must not take the model's cores
        self._report: StreamReport | None = None
        self._events: deque[Event] = deque(maxlen=_EVENTS)
        self._transitions: Counter[tuple[str, str]] = Counter()
        self._reasons: dict[str, str] = {}  # why a source is in its state
        self._rates: dict[str, tuple[int, float, float]] = {}  # results, when, results a second

    @property
    def report(self) -> StreamReport | None:
        """The last one, None before the first."""
        return self._report

    def show(self, output: Output) -> None:
        """A result has come."""
        with self._lock:
            self._latest[output.frame.source] = output

    def note(self, event: Event) -> None:
        """Something has happened."""
        with self._lock:
            self._events.append(event)
            if event.about == "source":
                self._transitions[event.name, event.state] += 1
                self._reasons[event.name] = "" if event.state == "live" else redact(event.reason)

    def look(self, report: StreamReport) -> None:
        """Take the run's report; to be called about twice a second."""
        now_s = time.monotonic()
        self.health.look(report, now_s)
        with self._lock:
            self._report = report
            for source in report.sources:
                count, then_s, rate = self._rates.get(source.name, (source.inferred, now_s, 0.0))
                if now_s - then_s >= 1.0:
                    rate = (source.inferred - count) / (now_s - then_s)
                    count, then_s = source.inferred, now_s
                self._rates[source.name] = count, then_s, rate

    @property
    def transitions(self) -> dict[tuple[str, str], int]:
        """How often each source came into each state."""
        with self._lock:
            return dict(self._transitions)

    def state(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        now_s, now_ns = time.monotonic(), time.monotonic_ns()
        with self._lock:
            report, events, latest = self._report, list(self._events), dict(self._latest)
            reasons = dict(self._reasons)
            rates = {name: rate for name, (_, _, rate) in self._rates.items()}
        sources = []
        for number, source in enumerate(report.sources if report is not None else ()):
            output = latest.get(source.name)
            ready = self.health.ready(now_s, source.name)
            sources.append(
                {
                    "number": number,
                    "name": source.name,
                    "state": source.state,
                    "recent": ready.ok,
                    "detail": source.detail or reasons.get(source.name, ""),
                    "frame_age_s": None if output is None else (now_ns - output.frame.captured_ns) / 1e9,
                    "index": None if output is None else output.frame.index,
                    "result_age_ms": None if output is None else output.age_ms,
                    "result": "" if output is None else str(output.result),
                    "rate": rates.get(source.name, 0.0),
                    "age_p99_ms": source.age.p99_ms if source.age else None,
                    "read": source.read,
                    "inferred": source.inferred,
                    "dropped": sum(source.dropped.values()),
                    "failed": source.failed,
                    "connections": source.connections,
                }
            )
        sinks = [
            {"name": sink.name, "state": sink.state, "delivered": sink.delivered, "failed": sink.failed}
            for sink in (report.sinks if report is not None else ())
        ]
        told = [
            {"time": wall_clock(event.unix_s), "about": event.about, "name": event.name, "state": event.state}
            | {"reason": redact(event.reason)}
            for event in reversed(events)
        ]
        alive = self.health.alive(now_s)
        return {"model": self.model, "alive": alive.ok, "sources": sources, "sinks": sinks, "events": told}

    def index_of(self, number: int) -> int | None:
        """The index of the latest frame of a source, by its number in `state`; None without one."""
        output = self._output(number)
        return None if output is None else output.frame.index

    def picture(self, number: int) -> bytes | None:
        """The latest frame of a source with its result, as JPEG; None before the first. Waits for its turn."""
        output = self._output(number)
        if output is None:
            return None
        name = output.frame.source
        with self._encoding:
            known = self._pictures.get(name)
            if known is not None and known[0] is output:
                return known[1]
            picture = _jpeg(output)
            self._pictures[name] = output, picture
            return picture

    def _output(self, number: int) -> Output | None:
        with self._lock:
            sources = self._report.sources if self._report is not None else ()
            return self._latest.get(sources[number].name) if 0 <= number < len(sources) else None


class BoardSink(Sink):
    """Puts every result and event on a board."""

    def __init__(self, board: Board) -> None:
        self.name = "page"
        self._board = board

    def write(self, output: Output) -> None:
        """Keep the latest."""
        self._board.show(output)

    def event(self, event: Event) -> None:
        """Keep the last ones."""
        self._board.note(event)

    def close(self) -> None:
        """The board stays as it is."""


def _jpeg(output: Output) -> bytes:
    """Drawn in full size, as a video is, and then made smaller."""
    import cv2

    picture = output.result.draw(output.frame.image)
    height, width = picture.shape[:2]
    if width > _WIDEST:
        size = _WIDEST, max(1, round(height * _WIDEST / width))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise ComputationError("a picture could not be encoded")
    return bytes(data)
