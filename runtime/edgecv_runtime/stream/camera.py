"""A source that is drained by a thread of its own, at its own rate: its frames, its states and its account."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from edgecv_runtime.stream.buffer import Buffer, WhenLate
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.events import Journal, State
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.ledger import Account, Ledger
from edgecv_runtime.stream.sources.base import Facts, Source, frame_of

if TYPE_CHECKING:
    from typing import Self

GRACE_S = 1.0  # how long a stop waits for a camera that is inside a read
_LIVE_SLOTS = 1  # the newest frame
_FILE_SLOTS = 4  # decoded ahead while the model runs


class Camera:
    """Reads a source in a thread of its own, which alone opens and releases it.

    `with Camera(open_source(0), when_late="drop-oldest") as camera: for frame in camera: ...; camera.dropped`

    A camera that is stopped inside a read is not waited for beyond GRACE_S: its thread is a daemon that releases the
    capture itself as soon as the read returns, within the source's timeout; what it still reads is not counted.

    name: of the source, also in frames and events.
    facts: what is known of the source; damaged: broken frames or packets so far; connection: the number of the present
    one, 0 before the first.
    ended: "" while it runs, else "end of file", "ended_early", "stopped", "max_frames" or "error".
    end: how the source ended, None before; detail: the rest of the sentence, as `declared=795 read=399`.
    """

    def __init__(
        self,
        source: Source,
        *,
        when_late: WhenLate | Literal["auto"] = "auto",
        max_frames: int | None = None,
        account: Account | None = None,
        journal: Journal | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        """when_late: what happens to a frame that comes while the buffer is full; "auto" is "drop-oldest" for a live
            source and "wait" for a recording, known when it is open.
        max_frames: a camera that never drops ends after this many; account, journal, changed: of the run it is in.
        """
        self.source = source
        self.name = source.name
        self.account = account or Ledger().add_source(source.name)
        self.facts: Facts = source.facts
        self.damaged = 0
        self.connection = 0
        self.ended = ""
        self.end: End | None = None
        self.detail = ""
        self._journal = journal or Journal()
        self._asked = when_late
        self._max_frames = max_frames
        self._changed = changed if changed is not None else threading.Condition()
        policy: WhenLate = "wait" if when_late == "auto" else when_late
        self._index = 0
        self._buffer = Buffer[Frame](
            _FILE_SLOTS if policy == "wait" else _LIVE_SLOTS,
            policy,
            entered=lambda frame: self.account.entered(frame.index),
            dropped=lambda frame, reason: self.account.dropped_for(frame.index, reason),
            changed=self._changed,
        )
        self._thread = threading.Thread(target=self._run, name=f"edgecv-read {source.name}", daemon=True)

    @property
    def when_late(self) -> WhenLate:
        """The policy in force."""
        return self._buffer.when_late

    @property
    def dropped(self) -> dict[str, int]:
        """How many frames were dropped, by reason."""
        return self.account.dropped

    @property
    def finished(self) -> bool:
        """The source has ended and nothing waits."""
        with self._changed:
            return bool(self.ended) and not len(self._buffer)

    @property
    def waiting(self) -> int:
        """How many frames wait to be taken."""
        return len(self._buffer)

    @property
    def abandoned(self) -> bool:
        """It was stopped, and its thread is still inside a read or an open."""
        return bool(self.ended) and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; it opens the source."""
        self._thread.start()

    def take(self, timeout_s: float = 0.0) -> Frame | None:
        """The next frame, or None when there is none within the timeout; the caller settles it in the account."""
        return self._buffer.take(timeout_s)

    def stop(self, why: str = "stopped", detail: str = "") -> None:
        """Ask the thread to end, without waiting; what waits is dropped as "stopped".

        why, detail: become `ended` and `detail`, unless the source has ended already.
        """
        with self._changed:
            self._settle(why, detail, End("stopped"))
            self._buffer.close()
        self.source.interrupt()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread, up to `timeout_s` seconds."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self.join(GRACE_S)

    def __iter__(self) -> Iterator[Frame]:
        """Frames as they come, counted as inferred when handed over; raises at the end what the source raised."""
        while not self.finished:
            frame = self.take(timeout_s=0.1)
            if frame is not None:
                self.account.passed(frame.index)
                yield frame
        error = self.end.error() if self.end is not None else None
        if error is not None:
            raise error

    def _run(self) -> None:
        """One connection."""
        self.connection += 1
        self._note("connecting")
        try:
            self._read(self.source)
        except Exception:  # whatever it is, the source has noted it as its end
            pass
        finally:
            self.source.close()
        self._finish(self.source.end or End("stopped"))

    def _read(self, source: Source) -> None:
        self.facts = source.open().facts
        if self._asked == "auto" and self.facts.live:
            self._buffer.become("drop-oldest", _LIVE_SLOTS)
        while (shot := source.next_shot()) is not None:
            if source.frames_read == 1:
                self._note("live", _described(self.facts))
            self.damaged = shot.damaged
            frame = frame_of(shot, self.name, self._index, self.connection, live=self.facts.live)
            self._index += 1
            if not self._buffer.put(frame):
                break
            if self.when_late == "wait" and self._index == self._max_frames:
                self._settle("max_frames", "", End("stopped"))
                break

    def _finish(self, end: End) -> None:
        self.damaged = end.damaged
        ended = "error" if end.exit_code else "ended_early" if end.early else end.kind
        with self._changed:
            self._settle(ended, end.detail, end)
            self._buffer.close(keep=True)
        self._note("failed" if self.ended == "error" else "ended", self.detail.removeprefix(f"{self.name}: "))

    def _settle(self, why: str, detail: str, end: End) -> None:
        """The first reason stands: what follows from being stopped is not a reason."""
        with self._changed:
            if not self.ended:
                self.ended, self.detail, self.end = why, detail, end
                self._changed.notify_all()

    def _note(self, state: State, reason: str = "") -> None:
        self._journal.note("source", self.name, state, reason, self.connection)


def _described(facts: Facts) -> str:
    """What is known of a source, in the words of its `live` event."""
    parts = [facts.codec or "", f"{facts.size[1]}x{facts.size[0]}" if facts.size else ""]
    return " ".join([*filter(None, parts), *([f"{facts.fps:g} fps"] if facts.fps else [])])
