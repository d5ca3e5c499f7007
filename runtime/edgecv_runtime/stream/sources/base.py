"""What every source is: one connection, opened once, iterated once, released by one thread."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, NamedTuple

from edgecv_runtime.errors import Closed, EdgecvError
from edgecv_runtime.stream.ending import End, kind_of
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.redact import redact
from edgecv_runtime.stream.sources.decoded import Decoded

if TYPE_CHECKING:
    from typing import Self

    from edgecv_runtime.preprocess import Image

DEFAULT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Facts:
    """What is known of a source once it is open.

    live: frames are lost when nobody reads them (a camera), so late ones are better dropped than queued.
    size: (height, width) of its frames as declared; fps: frames per second that it declares; declared_frames: that the
    container says it holds; codec: as FFmpeg calls it. None where the source does not say.
    """

    live: bool
    size: tuple[int, int] | None = None
    fps: float | None = None
    declared_frames: int | None = None
    codec: str | None = None


class Shot(NamedTuple):
    """One frame as a source gives it; who takes it counts it and says which source it is of.

    picture: its image, (H, W, 3) uint8 BGR, or what becomes one: `image` converts it each time, `next_shot` once.
    captured_ns: `time.monotonic_ns()`, None for "now"; damaged: broken frames or packets so far on this connection.
    skipped: frames that came since the former shot and were left out, by reason.
    """

    picture: Image | Decoded
    pts_s: float | None = None
    captured_ns: int | None = None
    path: str | None = None
    damaged: int = 0
    skipped: Mapping[str, int] = MappingProxyType({})

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 BGR."""
        return self.picture.image() if isinstance(self.picture, Decoded) else self.picture


Shots = Generator[Shot, None, End | None]


class Source(ABC):
    """One connection to a camera, file or stream: `with open_source(...) as source: for frame in source: ...`.

    A kind of source implements `_open`, `_shots` and `_release`. They are never called by two threads at once, and
    `_release` never runs while another thread is inside a read (OpenCV crashes there): whoever reads releases as soon
    as its read returns. Every wait inside has a timeout of `timeout_s`, or ends when `_interrupted` is set.

    name: how it is called in reports and messages, free of passwords.
    facts: what is known of it; before it is open, whether it is `live` by its kind.
    end: how it ended, None before; it holds for errors that are raised, too.
    frames_read: shots that it gave.
    alive_ns: `time.monotonic_ns()` of the last sign of life that is no frame (a packet), for who watches it.
    awake_ns: when the thread that reads was last seen at work; 0 where waits do not tell (see `_stop_asked`).
    again: makes the same source anew, for the next connection; None where nobody knows how. It holds the password.
    native: what it reads with may crash the process; so that it is better isolated.
    room: gives the memory for the next image, of (height, width), to a source that makes images itself.
    """

    native = False

    def __init__(self, name: str, *, live: bool, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s}")
        self.name = name
        self.timeout_s = timeout_s
        self.facts = Facts(live=live)
        self.end: End | None = None
        self.frames_read = 0
        self.alive_ns = 0
        self.awake_ns = 0
        self.again: Callable[[], Source] | None = None
        self.room: Callable[[tuple[int, int]], Image] = new_room
        self._damaged = 0
        self._shot_iterator: Shots | None = None
        self._using = threading.Lock()  # held while the capture is opened, read or released
        self._interrupted = threading.Event()
        self._opened = False

    @property
    def live(self) -> bool:
        """Frames are lost when nobody reads them."""
        return self.facts.live

    @property
    def fps(self) -> float | None:
        """Frames per second that it declares, None if unknown."""
        return self.facts.fps

    @property
    def declared_frames(self) -> int | None:
        """Frames that the container says it holds, None if it does not say."""
        return self.facts.declared_frames

    @abstractmethod
    def _open(self) -> Facts:
        """Open the capture and learn the facts; raises SourceUnavailable with its kind, or BadInput."""

    @abstractmethod
    def _shots(self) -> Shots:
        """Give every frame, then return the End (None: "end of file"); raises SourceUnavailable with its kind."""

    @abstractmethod
    def _release(self) -> None:
        """Release what `_open` took; also called when `_open` failed half-way, and then once only."""

    def open(self) -> Self:
        """Open now rather than with the first frame; raises SourceUnavailable, BadInput, or Closed."""
        if self._interrupted.is_set():
            raise Closed(f"{self.name} is closed; open_source gives a new one")
        try:
            with self._using, self._ending():
                self._ensure_open()
        finally:
            self._release_if_interrupted()
        return self

    def prepare(self) -> None:  # noqa: B027  # most sources have nothing to prepare
        """Do what can be done before it is opened; called while the time of the next connection has not come."""

    def next_shot(self) -> Shot | None:
        """The next shot, opening the source where it is not; None at its end; raises what went wrong."""
        return self._step(convert=True)

    def shots(self) -> Iterator[Shot]:
        """What it gives, without an index, and not converted yet: for sources around a source."""
        return iter(partial(self._step, convert=False), None)

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
        shot = self.next_shot()
        if shot is None:
            raise StopIteration
        return frame_of(shot, self.name, self.frames_read - 1, live=self.live)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _stop_asked(self) -> bool:
        """Whether it is interrupted; loops that wait ask it several times a second, which shows that none is stuck."""
        self.awake_ns = time.monotonic_ns()
        return self._interrupted.is_set()

    def _step(self, *, convert: bool) -> Shot | None:
        try:
            with self._using, self._ending():
                shot = self._next()
                return shot._replace(picture=shot.image) if shot is not None and convert else shot
        finally:
            self._release_if_interrupted()

    def _next(self) -> Shot | None:
        if self._interrupted.is_set():
            return None
        try:
            self._ensure_open()
        except Closed:  # meanwhile, by another thread
            return None
        assert self._shot_iterator is not None
        try:
            shot = next(self._shot_iterator)
        except StopIteration as exc:
            self._finish(exc.value or End("end of file", damaged=self._damaged))
            return None
        if self._interrupted.is_set():  # it came too late to belong to the stream
            return None
        self.frames_read += 1
        self._damaged = shot.damaged
        if self.awake_ns:
            self.awake_ns = time.monotonic_ns()
        return shot

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Note the end where it came while something of the source ran; an ended source holds nothing."""
        try:
            yield
        except BaseException as exc:
            error = exc if isinstance(exc, Exception) else Closed("interrupted")
            self._finish(End(kind_of(error), _told(self.name, error), self._damaged))
            raise
        if self._interrupted.is_set():
            self._finish(End("stopped", damaged=self._damaged))

    def _finish(self, end: End) -> None:
        """The first end stands, and what follows from being interrupted is no other."""
        if self.end is None:
            skipped = Counter(end.skipped) + Counter(self._left_out())
            stopped = self._interrupted.is_set()
            self.end = replace(End("stopped", damaged=end.damaged) if stopped else end, skipped=dict(skipped))
        self.interrupt()

    def _left_out(self) -> Mapping[str, int]:
        """Frames that came since the last shot and were left out, by reason; asked once, at the end."""
        return {}

    def _ensure_open(self) -> None:
        if not self._opened:
            self._opened = True
            self.facts = self._open()
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


def new_room(size: tuple[int, int]) -> Image:
    """Memory of its own for an image of (height, width)."""
    import numpy as np

    return np.empty((*size, 3), np.uint8)


def frame_of(shot: Shot, source: str, index: int, connection: int = 1, *, live: bool) -> Frame:
    """A shot as the frame that it is in its stream."""
    stamp = time.monotonic_ns() if shot.captured_ns is None else shot.captured_ns
    return Frame(shot.image, stamp, index, shot.pts_s, source, shot.path, connection, live)


def _told(name: str, error: Exception) -> str:
    """An error in one line; what a foreign library raised is named by its type, and redacted."""
    return str(error) if isinstance(error, EdgecvError) else redact(f"{name}: {type(error).__name__}: {error}")
