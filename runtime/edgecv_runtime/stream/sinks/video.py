"""Annotated frames as a video that plays everywhere."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edgecv_runtime.errors import BadInput, Closed, Unavailable
from edgecv_runtime.preprocess import Image, Preprocess
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.sinks.base import Output, Sink

SUFFIXES = (".mp4", ".mov", ".mkv")
# "zerolatency": no frame waits in the encoder, so that a stop is quick and a crash loses little. "superfast" takes 60 %
# of the time of "veryfast" for 17 % more bytes at the same quality (1280x720: 5.6 against 9.2 ms a frame).
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "superfast", "tune": "zerolatency", "crf": "23"},
    "mpeg4": {"qscale": "4"},
}
_TICKS = 60_000  # per second: exact for 24, 25, 29.97, 30, 50, 59.94 and 60; MPEG-4 allows up to 65,535
_NOMINAL_FPS = 25
_KEY_FRAME_EVERY = 50  # frames; what a crash can cost
_LONGEST_GAP_S = 10.0  # a greater step of the presentation time is a new clock, not a pause
_BT601, _LIMITED = 6, 1  # what _yuv420 makes, said in the file: players take untagged high definition for BT.709
_HYBRID = (61, 7)  # libavformat of FFmpeg 7.1, which can make an MP4 that is playable while it is written


class VideoSink(Sink):
    """Annotated frames as H.264 (MPEG-4 where PyAV has no libx264), each at its own presentation time.

    It is written as `NAME.part.mp4` and gets its name when it is closed, so that a file of that name is always whole.
    After a crash the `.part` file stays; with FFmpeg 7.1 or later it plays up to the last two seconds or so.
    Odd sizes are padded by one pixel. Frames of another size than the first are fitted into it with grey borders.
    """

    def __init__(self, path: str | Path) -> None:
        """path: .mp4, .mov or .mkv; `{source}` in it is replaced by the source's name, for several sources.

        Raises BadInput for another suffix or a folder that does not exist, Unavailable without PyAV.
        """
        self.name = str(path)
        self._path = Path(path)
        self._writers: dict[str, _Writer] = {}
        self._slugs: list[str] = []
        self._closed = False
        if self._path.suffix.lower() not in SUFFIXES:
            raise BadInput(f"{path}: a video is {', '.join(SUFFIXES)}")
        if not self._path.parent.is_dir():
            raise BadInput(f"{path}: there is no folder {self._path.parent}")
        _import_av()

    def start(self, sources: Sequence[str]) -> None:
        """Refuse several sources in one file; raises BadInput."""
        if len(sources) > 1 and "{source}" not in self._path.name:
            raise BadInput(
                f"{self.name}: one video holds one source, and there are {len(sources)}; "
                f"use {self._path.stem}-{{source}}{self._path.suffix}"
            )

    def write(self, output: Output) -> None:
        """Draw and encode one frame; raises what PyAV raises, then Closed for every further frame of that source."""
        if self._closed:
            raise Closed(f"{self.name}: is closed")
        source = output.frame.source
        if source not in self._writers:
            if self._writers and "{source}" not in self._path.name:
                raise BadInput(f"{self.name}: one video holds one source; put {{source}} into its name")
            self._writers[source] = _Writer(self._path_for(source))
        self._writers[source].write(output.result.draw(output.frame.image), output.frame)

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

    def _path_for(self, source: str) -> Path:
        """The path with the source's name, made fit for a file system and unlike those of the other sources."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", source if "://" in source else Path(source).name).strip("-")
        number = sum(slug == other for other in self._slugs)
        self._slugs.append(slug)
        return self._path.with_name(self._path.name.replace("{source}", f"{slug}-{number + 1}" if number else slug))


class _Writer:
    """One video file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f"{path.stem}.part{path.suffix}")
        self._av: Any = _import_av()
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)  # (height, width), even
        self._clock = _Clock()
        self._broken: str | None = None

    def write(self, image: Image, frame: Frame) -> None:
        if self._broken is not None:
            raise Closed(f"{self._part}: writing failed before: {self._broken}")
        try:
            if self._container is None:
                self._open(image)
            ticks, duration = self._clock.ticks(frame)
            picture = self._av.VideoFrame.from_ndarray(_yuv420(_fit(image, self._size)), format="yuv420p")
            picture.pts = ticks
            picture.time_base = Fraction(1, _TICKS)
            self._mux(self._stream.encode(picture), duration)
        except Exception as exc:
            self._broken = str(exc)
            raise

    def close(self) -> None:
        if self._container is None:
            return
        if self._broken is not None:
            with contextlib.suppress(self._av.FFmpegError):  # the error that broke it is counted already
                self._container.close()
            raise Closed(f"{self._path}: not finished; what was written is in {self._part}: {self._broken}")
        try:
            self._mux(self._stream.encode(None), self._clock.step)
        finally:
            self._container.close()
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
        self._part.replace(self._path)

    def _open(self, image: Image) -> None:
        height, width = image.shape[:2]
        self._size = (height + height % 2, width + width % 2)
        options = {"flush_packets": "1"}  # what is encoded is in the file, not in a buffer that a crash takes along
        if self._path.suffix.lower() != ".mkv" and self._av.library_versions["libavformat"][:2] >= _HYBRID:
            options["movflags"] = "hybrid_fragmented+frag_keyframe"
        self._container = self._av.open(f"file:{self._part}", "w", options=options)
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


class _Clock:
    """Presentation times for the encoder: the stream's own, and growing whatever the stream does."""

    def __init__(self) -> None:
        self.step = _TICKS // _NOMINAL_FPS
        self._last = -1
        self._last_s = 0.0
        self._zero_s: float | None = None

    def ticks(self, frame: Frame) -> tuple[int, int]:
        """(presentation time, likely duration) of a frame in 1/60000 s."""
        now_s = frame.captured_ns / 1e9 if frame.pts_s is None else frame.pts_s
        if self._zero_s is None or not -_LONGEST_GAP_S < now_s - self._last_s < _LONGEST_GAP_S:
            self._zero_s = now_s - (self._last + self.step if self._last >= 0 else 0) / _TICKS
        self._last_s = now_s
        ticks = max(self._last + 1, round((now_s - self._zero_s) * _TICKS))
        if self._last >= 0:
            self.step = ticks - self._last
        self._last = ticks
        return ticks, self.step


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
