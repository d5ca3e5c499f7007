"""A recording that behaves like a camera."""

from __future__ import annotations

import time
from collections.abc import Iterator

from edgecv_runtime.stream.sources.base import Shot, Source

_DEFAULT_FPS = 25.0


class Paced(Source):
    """Another source at its own speed: each frame appears when its presentation time has come, and it is `live`."""

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.name, live=True, timeout_s=inner.timeout_s)
        self._inner = inner

    def interrupt(self) -> None:
        super().interrupt()
        self._inner.interrupt()

    def _open(self) -> None:
        self._inner.open()
        self.fps, self.declared_frames = self._inner.fps, self._inner.declared_frames

    def _shots(self) -> Iterator[Shot]:
        start_s: float | None = None
        for frame in self._inner:
            self.damaged = self._inner.damaged
            due_s = frame.index / (self.fps or _DEFAULT_FPS) if frame.pts_s is None else frame.pts_s
            start_s = time.monotonic() - due_s if start_s is None else start_s
            if self._interrupted.wait(max(0.0, start_s + due_s - time.monotonic())):
                return
            yield Shot(frame.image, frame.pts_s, time.monotonic_ns(), frame.path)
        self.early, self.damaged = self._inner.early, self._inner.damaged
        self.first_damaged = self._inner.first_damaged

    def _release(self) -> None:
        self._inner.close()
