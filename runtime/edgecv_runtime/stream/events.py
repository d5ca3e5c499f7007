"""What happens in a stream, as it happens: the one way out of cameras, sinks and the model to whoever wants to know."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from edgecv_runtime.records import Record

# Of a source.
State = Literal["connecting", "live", "degraded", "stalled", "backing off", "failed", "ended"]
# Of a sink, and of the model.
SinkState = Literal["up", "down"]
ModelState = Literal["exchanged", "kept", "hanging"]
STATES: tuple[State, ...] = ("connecting", "live", "degraded", "stalled", "backing off", "failed", "ended")

_KEPT = 1000  # events that a journal remembers

logger = logging.getLogger("edgecv")


class Event(Record, frozen=True):
    """One thing that happened.

    about: "source", "sink" or "model"; name: which one, free of passwords; state: what it is in now; reason: why, in
    one line. attempt: connections of the source so far, tries of the sink.
    monotonic_ns: `time.monotonic_ns()`, for differences; unix_s: the wall clock, for people.
    """

    about: Literal["source", "sink", "model"]
    name: str
    state: State | SinkState | ModelState
    reason: str
    attempt: int
    monotonic_ns: int
    unix_s: float

    def __str__(self) -> str:
        return f"{self.name}: {self.state}{': ' if self.reason else ''}{self.reason}"


class Journal:
    """Takes events from any thread and tells them to its listeners, in the thread that they come from.

    A listener must not wait; one that raises is logged and does not disturb what it listens to.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=_KEPT)
        self._latest: dict[tuple[str, str], Event] = {}
        self._listeners: list[Callable[[Event], object]] = []
        self._lock = threading.Lock()

    def subscribe(self, listener: Callable[[Event], object]) -> None:
        """Call `listener` with every event from now on."""
        with self._lock:
            self._listeners.append(listener)

    def note(
        self,
        about: Literal["source", "sink", "model"],
        name: str,
        state: State | SinkState | ModelState,
        reason: str = "",
        attempt: int = 0,
    ) -> Event:
        """Note that something happened, now."""
        with self._lock:
            event = Event(about, name, state, reason, attempt, time.monotonic_ns(), time.time())
            self._events.append(event)
            self._latest[about, name] = event
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener(event)
            except Exception:  # whatever it is, it is not the camera's fault
                logger.exception("a listener of events failed")
        return event

    @property
    def events(self) -> tuple[Event, ...]:
        """The last thousand events, oldest first."""
        with self._lock:
            return tuple(self._events)

    def latest(self, about: Literal["source", "sink", "model"], name: str) -> Event | None:
        """The last event of one source, sink or model, None where nothing happened yet."""
        with self._lock:
            return self._latest.get((about, name))
