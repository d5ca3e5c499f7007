"""A scripted camera, shipped so that users can test their own code against everything a camera does."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgecv_runtime.errors import BadInput, SourceUnavailable, nearest
from edgecv_runtime.preprocess import Image
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts, Shot, Shots, Source


@dataclass(frozen=True, eq=False)
class Frames:
    """Give `count` frames: of `size` (height, width) with their index in the pixels, or always `image`."""

    count: int
    size: tuple[int, int] = (240, 320)
    image: Image | None = None


@dataclass(frozen=True)
class Freeze:
    """Give nothing for `seconds`; from `timeout_s` on this is SourceUnavailable, as with a real camera."""

    seconds: float


@dataclass(frozen=True)
class Fail:
    """Raise SourceUnavailable, as a camera that is unplugged; kind: of its End."""

    message: str = "unplugged"
    kind: str = "lost"


@dataclass(frozen=True)
class HangUp:
    """End the stream too early, as a camera that hangs up; a script that runs out ends where it should."""


@dataclass(frozen=True)
class Jump:
    """Set the camera's clock by `seconds`: the time stamps that follow are later, or earlier."""

    seconds: float


Step = Frames | Freeze | Fail | HangUp | Jump


_WORDS = ("frames", "fps", "size", "freeze", "jump", "fail", "end")


class FakeCamera(Source):
    """Play a script: `FakeCamera([Frames(50), Freeze(2), Frames(50, size=(480, 640)), Fail()], fps=25)`.

    With `fps` it is `live` and paced; without, it gives frames as fast as they are taken and is not `live`.
    """

    def __init__(
        self,
        script: Sequence[Step],
        *,
        fps: float | None = None,
        name: str = "fake",
        open_s: float = 0.0,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """script: the steps in order; fps: frames per second; open_s: how long it takes to open, in seconds."""
        super().__init__(name, live=fps is not None, timeout_s=timeout_s)
        self._script = tuple(script)
        self._interval_s = 1 / fps if fps is not None else 0.0
        self._open_s = open_s
        self._declared_fps = fps

    @classmethod
    def parse(cls, text: str, *, name: str = "", timeout_s: float = DEFAULT_TIMEOUT_S) -> FakeCamera:
        """From a script in words, by commas or by &: `fps=25,size=640x480,50,freeze=2,50,fail` (see `open_source`).

        A number (or frames=N) is that many frames. Raises BadInput for anything it does not know.
        """
        name = name or f"fake:{text}"
        fps: float | None = None
        size = (240, 320)
        script: list[Step] = []
        for word in filter(None, re.split("[,&]", text)):
            key, _, value = word.strip().partition("=")
            try:
                if key == "frames" or (key.isdecimal() and not value):
                    script.append(Frames(int(value or key), size))
                elif key == "fps":
                    fps = float(value)
                elif key == "size":
                    width, _, height = value.partition("x")
                    size = (int(height), int(width))
                elif key == "freeze":
                    script.append(Freeze(float(value)))
                elif key == "jump":
                    script.append(Jump(float(value)))
                elif key == "fail":
                    script.append(Fail(value) if value else Fail())
                elif key == "end":
                    script.append(HangUp())
                else:
                    raise BadInput(f"{name}: unknown step '{key}'{nearest(key, _WORDS)}")
            except ValueError as exc:
                if isinstance(exc, BadInput):
                    raise
                raise BadInput(f"{name}: '{word}' wants a number, as in fps=25, size=640x480, freeze=2, 100") from exc
        if fps is not None and not 0 < fps < float("inf"):
            raise BadInput(f"{name}: 'fps={fps:g}' wants a number of frames per second")
        if not any(isinstance(step, Frames) for step in script):
            script.insert(0, Frames(100, size))
        return cls(script, fps=fps, name=name, timeout_s=timeout_s)

    def _open(self) -> Facts:
        self._wait(self._open_s, "no answer", "no answer")
        return Facts(live=self.live, fps=self._declared_fps)

    def _shots(self) -> Shots:
        due_s = time.monotonic()
        number, ahead_s = 0, 0.0
        for step in self._script:
            if isinstance(step, Freeze):
                self._wait(step.seconds, "stalled: no frame", "stalled")
                due_s += step.seconds
            elif isinstance(step, Fail):
                raise SourceUnavailable(f"{self.name}: {step.message}", kind=step.kind)
            elif isinstance(step, Jump):
                ahead_s += step.seconds
            elif isinstance(step, HangUp):
                return End("hung up", f"the camera ended the stream after {self.frames_read} frames")
            else:
                for _ in range(step.count):
                    self._interrupted.wait(max(0.0, due_s - time.monotonic()))
                    image = step.image if step.image is not None else numbered(number, step.size, self.room(step.size))
                    yield Shot(image, pts_s=number * self._interval_s + ahead_s if self._interval_s else None)
                    number += 1
                    due_s += self._interval_s
        return None

    def _wait(self, seconds: float, trouble: str, kind: str) -> None:
        self._interrupted.wait(min(seconds, self.timeout_s))
        if seconds >= self.timeout_s and not self._interrupted.is_set():
            raise SourceUnavailable(f"{self.name}: {trouble} within {self.timeout_s:g} s", kind=kind)

    def _release(self) -> None:
        pass  # holds nothing


def numbered(number: int, size: tuple[int, int], room: Image | None = None) -> Image:
    """A (H, W, 3) uint8 picture that differs from frame to frame and holds `number`, for `number_of`.

    room: the memory for it.
    """
    height, width = size
    row = np.arange(width, dtype=np.uint32) * 255 // max(1, width - 1)
    column = np.arange(height, dtype=np.uint32) * 255 // max(1, height - 1)
    image = np.empty((height, width, 3), np.uint8) if room is None else room
    image[..., 0] = row
    image[..., 1] = column[:, np.newaxis]
    image[..., 2] = (4 * number) % 256
    image[0, 0] = number & 255, number >> 8 & 255, number >> 16 & 255
    return image


def number_of(image: Image) -> int:
    """Which frame of a FakeCamera an image is, read back from its first pixel."""
    return int(image[0, 0, 0]) | int(image[0, 0, 1]) << 8 | int(image[0, 0, 2]) << 16
