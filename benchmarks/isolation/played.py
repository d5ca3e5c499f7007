"""A clip that is played as a network camera is read."""

from __future__ import annotations

import itertools
import time
from functools import partial

from edgecv_runtime.stream.sources.base import Facts, Shots, Source
from edgecv_runtime.stream.sources.libav import Decoder


class Played(Source):
    """Each picture is decoded when its time has come, as NetworkSource decodes, and is captured when that is done."""

    def __init__(self, path: str, fps: int) -> None:
        super().__init__(path, live=True)
        self.again = partial(Played, path, fps)
        self._path, self._fps = path, fps
        self._decoder: Decoder | None = None

    def _open(self) -> Facts:
        timeouts_s = self.timeout_s, self.timeout_s
        self._decoder = Decoder(self._path, name=self.name, options={}, timeouts_s=timeouts_s, threads="SLICE")
        return self._decoder.facts(live=True)

    def _shots(self) -> Shots:
        assert self._decoder is not None
        shots, start_s = self._decoder.shots(), time.monotonic()
        for number in itertools.count():
            self._interrupted.wait(max(0.0, start_s + number / self._fps - time.monotonic()))
            shot = next(shots, None)
            if shot is None:
                break
            yield shot._replace(captured_ns=time.monotonic_ns())
        return None

    def _release(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
