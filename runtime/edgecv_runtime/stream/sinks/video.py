"""Annotated frames as videos that play everywhere."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edgecv_runtime.errors import BadInput, Closed, Unavailable
from edgecv_runtime.preprocess import Image, Preprocess
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.sinks.base import Output, Sink
from edgecv_runtime.stream.sinks.segments import NO_LIMITS, Limits, Part, Segments

_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
SUFFIXES = tuple(_FORMATS)
# "zerolatency": no frame waits in the encoder, so that a stop is quick and a crash loses little. "superfast" takes 60 %
# of the time of "veryfast" for 17 % more bytes at the same quality (1280x720: 5.6 against 9.2 ms a frame).
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "superfast", "tune": "zerolatency", "crf": "23"},
    "mpeg4": {"qscale": "4"},
}
_TICKS = 60_000  # per second: exact for 24, 25, 29.97, 30, 50, 59.94 and 60; MPEG-4 allows up to 65,535
_NOMINAL_FPS = 25
_KEY_FRAME_EVERY = 50  # frames; what a crash can cost
_BT601, _LIMITED = 6, 1  # what _yuv420 makes, said in the file: players take untagged high definition for BT.709
# An MP4's index waits in memory, 69 bytes a frame, until the file is closed.
_MOST_FRAMES = 500_000
_LIVE_SECONDS = 3600.0  # of a camera's file, where nothing else is asked for

logger = logging.getLogger("edgecv")


class VideoSink(Sink):
    """Annotated frames as H.264 (MPEG-4 where PyAV has no libx264), each at its own presentation time.

    A file is written as `NAME.part.mp4` and gets its name when it is closed, so that one of that name is whole. What a
    crash left plays up to the last two seconds or so, and gets its name at the next start. Nothing is overwritten: a
    name that is taken gets a number. A new file begins when the old one is full, when the source connects anew, gives
    another size or sets its clock, and after a failure. Odd sizes are padded by one pixel; pictures of a folder are
    fitted into the size of the first with grey borders.
    """

    def __init__(self, path: str | Path, *, limits: Limits = NO_LIMITS) -> None:
        """path: .mp4, .mov or .mkv; `{source}` in it is replaced by the source's name, `{time}` by that of its start.

        limits: of one file; without, a camera's file holds an hour. Raises BadInput for another suffix or a folder
        that does not exist, Unavailable without PyAV.
        """
        self.name = str(path)
        if Path(path).suffix.lower() not in SUFFIXES:
            raise BadInput(f"{path}: a video is {', '.join(SUFFIXES)}")
        self._segments = Segments(path)
        self._limits = limits
        self._writers: dict[str, _Writer] = {}
        self._only: str | None = None  # the source of a file whose name has no {source}
        self._recovered = False
        self._closed = False
        _import_av()

    def start(self, sources: Sequence[str]) -> None:
        """Name the files of these sources; refuses several in one file: raises BadInput."""
        if len(sources) > 1 and not self._segments.by_source:
            path = self._segments.path
            raise BadInput(
                f"{self.name}: one video holds one source, and there are {len(sources)}; "
                f"use {path.stem}-{{source}}{path.suffix}"
            )
        self._segments.expect(sources)

    def write(self, output: Output) -> None:
        """Draw and encode one frame; after a failure, which is raised, the next frame begins a new file."""
        if self._closed:
            raise Closed(f"{self.name}: is closed")
        if not self._recovered:
            self._recovered = True
            _finish_left_over(self._segments)
        frame = output.frame
        self._only = self._only or frame.source
        if frame.source != self._only and not self._segments.by_source:
            raise BadInput(f"{self.name}: one video holds one source; put {{source}} into its name")
        writer = self._writers.get(frame.source)
        if writer is not None and not writer.holds(output):
            del self._writers[frame.source]
            writer.close()
            writer = None
        if writer is None:
            part = self._segments.begin(frame.source, output.unix_s, parts=True)
            if part.final != self._segments.name(frame.source, output.unix_s):
                logger.info("%s: the name is taken, this goes to %s", self.name, part.final.name)
            writer = self._writers[frame.source] = _Writer(part, self._limits)
        try:
            writer.write(output.result.draw(frame.image), output)
        except Exception:
            del self._writers[frame.source]
            writer.give_up()
            raise

    def close(self) -> None:
        """Finish the videos and give them their names; raises what goes wrong with the first one."""
        self._closed = True
        errors: list[Exception] = []
        while self._writers:
            _, writer = self._writers.popitem()
            try:
                writer.close()
            except Exception as exc:  # the others are finished first, then it is raised
                errors.append(exc)
        if errors:
            raise errors[0]


class _Writer:
    """One video file."""

    def __init__(self, part: Part, limits: Limits) -> None:
        self._part = part
        self._disk = _Disk(part.fd)
        self._limits = limits
        self._av: Any = _import_av()
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)  # (height, width), even
        self._clock = Clock()
        self._frames = 0
        self._first: Output | None = None

    def holds(self, output: Output) -> bool:
        """Whether a frame belongs into this file."""
        frame, first = output.frame, self._first
        if first is None:
            return True
        is_other = frame.connection != first.frame.connection or frame.image.shape != first.frame.image.shape
        if is_other and frame.path is None:  # a folder's pictures have a size each
            return False
        if frame.live and self._clock.steps(output):
            return False
        seconds = (frame.captured_ns - first.frame.captured_ns) / 1e9 if frame.live else self._clock.seconds
        limits = Limits(_LIVE_SECONDS) if frame.live and self._limits == NO_LIMITS else self._limits
        return self._frames < _MOST_FRAMES and not limits.reached(seconds, os.fstat(self._part.fd).st_size)

    def write(self, image: Image, output: Output) -> None:
        if self._container is None:
            self._open(image)
            self._first = output
        ticks, duration = self._clock.ticks(output)
        picture = self._av.VideoFrame.from_ndarray(_yuv420(_fit(image, self._size)), format="yuv420p")
        picture.pts = ticks
        picture.time_base = Fraction(1, _TICKS)
        self._mux(self._stream.encode(picture), duration)
        self._frames += 1

    def close(self) -> None:
        """Finish the file; raises what goes wrong, and keeps what can be played."""
        if self._container is None:
            self._part.discard()
            return
        try:
            self._mux(self._stream.encode(None), self._clock.step)
            self._container.close()
        except Exception:
            self.give_up()
            raise
        self._part.finish()

    def give_up(self) -> None:
        """Close the file as it is, after a failure that is reported already; what is too short to play is no file."""
        self._disk.is_lost = True
        with contextlib.suppress(self._av.FFmpegError, OSError):
            if self._container is not None:
                self._container.close()
        with contextlib.suppress(OSError):
            _cut_off_half_a_fragment(self._part)
            if _plays(self._part.path):
                self._part.finish()
            else:
                self._part.discard()

    def _open(self, image: Image) -> None:
        height, width = image.shape[:2]
        self._size = (height + height % 2, width + width % 2)
        options = {"flush_packets": "1"}  # what is encoded is in the file, not in a buffer that a crash takes along
        if self._part.path.suffix.lower() != ".mkv":
            options["movflags"] = "hybrid_fragmented+frag_keyframe"  # playable while it is written, plain when closed
        form = _FORMATS[self._part.path.suffix.lower()]
        self._container = self._av.open(self._disk, "w", format=form, options=options)
        name = next(name for name in _ENCODERS if name in self._av.codecs_available)
        stream = self._container.add_stream(name, rate=_NOMINAL_FPS, options=_ENCODERS[name])
        stream.height, stream.width = self._size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        stream.codec_context.gop_size = _KEY_FRAME_EVERY
        stream.codec_context.colorspace = _BT601
        stream.codec_context.color_range = _LIMITED
        self._stream = stream

    def _mux(self, packets: Any, duration: int) -> None:
        for packet in packets:
            packet.duration = duration  # of the last one, it is what the file's duration and frame rate are made of
            self._container.mux(packet)


class _Disk:
    """A file as PyAV writes it: after a failure nothing more, so that closing overwrites nothing that is good."""

    def __init__(self, fd: int) -> None:
        self.is_lost = False
        self._fd = fd

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest and not self.is_lost:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            self.is_lost = True
            raise
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._fd, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_CUR)

    def seekable(self) -> bool:
        return True


class Clock:
    """Presentation times for the encoder, growing whatever the source's own do.

    A recording's are its time stamps: one that steps back goes on with the step before, one without has 25 frames a
    second, and a step of more than a minute and ten steps is a new clock. A camera's are believed as long as they
    agree with the times of capture.
    """

    _AGREES_S = 1.0
    _LONGEST_S = 60.0
    _REPEATED_S = 1e-3

    def __init__(self) -> None:
        self.step = _TICKS // _NOMINAL_FPS
        self._last = -1
        self._now_s = 0.0
        self._first: Output | None = None
        self._before: Output | None = None
        self._zero_s: float | None = None  # the camera's stamp of this file's begin

    @property
    def seconds(self) -> float:
        """The time of the last frame."""
        return max(0, self._last) / _TICKS

    def steps(self, output: Output) -> bool:
        """Whether a camera's clock, or the wall clock, was set since the last frame."""
        if self._before is None:
            return False
        captured_s = (output.frame.captured_ns - self._before.frame.captured_ns) / 1e9
        stamped_s = _difference(output.frame, self._before.frame)
        wall_s = output.unix_s - self._before.unix_s
        return abs(wall_s - captured_s) > self._AGREES_S or (
            stamped_s is not None and abs(stamped_s - captured_s) > self._AGREES_S
        )

    def ticks(self, output: Output) -> tuple[int, int]:
        """(presentation time, likely duration) of a frame in 1/60000 s."""
        if self._before is None or self._first is None:
            self._first, self._last = output, 0
            self._zero_s = output.frame.pts_s
        else:
            now_s = self._captured_s(output.frame, self._first.frame) if output.frame.live else None
            self._now_s = self._now_s + self._step_s(output.frame, self._before.frame) if now_s is None else now_s
            ticks = max(self._last + round(self._REPEATED_S * _TICKS), round(self._now_s * _TICKS))
            self.step, self._last = ticks - self._last, ticks
        self._before = output
        return self._last, self.step

    def _captured_s(self, frame: Frame, first: Frame) -> float:
        """A camera's time since the first frame: smooth as its stamps, right as the captures."""
        captured_s = (frame.captured_ns - first.captured_ns) / 1e9
        if frame.pts_s is None:
            return captured_s
        if self._zero_s is None or abs(frame.pts_s - self._zero_s - captured_s) > self._AGREES_S:
            self._zero_s = frame.pts_s - captured_s
        return frame.pts_s - self._zero_s

    def _step_s(self, frame: Frame, before: Frame) -> float:
        """A recording's time since the last frame."""
        stamped_s = _difference(frame, before)
        if stamped_s is None:
            return 1 / _NOMINAL_FPS
        last_s = self.step / _TICKS
        return last_s if stamped_s < 0 or stamped_s > max(self._LONGEST_S, 10 * last_s) else stamped_s


def _difference(frame: Frame, before: Frame) -> float | None:
    """Seconds between two presentation times, None where one has none."""
    return None if frame.pts_s is None or before.pts_s is None else frame.pts_s - before.pts_s


def _finish_left_over(segments: Segments) -> None:
    """Give what a crash left its name, where it can be played; else leave it."""
    for part in segments.left_over():
        try:
            if _plays(part.path):
                logger.info("%s: left by a run that did not end, now %s", part.path, part.finish().name)
        except OSError as exc:
            logger.warning("%s: left by a run that did not end, and cannot be renamed: %s", part.path, exc.strerror)
        finally:
            part.leave()


def _cut_off_half_a_fragment(part: Part) -> None:
    """End an MP4 that was not closed with its last whole fragment (ISO 14496-12, 8.8)."""
    size = os.fstat(part.fd).st_size
    at, whole, has_index = 0, 0, False
    while part.path.suffix.lower() != ".mkv" and at + 8 <= size:
        head = os.pread(part.fd, 16, at)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        has_index = has_index or head[4:8] in (b"moov", b"moof")
        at += length
        if length < 8 or at > size:
            break
        whole = at if head[4:8] != b"moof" else whole
    if has_index and whole < size:
        os.ftruncate(part.fd, whole)


def _plays(path: Path) -> bool:
    """Whether a first packet of a video can be read."""
    av: Any = _import_av()
    try:
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace") as container:
            return any(packet.size for packet in container.demux(video=0))
    except (av.FFmpegError, IndexError):
        return False


def _fit(image: Image, size: tuple[int, int]) -> Image:
    """Fit an image into (height, width): pad by the missing odd row or column, or scale it and add grey borders."""
    missing = size[0] - image.shape[0], size[1] - image.shape[1]
    if missing == (0, 0):
        return np.ascontiguousarray(image)
    if all(0 <= pixels <= 1 for pixels in missing):
        return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return Preprocess(size=size, mode="letterbox", color="BGR")(image)


def _yuv420(image: Image) -> Image:
    """(H, W, 3) BGR -> (H * 3 / 2, W) planes Y, U, V in BT.601; a third of swscale's time, and half of its bias."""
    import cv2

    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420), np.uint8)


def _import_av() -> Any:
    try:
        import av
    except ImportError as exc:
        raise Unavailable("writing videos needs PyAV", extra="cpu") from exc
    return av
