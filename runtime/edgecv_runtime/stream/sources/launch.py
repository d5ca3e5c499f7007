"""A GStreamer pipeline in a `gst-launch-1.0` of its own, where OpenCV was built without GStreamer, as its wheels are.

Frames come through a pipe as raw BGR in GStreamer's own data protocol (`gdppay`), which tells their size between them:
what gst-launch says of it comes from another thread, before or after the frames. What it decodes with is GStreamer's
choice by rank, so `decodebin` takes a Jetson's or a Rockchip's hardware decoder where there is one.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import struct
import subprocess
import time
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from edgecv_runtime.errors import BadInput, EdgecvError, SourceUnavailable, Unavailable
from edgecv_runtime.lastwords import LastWords
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.redact import redact, secrets_of, shown
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts, Shot, Shots, Source

LAUNCH, INSPECT = "gst-launch-1.0", "gst-inspect-1.0"
# Frames lie in a Jetson's own memory (NVMM) until nvvidconv copies them. Only pixels that are not square are scaled.
# One frame waits, the newest.
_CONVERT = (
    "videoconvert ! videoscale ! video/x-raw,format=BGR,pixel-aspect-ratio=1/1 ! "
    "queue leaky=downstream max-size-buffers=1 max-size-bytes=0 ! gdppay"
)
_FROM_NVMM = "nvvidconv ! video/x-raw,format=BGRx ! "
# A header of GStreamer's data protocol 1.0 (gst-plugins-bad, gst/gdp/dataprotocol.c): version, type, bytes that follow;
# time stamps, offsets and checksums, which are not needed here, fill the rest.
_HEADER = struct.Struct(">B3xHI52x")
_VERSION, _BUFFER, _CAPS, _EVENTS = 1, 1, 2, 64  # types; from the last one on events
_LONGEST_WORDS = 1 << 20  # bytes of caps; an event may have more: tags hold pictures
_SIDE = re.compile(rb"\b(width|height)=\(int\)(\d+)")
_RATE = re.compile(rb"\bframerate=\(fraction\)(\d+/\d+)")
_CSI = {  # by the element that must be there: JetPack's, and that of libcamera (Raspberry Pi)
    "nvarguscamerasrc": "nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),framerate=30/1 ! "
    "nvvidconv ! video/x-raw,format=BGRx",
    "libcamerasrc": "libcamerasrc ! video/x-raw",
}
_SINK = re.compile(r"\s*!\s*appsink\b[^!]*$")  # for an OpenCV with GStreamer; here the pipe takes its place
_POLL_S = 0.1  # how soon a waiting read sees that it is interrupted
_LONGEST_NAME = 60


class _Caps(NamedTuple):
    """What GStreamer says of frames that follow; size: (height, width), fps: None where it does not say."""

    size: tuple[int, int]
    fps: float | None

    @property
    def stride(self) -> int:
        """Bytes of a row: they begin at multiples of four."""
        return (3 * self.size[1] + 3) // 4 * 4


class LaunchSource(Source):
    """Frames of a pipeline as `gst-launch-1.0` takes it, from a child process; it is `live`.

    `captured_ns` is when the frame began to come through the pipe. A change of size ends it, so that it begins anew.
    """

    def __init__(self, pipeline: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """pipeline: elements and `!`; it must end in video. Raises BadInput when it is empty or holds a password."""
        text = _SINK.sub("", pipeline.strip())
        super().__init__(pipeline_name(text), live=True, timeout_s=timeout_s)
        if secrets_of(text):
            raise BadInput(
                f"{self.name}: a password in a pipeline would be seen in the process list of {LAUNCH}; give the camera "
                "as rtsp://, or use an OpenCV with GStreamer"
            )
        self._pipeline = text
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._caps: _Caps | None = None  # of the next frame
        self._end_s = 0.0  # until when it must be here
        self._said: LastWords | None = None
        self._came_ns: int | None = None  # when the header of the next frame came; None where the pipeline has ended

    def _open(self) -> Facts:
        copied = _FROM_NVMM if "NVMM" not in self._pipeline and has_element("nvvidconv") else ""
        self._pipe, theirs = os.pipe()
        try:
            words = shlex.split(f"{self._pipeline} ! {copied}{_CONVERT} ! fdsink fd={theirs}")
            self._child = subprocess.Popen(
                [LAUNCH, "-e", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
            )
            self._said = LastWords(self._child.stdout)
        except FileNotFoundError as exc:
            raise Unavailable(
                f"{self.name}: needs {LAUNCH} (apt install gstreamer1.0-tools gstreamer1.0-plugins-bad)"
            ) from exc
        except ValueError as exc:
            raise BadInput(f"{self.name}: a quote is not closed") from exc
        finally:
            os.close(theirs)
        try:
            self._came_ns = self._next_frame()
        except SourceUnavailable as exc:
            if exc.kind != "stalled":
                raise
            raise self._failed("no answer", f"no frame within {self.timeout_s:g} s") from exc
        if self._came_ns is None or self._caps is None:
            raise self._failed("no video", "the pipeline ended before its first frame")
        return Facts(live=True, size=self._caps.size, fps=self._caps.fps, codec="gstreamer")

    def _shots(self) -> Shots:
        assert self._caps is not None
        size, stride = self._caps.size, self._caps.stride
        height, width = size
        while self._came_ns is not None:
            if self._caps.size != size:
                height, width = self._caps.size
                return End("hung up", f"the size became {width}x{height}")
            image = self.room(size)
            rows = image.reshape(height, -1) if stride == 3 * width else np.empty((height, stride), np.uint8)
            if not self._fill(rows.reshape(-1).data):
                break
            if stride != 3 * width:
                image.reshape(height, -1)[:] = rows[:, : 3 * width]
            yield Shot(image, captured_ns=self._came_ns)
            self._came_ns = self._next_frame()
        if self._interrupted.is_set():
            return End("stopped")
        if self._exit_code():
            raise self._failed("lost", f"the pipeline broke after {self.frames_read} frames")
        return End("hung up", f"the pipeline ended after {self.frames_read} frames")

    def _release(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _next_frame(self) -> int | None:
        """Read up to the bytes of the next frame, and its caps where they come before it; when its header came.

        None at the end. Raises SourceUnavailable where none comes in time, or what comes is none.
        """
        self._end_s = time.monotonic() + self.timeout_s
        header = bytearray(_HEADER.size)
        while self._fill(memoryview(header)):
            came_ns = time.monotonic_ns()
            version, kind, length = _HEADER.unpack(header)
            if kind == _BUFFER and self._caps is not None and length == self._caps.stride * self._caps.size[0]:
                return came_ns
            is_event = kind >= _EVENTS
            if version != _VERSION or not (is_event or (kind == _CAPS and length <= _LONGEST_WORDS)):
                raise SourceUnavailable(f"{self.name}: sends what is no frame", kind="lost")
            words = bytearray(min(length, _LONGEST_WORDS))
            for rest in range(length, 0, -_LONGEST_WORDS):
                if not self._fill(memoryview(words)[:rest]):
                    return None
            if not is_event:
                self._caps = _caps_of(bytes(words))
        return None

    def _fill(self, buffer: memoryview) -> bool:
        """Read so many bytes; False at the end. Raises SourceUnavailable when none come."""
        at = 0
        while at < len(buffer):
            if not self._readable():
                if self._interrupted.is_set():
                    return False
                raise SourceUnavailable(f"{self.name}: stalled: no frame within {self.timeout_s:g} s", kind="stalled")
            count = os.readv(self._pipe, [buffer[at:]])
            if not count:
                return False
            at += count
        return True

    def _readable(self) -> bool:
        """Whether something comes, or the end, before it is too late; False also when interrupted."""
        while not self._interrupted.is_set() and (rest_s := self._end_s - time.monotonic()) > 0:
            if select.select([self._pipe], [], [], min(_POLL_S, rest_s))[0]:
                return True
        return False

    def _exit_code(self) -> int:
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._child.wait(1.0)
        return 0

    def _failed(self, kind: str, words: str) -> EdgecvError:
        """With what gst-launch said, where it said something."""
        assert self._child is not None
        assert self._said is not None
        self._exit_code()
        self._child.kill()  # where it still runs
        said = self._said.whole()
        found = re.search(r"(?:ERROR|erroneous pipeline)[^:]*: (?P<text>[^\n]+)", said)
        text = redact(found["text"])[:200] if found else ""
        if 'no element "gdppay"' in said:
            return Unavailable(f"{self.name}: needs GStreamer's gdppay (apt install gstreamer1.0-plugins-bad)")
        if "erroneous pipeline" in said:
            return BadInput(f"{self.name}: {text}")
        return SourceUnavailable(f"{self.name}: {words}{': ' if text else ''}{text}", kind=kind)


def _caps_of(words: bytes) -> _Caps | None:
    """Caps in words; None where they do not tell a size."""
    sides = {name: int(value) for name, value in _SIDE.findall(words)}
    if sides.keys() != {b"width", b"height"} or not all(sides.values()):
        return None
    rate = _RATE.search(words)
    fps = 0.0 if rate is None or rate[1].endswith(b"/0") else float(Fraction(rate[1].decode()))
    return _Caps((sides[b"height"], sides[b"width"]), fps or None)


def csi(text: str) -> str:
    """The pipeline of a camera at a board's own connector, `csi://0`; raises BadInput, or Unavailable with the cure."""
    number = text.removeprefix("//") or "0"
    if not number.isdecimal():
        raise BadInput(f"csi:{text}: expected csi://0, a sensor's number")
    for element, pipeline in _CSI.items():
        if has_element(element):
            return pipeline.format(number=number)
    raise Unavailable(
        f"csi://{number}: needs GStreamer's nvarguscamerasrc (JetPack has it) or libcamerasrc "
        "(apt install gstreamer1.0-libcamera gstreamer1.0-tools gstreamer1.0-plugins-bad)"
    )


def has_element(name: str) -> bool:
    """Whether this machine's GStreamer has an element."""
    command = shutil.which(INSPECT)
    if command is None:
        return False
    silent = subprocess.DEVNULL
    return subprocess.run([command, "--exists", name], stdout=silent, stderr=silent, check=False).returncode == 0


def pipeline_name(pipeline: str) -> str:
    """What a pipeline is called in reports, without passwords; raises BadInput when it is empty."""
    name = shown(pipeline)
    if not name:
        raise BadInput("gst: expected a pipeline, as gst:videotestsrc ! videoconvert")
    return f"gst:{name if len(name) <= _LONGEST_NAME else f'{name[:_LONGEST_NAME]}...'}"
