"""A recording that behaves like a camera."""

from __future__ import annotations

import time
from dataclasses import replace

from edgecv_runtime.stream.sources.base import Facts, Shots, Source

_DEFAULT_FPS = 25.0
_LONGEST_S = 60.0  # between two frames, and ten times the time before: more is a clock that was set


class Paced(Source):
    """Another source at its own speed: each frame appears when its presentation time has come, and it is `live`.

    Where time stamps step back, or far ahead, as in recordings that were joined, it goes on from there.
    """

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
        start_s = before_s = usual_s = 0.0
        for number, shot in enumerate(self._inner.shots()):
            due_s = number / (self.fps or _DEFAULT_FPS) if shot.pts_s is None else shot.pts_s
            step_s = due_s - before_s
            if not number or not 0 <= step_s <= max(_LONGEST_S, 10 * usual_s):
                start_s = time.monotonic() + usual_s - due_s
            else:
                usual_s = step_s
            before_s = due_s
            if self._interrupted.wait(max(0.0, start_s + due_s - time.monotonic())):
                break
            yield shot._replace(captured_ns=time.monotonic_ns())
        return self._inner.end

    def _release(self) -> None:
        self._inner.close()
