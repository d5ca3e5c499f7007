"""Sources that do in their process what libraries and drivers do there; the children of the tests import this."""

from __future__ import annotations

import ctypes
import functools
import time

import numpy as np

from edgecv_runtime.stream.sources import open_source
from edgecv_runtime.stream.sources.base import Facts, Shot, Source
from edgecv_runtime.stream.sources.fake import numbered


class Trouble(Source):
    """Gives some frames, then does what it is told."""

    native = True

    def __init__(self, frames, then, size=(48, 64), timeout_s=5.0):
        super().__init__("cam", live=True, timeout_s=timeout_s)
        self.again = functools.partial(Trouble, frames, then, size, timeout_s)
        self.frames, self.then, self.size = frames, then, size

    def _open(self):
        return Facts(live=True, size=self.size, fps=100)

    def _shots(self):
        for number in range(self.frames):
            time.sleep(0.01)
            yield Shot(numbered(number, self.size), pts_s=number / 100, damaged=number // 10)
            if self._stop_asked():
                return
        if self.then == "segfault":
            ctypes.string_at(0)
        elif self.then == "hang":
            time.sleep(600)
        elif self.then == "grow":
            for number in range(self.frames, 2 * self.frames):
                time.sleep(0.01)
                yield Shot(numbered(number, (96, 128)))

    def _release(self):
        pass


class Still(Source):
    """Gives one picture again and again, as fast as `fps`, stamped at the moment it is handed over."""

    def __init__(self, size, fps, count):
        super().__init__("still", live=True)
        self.again = functools.partial(Still, size, fps, count)
        self.size, self.fps_, self.count = size, fps, count

    def _open(self):
        self.image = np.full((*self.size, 3), 7, np.uint8)
        return Facts(live=True, size=self.size, fps=self.fps_)

    def _shots(self):
        for _ in range(self.count):
            time.sleep(1 / self.fps_)
            yield Shot(self.image, captured_ns=time.monotonic_ns())

    def _release(self):
        pass


class InTurn(Source):
    """Gives what is in some files, one after the other, as a camera whose format changes."""

    def __init__(self, paths):
        super().__init__("in turn", live=False)
        self.again = functools.partial(InTurn, paths)
        self.paths = paths

    def _open(self):
        return Facts(live=False)

    def _shots(self):
        for path in self.paths:
            with open_source(path) as source:
                yield from source.shots()

    def _release(self):
        pass


def broken():
    """A setting that cannot work: the child cannot make this source."""
    raise ImportError("No module named 'camera_of_somebody'")
