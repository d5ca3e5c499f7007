"""A GStreamer pipeline in a `gst-launch-1.0` of its own, where OpenCV was built without GStreamer, as its wheels are.

Frames come through a pipe as raw BGR; their size is in what gst-launch says of the caps. What it decodes with is
GStreamer's choice by rank, so `decodebin` takes a Jetson's or a Rockchip's hardware decoder where there is one.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from fractions import Fraction
from typing import IO

import numpy as np

from edgecv_runtime.errors import BadInput, EdgecvError, SourceUnavailable, Unavailable
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.redact import redact, secrets_of, shown
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts, Shot, Shots, Source

LAUNCH, INSPECT = "gst-launch-1.0", "gst-inspect-1.0"
# Frames lie in a Jetson's own memory (NVMM) until nvvidconv copies them; one frame waits, the newest.
_CONVERT = (
    "videoconvert ! video/x-raw,format=BGR ! "
    "queue name=edgecv_frames leaky=downstream max-size-buffers=1 max-size-bytes=0"
)
_FROM_NVMM = "nvvidconv ! video/x-raw,format=BGRx ! "
# Of the queue that is ours: what the thread behind it says of its sink is lost now and then on a busy machine.
_CAPS = re.compile(
    rb"GstQueue:edgecv_frames\.GstPad:sink: caps = video/x-raw"
    rb".*?width=\(int\)(?P<width>\d+).*?height=\(int\)(?P<height>\d+)"
    rb"(?:.*?framerate=\(fraction\)(?P<rate>\d+/\d+))?"
)
_CSI = {  # by the element that must be there: JetPack's, and that of libcamera (Raspberry Pi)
    "nvarguscamerasrc": "nvarguscamerasrc sensor-id={number} ! video/x-raw(memory:NVMM),framerate=30/1 ! "
    "nvvidconv ! video/x-raw,format=BGRx",
    "libcamerasrc": "libcamerasrc ! video/x-raw",
}
_SINK = re.compile(r"\s*!\s*appsink\b[^!]*$")  # for an OpenCV with GStreamer; here the pipe takes its place
_POLL_S = 0.1  # how soon a waiting read sees that it is interrupted
_LONGEST_NAME = 60
_MOST_SAID = 100_000  # bytes
_SOON_S = 0.01


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
        self._said: IO[bytes] | None = None  # caps and errors; a file, which never blocks the child
        self._heard, self._last_said = 0, b""

    def _open(self) -> Facts:
        import fcntl  # not everywhere, nor is GStreamer

        copied = _FROM_NVMM if "NVMM" not in self._pipeline and has_element("nvvidconv") else ""
        self._pipe, theirs = os.pipe()
        try:
            words = shlex.split(f"{self._pipeline} ! {copied}{_CONVERT} ! fdsink fd={theirs}")
            self._said = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # closed in _release
            fcntl.fcntl(self._said, fcntl.F_SETFL, fcntl.fcntl(self._said, fcntl.F_GETFL) | os.O_APPEND)
            self._child = subprocess.Popen(
                [LAUNCH, "-v", "-e", *words],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs,),
            )
        except FileNotFoundError as exc:
            raise Unavailable(f"{self.name}: needs {LAUNCH} (apt install gstreamer1.0-tools)") from exc
        except ValueError as exc:
            raise BadInput(f"{self.name}: a quote is not closed") from exc
        finally:
            os.close(theirs)
        if not self._readable(self.timeout_s):
            raise self._failed("no answer", f"no frame within {self.timeout_s:g} s")
        caps = self._first_caps()
        if caps is None:
            raise self._failed("no video", "the pipeline ended before its first frame")
        height, width, fps = caps
        return Facts(live=True, size=(height, width), fps=fps, codec="gstreamer")

    def _shots(self) -> Shots:
        assert self.facts.size is not None
        height, width = self.facts.size
        stride = (3 * width + 3) // 4 * 4  # GStreamer's rows begin at multiples of four bytes
        while True:
            image = self.room((height, width))
            padded = image.reshape(height, -1) if stride == 3 * width else np.empty((height, stride), np.uint8)
            captured_ns = self._fill(padded.reshape(-1).data)
            if captured_ns is None:
                break
            caps = self._caps()
            if caps is not None and caps[:2] != (height, width):
                return End("hung up", f"the size became {caps[1]}x{caps[0]}")
            if stride != 3 * width:
                image.reshape(height, -1)[:] = padded[:, : 3 * width]
            yield Shot(image, captured_ns=captured_ns)
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
        if self._said is not None:
            self._said.close()
            self._said = None

    def _fill(self, buffer: memoryview) -> int | None:
        """Read one frame; when it began to come, None at the end. Raises SourceUnavailable when none comes."""
        began_ns, at = None, 0
        while at < len(buffer):
            if not self._readable(self.timeout_s):
                if self._interrupted.is_set():
                    return None
                raise SourceUnavailable(f"{self.name}: stalled: no frame within {self.timeout_s:g} s", kind="stalled")
            began_ns = began_ns or time.monotonic_ns()
            count = os.readv(self._pipe, [buffer[at:]])
            if not count:
                return None
            at += count
        return began_ns

    def _readable(self, timeout_s: float) -> bool:
        """Whether something comes, or the end, within the timeout; False also when interrupted."""
        end_s = time.monotonic() + timeout_s
        while not self._interrupted.is_set() and (rest_s := end_s - time.monotonic()) > 0:
            if select.select([self._pipe], [], [], min(_POLL_S, rest_s))[0]:
                return True
        return False

    def _first_caps(self) -> tuple[int, int, float | None] | None:
        """What was said of the first frame; None where the pipeline ended without one.

        Another thread of gst-launch says it than the one that gives the frame, which may be there sooner.
        """
        assert self._child is not None
        end_s = time.monotonic() + self.timeout_s
        while not self._interrupted.is_set() and time.monotonic() < end_s:
            has_ended = self._child.poll() is not None  # asked first: what it has said until then counts
            caps = self._caps()
            if caps is not None or has_ended:
                return caps
            time.sleep(_SOON_S)
        return None

    def _caps(self) -> tuple[int, int, float | None] | None:
        """(height, width, frames per second) where something was said of them since this was asked last."""
        found = list(_CAPS.finditer(self._listen()))
        if not found:
            return None
        rate = found[-1]["rate"] or b"0/1"
        fps = 0.0 if rate.endswith(b"/0") else float(Fraction(rate.decode()))
        return int(found[-1]["height"]), int(found[-1]["width"]), fps or None

    def _listen(self) -> bytes:
        """The lines that gst-launch has said since; the file is emptied: some elements report with every frame."""
        assert self._said is not None
        news = os.pread(self._said.fileno(), _MOST_SAID, self._heard)
        if len(news) < _MOST_SAID:
            news = news[: news.rfind(b"\n") + 1]  # it may be in the middle of one
        self._heard += len(news)
        self._last_said = (self._last_said + news)[-_MOST_SAID:]
        if self._heard >= _MOST_SAID:
            self._said.truncate(0)
            self._heard = 0
        return news

    def _exit_code(self) -> int:
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._child.wait(1.0)
        return 0

    def _failed(self, kind: str, words: str) -> EdgecvError:
        """With what gst-launch said, where it said something."""
        self._exit_code()
        self._listen()
        said = self._last_said.decode(errors="replace")
        found = re.search(r"(?:ERROR|erroneous pipeline)[^:]*: (?P<text>[^\n]+)", said)
        text = redact(found["text"])[:200] if found else ""
        if "erroneous pipeline" in said:
            return BadInput(f"{self.name}: {text}")
        return SourceUnavailable(f"{self.name}: {words}{': ' if text else ''}{text}", kind=kind)


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
        "(apt install gstreamer1.0-libcamera gstreamer1.0-tools)"
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
