"""One thread that drains a source at its own rate: a slow consumer gets young frames, and the account of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from edgecv_runtime.errors import EdgecvError, SourceUnavailable
from edgecv_runtime.stream.buffer import Buffer, WhenLate
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.ledger import Account, Ledger
from edgecv_runtime.stream.redact import redact
from edgecv_runtime.stream.sources.base import Source

if TYPE_CHECKING:
    from typing import Self

GRACE_S = 1.0  # how long a stop waits for a reader that is inside a read
_LIVE_SLOTS = 1  # the newest frame
_FILE_SLOTS = 4  # decoded ahead while the model runs


class Reader:
    """Reads a source in a thread of its own, which alone opens and releases it.

    `with Reader(open_source(0), when_late="drop-oldest") as camera: for frame in camera: ...; camera.dropped`

    A reader that is stopped inside a read is not waited for beyond GRACE_S: its thread is a daemon that releases the
    capture itself as soon as the read returns, within the source's timeout; what it still reads is not counted.

    ended: "" while it runs, else "end of file", "ended_early", "stopped", "max_frames" or "error".
    detail: the rest of the sentence, as `declared=795 read=399`; error: what the source raised.
    """

    def __init__(
        self,
        source: Source,
        *,
        when_late: WhenLate | Literal["auto"] = "auto",
        max_frames: int | None = None,
        account: Account | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        """when_late: what happens to a frame that comes while the buffer is full; "auto" is "drop-oldest" for a live
            source and "wait" for a recording, known when it is open.
        max_frames: a reader that never drops ends after this many; account, changed: of the run it belongs to.
        """
        self.source = source
        self.account = account or Ledger().add_source(source.name)
        self.ended = ""
        self.detail = ""
        self.error: EdgecvError | None = None
        self._asked = when_late
        self._max_frames = max_frames
        self._changed = changed if changed is not None else threading.Condition()
        policy: WhenLate = "wait" if when_late == "auto" else when_late
        self._buffer = Buffer[Frame](
            _FILE_SLOTS if policy == "wait" else _LIVE_SLOTS,
            policy,
            entered=lambda frame: self.account.entered(frame.index),
            dropped=lambda frame, reason: self.account.dropped_for(frame.index, reason),
            changed=self._changed,
        )
        self._thread = threading.Thread(target=self._read, name=f"edgecv-read {source.name}", daemon=True)

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
        self.source.interrupt()
        with self._changed:
            self._end(why, detail)
            self._buffer.close()

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
        if self.error is not None:
            raise self.error

    def _read(self) -> None:
        try:
            self.source.open()
            if self._asked == "auto" and self.source.live:
                self._buffer.become("drop-oldest", _LIVE_SLOTS)
            for frame in self.source:
                if not self._buffer.put(frame):
                    break
                if self.when_late == "wait" and frame.index + 1 == self._max_frames:
                    self._finish("max_frames")
                    break
            self._finish("ended_early" if self.source.early else "end of file", self.source.early or "")
        except EdgecvError as exc:
            self._finish("error", str(exc), exc)
        except Exception as exc:  # a foreign library raised what it does not document; it is reported
            text = redact(f"{self.source.name}: {type(exc).__name__}: {exc}")
            self._finish("error", text, SourceUnavailable(text))
        finally:
            self.source.close()

    def _finish(self, why: str, detail: str = "", error: EdgecvError | None = None) -> None:
        with self._changed:
            if not self.ended:
                self.error = error
            self._end(why, detail)
            self._buffer.close(keep=True)

    def _end(self, why: str, detail: str = "") -> None:
        """The first reason stands: what follows from being stopped is not a reason."""
        if not self.ended:
            self.ended, self.detail = why, detail
            self._changed.notify_all()
