"""What every source is: opened once, iterated once, released by one thread."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from edgecv_runtime.errors import Closed
from edgecv_runtime.preprocess import Image
from edgecv_runtime.stream.frame import Frame

if TYPE_CHECKING:
    from typing import Self

DEFAULT_TIMEOUT_S = 5.0


class Shot(NamedTuple):
    """What a kind of source knows of one frame; `Source` adds the rest."""

    image: Image
    pts_s: float | None = None
    captured_ns: int | None = None
    path: str | None = None


class Source(ABC):
    """A camera, file or stream: `with open_source(...) as source: for frame in source: ...`.

    A kind of source implements `_open`, `_shots` and `_release`. They are never called by two threads at once, and
    `_release` never runs while another thread is inside a read (OpenCV crashes there): whoever reads releases as soon
    as its read returns. Every wait inside has a timeout of `timeout_s`, or ends when `_interrupted` is set.

    name: how it is called in reports and messages, free of passwords.
    live: frames are lost when nobody reads them (a camera), so late ones are better dropped than queued.
    fps: frames per second that it declares, None if unknown; known once it is open.
    declared_frames: frames that the container says it holds, None if it does not say; known once it is open.
    early: why it ended before its declared end; None when it ended where it should.
    damaged: frames or packets that the decoder reported as broken.
    first_damaged: what was wrong with the first of them, None where that is not known.
    """

    def __init__(self, name: str, *, live: bool, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s}")
        self.name = name
        self.live = live
        self.timeout_s = timeout_s
        self.fps: float | None = None
        self.declared_frames: int | None = None
        self.early: str | None = None
        self.damaged = 0
        self.first_damaged: str | None = None
        self.frames_read = 0
        self._shot_iterator: Iterator[Shot] | None = None
        self._using = threading.Lock()  # held while the capture is opened, read or released
        self._interrupted = threading.Event()
        self._opened = False

    @abstractmethod
    def _open(self) -> None:
        """Open the capture and learn `fps`, `declared_frames`, `live`; raises SourceUnavailable or BadInput."""

    @abstractmethod
    def _shots(self) -> Iterator[Shot]:
        """Give every frame until the end; sets `early` if that came too early; raises SourceUnavailable."""

    @abstractmethod
    def _release(self) -> None:
        """Release what `_open` took; also called when `_open` failed half-way, and then once only."""

    def open(self) -> Self:
        """Open now rather than with the first frame; raises SourceUnavailable, BadInput, or Closed."""
        if self._interrupted.is_set():
            raise Closed(f"{self.name} is closed; open_source gives a new one")
        try:
            with self._using:
                self._ensure_open()
        finally:
            self._release_if_interrupted()
        return self

    def interrupt(self) -> None:
        """Ask the source to end, from any thread, without waiting; the thread that reads it releases it."""
        self._interrupted.set()

    def close(self) -> None:
        """Interrupt, and release unless another thread is inside a read (it then does so itself); may be repeated."""
        self.interrupt()
        self._release_if_interrupted()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        try:
            with self._using:
                return self._next()
        except BaseException:  # also StopIteration: an ended source holds nothing
            self.interrupt()
            raise
        finally:
            self._release_if_interrupted()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _next(self) -> Frame:
        if self._interrupted.is_set():
            raise StopIteration
        try:
            self._ensure_open()
        except Closed:
            raise StopIteration from None
        assert self._shot_iterator is not None
        shot = next(self._shot_iterator)
        if self._interrupted.is_set():  # it came too late to belong to the stream
            raise StopIteration
        stamp = time.monotonic_ns() if shot.captured_ns is None else shot.captured_ns
        frame = Frame(shot.image, stamp, self.frames_read, shot.pts_s, self.name, shot.path)
        self.frames_read += 1
        return frame

    def _ensure_open(self) -> None:
        if not self._opened:
            self._opened = True
            try:
                self._open()
            except BaseException:
                self.interrupt()
                raise
            self._shot_iterator = self._shots()

    def _release_if_interrupted(self) -> None:
        """Release under the lock; without waiting for it, since its holder comes here when its read returns."""
        if self._interrupted.is_set() and self._using.acquire(blocking=False):
            try:
                if self._opened:
                    self._opened = False
                    self._shot_iterator = None
                    self._release()
            finally:
                self._using.release()
