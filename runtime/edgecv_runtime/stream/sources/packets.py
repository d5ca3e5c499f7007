"""Packets of a live stream, read by a thread of its own: decoding may be slower than the camera, reading must not be.

Whoever decodes and reads in turn reads too late: the backlog lies in the socket, where nobody sees its age (a 4K camera
ran 11 s behind while the reported age stayed below 5 s). Here each packet is stamped as it arrives, what waits is
bounded by time, and what is too old is left out up to a key frame before it costs decoding.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

UNDECODED = "undecoded"  # why a frame was dropped
BOUND_S = 1.0  # a packet that waited longer is left out, if a later key frame is there
MOST_BOUND_S = 2.5  # from here on also if there is none: a gap until the next one
LONGEST_GAP_S = 20.0  # a camera without any key frame (intra refresh) is decoded again after so long
_WAITED_S = 0.002  # a read that took longer had to wait: what lies in a socket is read in tens of microseconds
_MOST_BYTES = 64_000_000
_POLL_S = 0.1  # how soon a waiting reader sees that it is interrupted
_JOIN_S = 0.2


class Arrival(NamedTuple):
    """packet: PyAV's; arrived_ns: `time.monotonic_ns()`; waited: it was not there yet when it was asked for."""

    packet: Any
    arrived_ns: int
    waited: bool


class Silence(Exception):
    """No packet came for `waited_s` seconds."""

    def __init__(self, waited_s: float) -> None:
        super().__init__(f"{waited_s:.1f} s")
        self.waited_s = waited_s


class PacketReader:
    """Reads packets until the end, and then closes the container: it alone touches it.

    broke: the stream goes on after a gap, since the last `take`.
    """

    def __init__(
        self,
        packets: Iterator[Any],
        close: Callable[[], None],
        *,
        name: str,
        bound_s: float | None = BOUND_S,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """packets: blocks in `next`; close: called by the thread at its end; bound_s: None keeps all (recordings)."""
        self._skipped = 0
        self.broke = False
        self.longest_s = 0.0  # between two of the last packets
        self.arrived = 0
        self._packets = packets
        self._close = close
        self._bound_ns = None if bound_s is None else round(bound_s * 1e9)
        self._clock = clock
        self._queue: deque[Arrival] = deque()
        self._bytes = 0
        self._gaps_s: deque[float] = deque(maxlen=8)
        self._changed = threading.Condition()
        self._ended = False
        self._error: Exception | None = None
        self._stopping = False
        self._gap_began_ns: int | None = None  # since when a key frame is waited for
        self._thread = threading.Thread(target=self._run, name=f"edgecv-packets {name}", daemon=True)
        self._thread.start()

    def take(self, patience_s: Callable[[], float], stop: Callable[[], bool]) -> Arrival | None:
        """The next packet that is worth decoding; None at the end, or when `stop()` says so.

        Raises Silence after `patience_s()` seconds without one, or what reading raised.
        """
        start_s, arrived = time.monotonic(), self.arrived
        with self._changed:
            while True:
                self._leave_out_what_is_old()
                if self.arrived > arrived:  # nothing worth decoding yet, but no silence
                    start_s, arrived = time.monotonic(), self.arrived
                if self._queue:
                    item = self._queue.popleft()
                    self._bytes -= item.packet.size
                    self._changed.notify_all()
                    return item
                if self._error is not None:
                    raise self._error
                if self._ended or stop():
                    return None
                if time.monotonic() - start_s >= patience_s():
                    raise Silence(time.monotonic() - start_s)
                self._changed.wait(_POLL_S)

    def skipped(self) -> dict[str, int]:
        """Packets that were left out since this was asked last, because decoding is too slow."""
        count, self._skipped = self._skipped, 0
        return {UNDECODED: count} if count else {}

    def stop(self) -> None:
        """Ask the thread to end; it closes the container when its read returns, and is not waited for much longer."""
        with self._changed:
            self._stopping = True
            self._queue.clear()
            self._changed.notify_all()
        self._thread.join(_JOIN_S)

    def _leave_out_what_is_old(self) -> None:
        if self._bound_ns is None or not self._queue:
            return
        if self._gap_began_ns is not None:
            while self._queue and not self._worth_beginning(self._queue[0]):
                self._drop()
            if self._queue:
                self._gap_began_ns = None
            return
        late_ns = self._clock() - self._queue[0].arrived_ns
        if late_ns <= self._bound_ns and self._bytes <= _MOST_BYTES:
            return
        keys = [number for number, item in enumerate(self._queue) if item.packet.is_keyframe]
        if keys and keys[-1] > 0:
            for _ in range(keys[-1]):
                self._drop()
        elif not keys and (late_ns > MOST_BOUND_S / BOUND_S * self._bound_ns or self._bytes > _MOST_BYTES):
            while self._queue:
                self._drop()
            self._gap_began_ns = self._clock()

    def _worth_beginning(self, item: Arrival) -> bool:
        """Whether decoding may go on with it after a gap: a key frame, the end, or what comes where there are none."""
        assert self._gap_began_ns is not None
        too_long = item.arrived_ns - self._gap_began_ns > LONGEST_GAP_S * 1e9
        return item.packet.is_keyframe or not item.packet.size or too_long

    def _drop(self) -> None:
        self._bytes -= self._queue.popleft().packet.size
        self._skipped += 1
        self.broke = True

    def _run(self) -> None:
        try:
            last_s = time.monotonic()
            for packet in self._packets:
                arrived_ns = self._clock()
                now_s = time.monotonic()
                with self._changed:
                    if self._stopping:
                        return
                    if self.arrived:
                        self._gaps_s.append(now_s - last_s)
                        self.longest_s = max(self._gaps_s)
                    self.arrived += 1
                    self._queue.append(Arrival(packet, arrived_ns, now_s - last_s > _WAITED_S))
                    self._bytes += packet.size
                    self._changed.notify_all()
                    while self._bound_ns is None and self._bytes > _MOST_BYTES and not self._stopping:
                        self._changed.wait(_POLL_S)  # a recording: nothing is left out
                last_s = time.monotonic()
        except Exception as exc:  # handed to whoever decodes
            self._error = exc
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            self._close()
