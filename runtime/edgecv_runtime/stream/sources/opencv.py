"""What the sources on `cv2.VideoCapture` share: a thread that owns the capture, and a clock that watches it."""

from __future__ import annotations

import queue
import threading
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from edgecv_runtime.errors import Closed, SourceUnavailable
from edgecv_runtime.preprocess import import_cv2
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.sources.base import Facts, Shot, Shots, Source

_STALL = 0.9  # OpenCV gives a stale frame and True after a timeout: the elapsed time tells, not the boolean
_OLDEST_NS = 10_000_000_000  # a stamp that is older is of another clock; Video4Linux stamps frames by the monotonic one
_POLL_S = 0.1  # how soon a waiting read sees that it is interrupted
_RELEASE_S = 1.0  # how long a release is waited for, so that the device is free again


class OpenCvSource(Source):
    """A source on a `cv2.VideoCapture`; a subclass makes the capture and says what an end means.

    Not every backend of OpenCV has timeouts (Video4Linux, GStreamer before 4.7), so the capture is made, read and
    released by a thread of its own, for which nobody waits longer than `timeout_s`.
    """

    native = True

    def __init__(self, name: str, *, live: bool, timeout_s: float) -> None:
        super().__init__(name, live=live, timeout_s=timeout_s)
        self._capture: Any = None  # touched by the owner's thread only
        self._owner: _Owner | None = None

    @abstractmethod
    def _make_capture(self) -> Any:
        """A new capture, opened or not; it is asked `isOpened`."""

    @abstractmethod
    def _not_opened(self) -> SourceUnavailable:
        """Why the capture may not have opened."""

    @abstractmethod
    def _ended(self) -> End:
        """The capture gave no frame: how that ends it; or raises SourceUnavailable."""

    def _check(self, facts: Facts) -> None:
        """Raise BadInput where the capture is not what was asked for."""

    def _open(self) -> Facts:
        self._owner = _Owner(self.name, self._drop_capture)
        facts: Facts | None = self._owner.do(self._start_capture, self._waits("no answer", "no answer"))
        if facts is None:
            raise self._not_opened()
        self._check(facts)
        return facts

    def _shots(self) -> Shots:
        assert self._owner is not None
        while not self._interrupted.is_set():
            start_s = time.monotonic()
            room = None if self.facts.size is None else self.room(self.facts.size)
            try:
                given, image, captured_ns = self._owner.do(
                    partial(self._read, room), self._waits("stalled: no frame", "stalled")
                )
            except Closed:
                break
            if time.monotonic() - start_s >= _STALL * self.timeout_s:
                raise SourceUnavailable(f"{self.name}: stalled: no frame within {self.timeout_s:g} s", kind="stalled")
            if not given:
                return self._ended()
            yield Shot(_bgr(image), captured_ns=captured_ns)
        return End("stopped")

    def _release(self) -> None:
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def _start_capture(self) -> Facts | None:
        cv2 = import_cv2()
        self._capture = self._make_capture()
        if not self._capture.isOpened():
            return None
        get = self._capture.get
        size = round(get(cv2.CAP_PROP_FRAME_HEIGHT)), round(get(cv2.CAP_PROP_FRAME_WIDTH))
        code = round(get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        codec = code.to_bytes(4, "little").decode("latin-1").strip("\0 ")
        return Facts(
            live=True,
            size=size if all(size) else None,
            fps=get(cv2.CAP_PROP_FPS) if get(cv2.CAP_PROP_FPS) > 0 else None,
            codec=codec if codec.isprintable() and codec else None,
        )

    def _read(self, room: Any) -> tuple[bool, Any, int]:
        """(whether there was a frame, it, when it was captured), in the owner's thread.

        room: where it is to be; OpenCV takes other memory for one of another size.
        """
        given, image = self._capture.read(room)
        now_ns = time.monotonic_ns()
        stamp_ns = round(1e6 * self._capture.get(import_cv2().CAP_PROP_POS_MSEC)) if given else 0
        return given, image, stamp_ns if stamp_ns > 0 and 0 <= now_ns - stamp_ns < _OLDEST_NS else now_ns

    def _drop_capture(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _waits(self, trouble: str, kind: str) -> Callable[[float], None]:
        """What is asked again and again while the owner works, with the seconds so far: raises to stop waiting."""

        def check(waited_s: float) -> None:
            if self._stop_asked():
                raise Closed(f"{self.name} was closed meanwhile")
            if waited_s >= self.timeout_s:
                raise SourceUnavailable(f"{self.name}: {trouble} within {self.timeout_s:g} s", kind=kind)

        return check


class _Owner:
    """A thread that owns a capture: does one job after the other, and at last drops it."""

    def __init__(self, name: str, drop: Callable[[], None]) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        self._drop = drop
        self._busy = False
        self._thread = threading.Thread(target=self._run, name=f"edgecv-capture {name}", daemon=True)
        self._thread.start()

    def do(self, job: Callable[[], Any], check: Callable[[float], None]) -> Any:
        """The job's result, or what it raised, or what `check(seconds waited)` raised meanwhile."""
        self._busy = True
        self._jobs.put(job)
        start_s = time.monotonic()
        while True:
            try:
                result, error = self._results.get(timeout=_POLL_S)
                break
            except queue.Empty:
                check(time.monotonic() - start_s)
        self._busy = False
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Drop the capture after the job at hand; is it one that nobody waited for, it happens when that returns."""
        self._jobs.put(None)
        if not self._busy:
            self._thread.join(_RELEASE_S)

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                try:
                    self._results.put((job(), None))
                except Exception as exc:  # handed to whoever waits
                    self._results.put((None, exc))
        finally:
            self._drop()


def _bgr(image: Any) -> Any:
    """(H, W) or (H, W, 1) grey, as infrared cameras give it, -> (H, W, 3)."""
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image
