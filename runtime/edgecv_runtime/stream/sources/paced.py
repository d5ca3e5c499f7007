"""A recording that behaves like a camera."""

from __future__ import annotations

import time
from dataclasses import replace

from edgecv_runtime.stream.sources.base import Facts, Shots, Source

_DEFAULT_FPS = 25.0


class Paced(Source):
    """Another source at its own speed: each frame appears when its presentation time has come, and it is `live`."""

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.name, live=True, timeout_s=inner.timeout_s)
        self._inner = inner
        self.native = inner.native

    def interrupt(self) -> None:
        super().interrupt()
        self._inner.interrupt()

    def _open(self) -> Facts:
        return replace(self._inner.open().facts, live=True)

    def _shots(self) -> Shots:
        start_s: float | None = None
        for number, shot in enumerate(self._inner.shots()):
            due_s = number / (self.fps or _DEFAULT_FPS) if shot.pts_s is None else shot.pts_s
            start_s = time.monotonic() - due_s if start_s is None else start_s
            if self._interrupted.wait(max(0.0, start_s + due_s - time.monotonic())):
                break
            yield shot._replace(captured_ns=time.monotonic_ns())
        return self._inner.end

    def _release(self) -> None:
        self._inner.close()
