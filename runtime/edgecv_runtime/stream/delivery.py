"""One sink in a thread of its own: it may be slow, fail, be away for an hour or hang, and the model goes on."""

from __future__ import annotations

import math
import threading
import time
from collections import deque

from edgecv_runtime.stream.backoff import Backoff, Waits
from edgecv_runtime.stream.events import Event, Journal, SinkState
from edgecv_runtime.stream.ledger import DOWN, LATE, STOPPED, Account
from edgecv_runtime.stream.redact import redact
from edgecv_runtime.stream.report import SinkReport
from edgecv_runtime.stream.sinks.base import Output, Sink, SinkGone, StopStream

_SLOTS = 8  # outputs that wait for a slow sink
_EVENTS = 256  # that wait for it
_TRIES = 3  # failures in a row, and a sink is down: one frame that it cannot take is no reason
_POLL_S = 1.0


class Delivery:
    """Hands outputs to one sink and keeps its account; nobody ever waits for it.

    A sink that fails three times in a row is `down`: it is tried again as a Backoff says, and what comes meanwhile is
    dropped as "down". stop_asked: the sink raised StopStream; gone: it raised SinkGone, and is not tried again.
    """

    def __init__(
        self,
        sink: Sink,
        account: Account,
        changed: threading.Condition,
        journal: Journal | None = None,
        waits: Waits | None = None,
    ) -> None:
        """account: of this sink; changed: woken when there is room again, and when the sink asks to stop."""
        self.account = account
        self.stop_asked = False
        self.gone = False
        self._sink = sink
        self._changed = changed
        self._journal = journal or Journal()
        self._backoff = Backoff(waits)
        self._error: str | None = None
        self._in_a_row = 0
        self._down_since_s: float | None = None
        self._up_since_s = time.monotonic()
        self._retry_at_s = 0.0
        self._tries = 0
        self._lock = threading.Condition()
        self._outputs: deque[tuple[Output, bool]] = deque()
        self._events: deque[Event] = deque(maxlen=_EVENTS)
        self._finishing = False
        self._abandoned = False
        self._writing: Output | None = None
        self._listens = type(sink).event is not Sink.event
        self._thread = threading.Thread(target=self._run, name=f"edgecv-sink {account.name}", daemon=True)
        if sink.own_thread:
            self._thread.start()

    @property
    def own_thread(self) -> bool:
        """It needs no `pump`."""
        return self._sink.own_thread

    @property
    def down(self) -> bool:
        """It does not work at present."""
        return self._down_since_s is not None

    @property
    def hopeless(self) -> bool:
        """It has been down for longer than a recording waits for it."""
        since_s = self._down_since_s
        return self.gone or (since_s is not None and time.monotonic() - since_s > self._sink.patience_s)

    @property
    def room(self) -> int:
        """How many outputs of a recording it would take now without dropping one."""
        if self.hopeless:
            return _SLOTS
        return max(0, _SLOTS - len(self._outputs))

    def put(self, output: Output, *, lossless: bool) -> None:
        """Hand over one output that is in the account already; without waiting.

        lossless: it may not be dropped for one that comes later (recordings, for which `room` was asked).
        """
        try:
            selected = self._sink.select(output)
        except Exception as exc:  # as one that is raised while writing
            with self._lock:
                self._error = self._error or redact(f"{type(exc).__name__}: {exc}")
                self.account.failed(_key(output))
            return
        if selected is None:
            self.account.passed(_key(output))
            return
        output = selected
        with self._lock:
            if self._finishing:
                self._settle(output, dropped=STOPPED)
                return
            if self.down and (not lossless or self.hopeless) and time.monotonic() < self._retry_at_s:
                self._settle(output, dropped=DOWN)
                return
            if self.hopeless and len(self._outputs) >= _SLOTS:  # inside a try that may take long
                self._settle(output, dropped=DOWN)
                return
            if len(self._outputs) >= _SLOTS and not lossless:
                oldest = next((item for item in self._outputs if not item[1]), None)
                if oldest is None:
                    self._settle(output, dropped=LATE)
                    return
                self._outputs.remove(oldest)
                self._settle(oldest[0], dropped=LATE)
            self._outputs.append((output, lossless))
            self._lock.notify_all()

    def tell(self, event: Event) -> None:
        """Tell the sink of an event, before its next output or at once."""
        if self._listens and not (event.about == "sink" and event.name == self.account.name):
            with self._lock:
                self._events.append(event)
                self._lock.notify_all()

    def pump(self) -> None:
        """Let a sink without a thread of its own take what waits, in this thread."""
        if not self._sink.own_thread:
            while not self.stop_asked and self._step(0.0):
                pass

    def finish(self) -> None:
        """Let the sink take what waits, then close it; returns at once where it has its own thread."""
        with self._lock:
            first, self._finishing = not self._finishing, True
            self._lock.notify_all()
        if first and not self._sink.own_thread:
            self.pump()
            with self._lock:
                while self._outputs:  # it asked to stop
                    self._settle(self._outputs.popleft()[0], dropped=STOPPED)
            self._close()

    def join(self, timeout_s: float) -> bool:
        """Whether the sink has finished within the timeout."""
        if self._sink.own_thread:
            self._thread.join(timeout_s)
        return not (self._sink.own_thread and self._thread.is_alive())

    def abandon(self, why: str) -> None:
        """Wait no more: what the sink has not finished is dropped as "stopped"; it may end later, uncounted."""
        with self._lock:
            self._finishing = True
            while self._outputs:
                self._settle(self._outputs.popleft()[0], dropped=STOPPED)
            if self._writing is not None:
                self._settle(self._writing, dropped=STOPPED)
            self._abandoned = True
            self._error = self._error or why

    def report(self) -> SinkReport:
        """The account and the first error."""
        counts = self.account.as_dict()
        return SinkReport(
            name=self.account.name,
            delivered=counts["delivered"],
            dropped=counts["dropped"],
            failed=counts["failed"],
            in_flight=counts["in_flight"],
            state="down" if self.down else "up",
            error=self._error,
        )

    def _run(self) -> None:
        while self._step(_POLL_S) or not self._finishing or self._outputs:
            pass
        self._close()

    def _step(self, timeout_s: float) -> bool:
        """Take one output (waiting for it so long), and the events before it; whether there was any."""
        with self._lock:
            wait_s = timeout_s
            while not self._outputs and not self._events and not self._finishing and wait_s > 0:
                self._lock.wait(wait_s)
                wait_s = 0.0
            events = list(self._events)
            self._events.clear()
            output = self._next(timeout_s)
            self._writing = output
        for event in events:
            self._tell(event)
        if output is not None:
            self._write(output)
        return output is not None

    def _next(self, timeout_s: float) -> Output | None:
        """The output whose turn it is; while the sink is down none, until it is to be tried again."""
        rest_s = self._retry_at_s - time.monotonic()
        if self.down and rest_s > 0:
            if self._finishing:  # it had its chance
                while self._outputs:
                    self._settle(self._outputs.popleft()[0], dropped=DOWN)
            elif timeout_s:
                self._lock.wait(min(rest_s, timeout_s))
            return None
        return self._outputs.popleft()[0] if self._outputs else None

    def _write(self, output: Output) -> None:
        failure: str | None = None
        try:
            self._sink.write(output)
        except StopStream:
            self.stop_asked = True
        except SinkGone as exc:
            self.gone, failure = True, redact(str(exc))
        except Exception as exc:  # a sink may raise anything; it is counted, and the run goes on
            failure = redact(f"{type(exc).__name__}: {exc}")
        with self._lock:
            if self._abandoned:
                return
            self._writing = None
            if failure is None:
                self.account.passed(_key(output))
            else:
                self._error = self._error or failure
                self.account.failed(_key(output))
        self._note_health(failure)
        with self._changed:
            self._changed.notify_all()

    def _note_health(self, failure: str | None) -> None:
        now_s = time.monotonic()
        if failure is None:
            self._in_a_row = 0
            if self.down:
                self._down_since_s, self._up_since_s = None, now_s
                self._note("up", "works again")
                self._tries = 0
            return
        self._in_a_row += 1
        if self._in_a_row < _TRIES and not self.gone:
            return
        self._tries += 1
        wait_s = self._backoff.next_s("fast", now_s=now_s, healthy_s=0.0 if self.down else now_s - self._up_since_s)
        self._retry_at_s = math.inf if self.gone else now_s + wait_s
        with self._lock:
            self._down_since_s = self._down_since_s or now_s
            for item in [item for item in self._outputs if not item[1]]:
                self._outputs.remove(item)
                self._settle(item[0], dropped=DOWN)
        self._note("down", f"{failure}" if self.gone else f"{failure}; next try in {wait_s:.1f} s")

    def _tell(self, event: Event) -> None:
        try:
            self._sink.event(event)
        except Exception as exc:  # reported as the sink's error
            self._error = self._error or redact(f"{type(exc).__name__}: {exc}")

    def _close(self) -> None:
        for event in list(self._events):
            self._tell(event)
        try:
            self._sink.close()
        except Exception as exc:  # reported as the sink's error
            self._error = self._error or redact(f"{type(exc).__name__}: {exc}")

    def _settle(self, output: Output, *, dropped: str) -> None:
        with self._lock:
            if not self._abandoned:
                self.account.dropped_for(_key(output), dropped)

    def _note(self, state: SinkState, reason: str) -> None:
        self._journal.note("sink", self.account.name, state, reason, self._tries)


def _key(output: Output) -> tuple[str, int]:
    """How `Ledger.inferred` calls a frame in the account of a sink."""
    return output.frame.source, output.frame.index
