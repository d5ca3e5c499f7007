"""A process that reads one source and hands its frames to its parent: what crashes here crashes nobody else."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from edgecv_runtime.stream.ending import End, kind_of
from edgecv_runtime.stream.redact import redact, remember
from edgecv_runtime.stream.sources import ring
from edgecv_runtime.stream.sources.base import Shot, Source, new_room

if TYPE_CHECKING:
    from edgecv_runtime.preprocess import Image

GO, STOP = b"g", b"s"  # from the parent: open the source; end in order; all other bytes are `ring.freed`
LATE = "late"
_PULSE_S = 0.5
_SETUP = 1 << 20


class Child:
    """Serves one parent over one socket."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._sending = threading.Lock()
        self._asked = threading.Event()  # to open the source: it may be long before that its turn comes
        self._early = b""
        self._changed = threading.Condition()
        self._free = set(range(ring.SLOTS))
        self._reserved: int | None = None  # the slot for the next image
        self._slots: ring.Slots | None = None
        self._source: Source | None = None
        self._generation = 0
        self._skipped: Counter[str] = Counter()  # since the last picture

    def run(self) -> None:
        """Read the source that the parent's first message makes, to its end."""
        try:
            make, name, lossless, secrets = pickle.loads(self._setup())
            remember(*secrets)
            source = self._source = make()
            source.name = name
            source.room = self._room
        except Exception as exc:  # told to the parent, who does not try again
            self._end(End("not installed", redact(f"the decoder does not start: {type(exc).__name__}: {exc}")))
            return
        self._send(ring.Ready())
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, args=(source,), daemon=True).start()
        self._asked.wait()
        try:
            facts = source.open().facts
            self._send(ring.Opened(facts.live, facts.size, facts.fps, facts.declared_frames, facts.codec))
            for shot in source.shots():
                self._hand_over(shot, wait=lossless or not facts.live)
        except Exception as exc:
            self._end(source.end or End(kind_of(exc), redact(str(exc))))
        else:
            self._end(source.end or End("stopped"))
        finally:
            source.close()

    def _setup(self) -> bytes:
        data = b""
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
            part = self._parent.recv(_SETUP)
            if not part:
                raise EOFError("the parent is gone")
            data += part
        end = 4 + int.from_bytes(data[:4], "little")
        self._early = data[end:]
        return data[4:end]

    def _hand_over(self, shot: Shot, *, wait: bool) -> None:
        captured_ns = time.monotonic_ns() if shot.captured_ns is None else shot.captured_ns
        if shot.skipped:
            self._skipped.update(shot.skipped)
        size = ring.size_of(shot.picture)
        slots, slot = self._reserve(size, wait=wait)
        if slot is None:
            self._skipped[LATE] += 1
            return
        slots.write(slot, shot.picture)
        self._reserved = None
        left_out = self._left_out()
        self._send(ring.Picture(slot, size, shot.pts_s, captured_ns, shot.path, shot.damaged, left_out))
        self._reserve(size, wait=False)  # for the next one, which then has not to wait for it

    def _room(self, size: tuple[int, int]) -> Image:
        """Where a source may make its next image: in a slot, while one is free."""
        slots, slot = self._reserve(size, wait=False)
        return new_room(size) if slot is None else slots.array(slot, size)

    def _reserve(self, size: tuple[int, int], *, wait: bool) -> tuple[ring.Slots, int | None]:
        """The slot for the next image, and the memory that it is in; None where none is free."""
        with self._changed:
            if self._slots is None or not self._slots.fit(size):
                self._slots, descriptor = ring.Slots.make(size)
                self._free, self._reserved = set(range(ring.SLOTS)), None
                self._generation += 1
                self._send(ring.Memory(self._slots.slot_bytes), descriptor)
                os.close(descriptor)
            while self._reserved is None and (self._free or wait):
                if self._free:
                    self._reserved = min(self._free)  # always the same while it will do: others take no memory
                    self._free.remove(self._reserved)
                else:
                    self._changed.wait()
            return self._slots, self._reserved

    def _left_out(self) -> dict[str, int]:
        """The frames that were left out since this was asked last, by reason."""
        if not self._skipped:
            return {}
        skipped, self._skipped = dict(self._skipped), Counter()
        return skipped

    def _listen(self) -> None:
        """Do what the parent says; end at once when it is gone."""
        while True:
            words, self._early = self._early, b""
            if not words:
                try:
                    words = self._parent.recv(256)
                except OSError:
                    words = b""
            if not words:
                os._exit(0)
            with self._changed:
                if STOP in words and self._source is not None:
                    self._source.interrupt()
                if GO in words or STOP in words:
                    self._asked.set()
                now = {ring.freed(self._generation, slot)[0]: slot for slot in range(ring.SLOTS)}
                self._free.update(now[word] for word in words if word in now)  # others are of a former memory
                self._changed.notify_all()

    def _beat(self, source: Source) -> None:
        while True:
            self._send(ring.Pulse(source.alive_ns, source.awake_ns))
            time.sleep(_PULSE_S)

    def _end(self, end: End) -> None:
        self._skipped.update(end.skipped)
        self._send(ring.Ended(end.kind, end.detail, end.damaged, end.first_damaged, self._left_out()))

    def _send(self, message: ring.Message, *descriptors: int) -> None:
        with self._sending, suppress(OSError):  # a parent that is gone is noticed by `_listen`
            ring.send(self._parent, message, *descriptors)


def main(descriptor: int) -> None:
    """Run as a child: the socket is this open file descriptor."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # they are for the parent, who ends this in order
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    Child(socket.socket(fileno=descriptor)).run()
    sys.stderr.flush()
    os._exit(0)  # a library that hangs in its clean-up keeps nobody waiting
