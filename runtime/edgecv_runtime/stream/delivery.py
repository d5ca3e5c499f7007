"""One sink in a thread of its own: it may be slow, fail or hang, and the model goes on."""

from __future__ import annotations

import threading
from collections import deque

from edgecv_runtime.stream.buffer import Buffer
from edgecv_runtime.stream.events import Event
from edgecv_runtime.stream.ledger import STOPPED, Account
from edgecv_runtime.stream.redact import redact
from edgecv_runtime.stream.report import SinkReport
from edgecv_runtime.stream.sinks.base import Output, Sink, StopStream

_SLOTS = 8  # outputs that wait for a slow sink
_EVENTS = 256  # that wait for a slow sink
_TRIES = 30  # failures in a row after which a sink is not asked again


class Delivery:
    """Hands outputs to one sink and keeps its account.

    A sink that fails is counted and asked again; after 30 failures in a row it has `given_up`, and the rest counts as
    failed. stop_asked: the sink raised StopStream.
    """

    def __init__(self, sink: Sink, account: Account, changed: threading.Condition) -> None:
        """account: of this sink; changed: woken when the sink gives up or asks to stop."""
        self.account = account
        self.given_up = False
        self.stop_asked = False
        self._sink = sink
        self._changed = changed
        self._error: str | None = None
        self._in_a_row = 0
        self._lock = threading.Condition()  # of the buffer too: an output is waiting, being written, or settled
        self._abandoned = False
        self._writing: Output | None = None
        self._events: deque[Event] = deque(maxlen=_EVENTS)
        self._buffer: Buffer[Output] = Buffer(_SLOTS, "wait", dropped=self._drop, changed=self._lock)
        self._thread = threading.Thread(target=self._run, name=f"edgecv-sink {account.name}", daemon=True)
        if sink.own_thread:
            self._thread.start()

    def put(self, output: Output, *, wait: bool, stop: threading.Event) -> None:
        """Hand over one output that is in the account already.

        wait: for a slot (recordings), else the oldest waiting output is dropped (cameras); stop: ends the waiting.
        """
        if not self._sink.own_thread:
            self._tell()
            self._write(output)
            return
        self._buffer.become("wait" if wait else "drop-oldest", _SLOTS)
        self._buffer.put(output, give_up=stop.is_set)

    def tell(self, event: Event) -> None:
        """Tell the sink of an event, before its next output or within a second."""
        if type(self._sink).event is not Sink.event:
            self._events.append(event)

    def finish(self) -> None:
        """Let the sink take what waits, then close it; returns at once where it has its own thread."""
        self._buffer.close(keep=True)
        if not self._sink.own_thread:
            self._close()

    def join(self, timeout_s: float) -> bool:
        """Whether the sink has finished within the timeout."""
        if self._sink.own_thread:
            self._thread.join(timeout_s)
        return not (self._sink.own_thread and self._thread.is_alive())

    def abandon(self, why: str) -> None:
        """Wait no more: what the sink has not finished is dropped as "stopped"; it may end later, uncounted."""
        with self._lock:
            self._buffer.close()
            self._abandoned = True
            self._error = self._error or why
            if self._writing is not None:
                self.account.dropped_for(_key(self._writing), STOPPED)

    def report(self) -> SinkReport:
        """The account and the first error."""
        counts = self.account.as_dict()
        return SinkReport(
            name=self.account.name,
            delivered=counts["delivered"],
            dropped=counts["dropped"],
            failed=counts["failed"],
            in_flight=counts["in_flight"],
            error=self._error,
        )

    def _run(self) -> None:
        while not self._buffer.finished:
            with self._lock:
                output = self._buffer.take(timeout_s=1.0)
                self._writing = output
            self._tell()
            if output is not None:
                self._write(output)
        self._close()

    def _write(self, output: Output) -> None:
        failure: str | None = None
        if self.given_up:
            failure = self._error
        else:
            try:
                self._sink.write(output)
            except StopStream:
                self.stop_asked = True
            except Exception as exc:  # a sink may raise anything; it is counted, and the run goes on
                failure = redact(f"{type(exc).__name__}: {exc}")
        with self._lock:
            if self._abandoned:
                return
            self._writing = None
            if failure is None:
                self._in_a_row = 0
                self.account.passed(_key(output))
            else:
                self._in_a_row += 1
                self._error = self._error or failure
                self.given_up = self._in_a_row >= _TRIES
                self.account.failed(_key(output))
        if self.stop_asked or self.given_up:
            with self._changed:
                self._changed.notify_all()

    def _tell(self) -> None:
        while self._events:
            try:
                self._sink.event(self._events.popleft())
            except Exception as exc:  # reported as the sink's error
                self._error = self._error or redact(f"{type(exc).__name__}: {exc}")

    def _close(self) -> None:
        self._tell()
        try:
            self._sink.close()
        except Exception as exc:  # reported as the sink's error
            self._error = self._error or redact(f"{type(exc).__name__}: {exc}")

    def _drop(self, output: Output, reason: str) -> None:
        with self._lock:
            if not self._abandoned:
                self.account.dropped_for(_key(output), reason)


def _key(output: Output) -> tuple[str, int]:
    """How `Ledger.inferred` calls a frame in the account of a sink."""
    return output.frame.source, output.frame.index
