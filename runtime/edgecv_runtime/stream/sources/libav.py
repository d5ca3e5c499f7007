"""Decoding with PyAV, for files and for the network: open with timeouts, count packets, give upright pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgecv_runtime.stream.sources.base import Facts, Shot
from edgecv_runtime.stream.sources.decoded import Decoded, import_av

_LEAST_ASPECT = 0.25  # of a pixel, and at most 4: beyond, a header is broken; television has 64:45 and 40:33
# Demuxers without a clock: FFmpeg numbers what comes, at 25 per second (opencv#4528).
_UNSTAMPED = {"mpjpeg", "mjpeg", "mjpeg_2000", "jpeg_pipe", "image2", "image2pipe", "png_pipe", "rawvideo"}
_INDEXED = {"mov,mp4,m4a,3gp,3g2,mj2", "avi"}
_SLACK_S = 0.5  # by how much a complete file's last frame may miss the duration in its header
_MOST_FLUSHES = 64  # frames that a decoder may still hold at the end; bounds the retries after errors


class NoVideo(Exception):
    """The container opened, but no stream in it is video that can be decoded."""


class Decoder:
    """The best video stream of one container, decoded.

    packets: video packets demuxed, without those that the container's edit list hides.
    damaged: packets that could not be decoded, and frames that the decoder marked as corrupt.
    broken_off: the last packet was not complete.
    stamped: time stamps are the camera's or the container's; else FFmpeg made them up, and frames have none.
    segmented: it comes in bursts of seconds (HLS).
    declared_frames: that the container says it shows, None if it does not say.
    last_pts_s: presentation time of the last frame in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        options: Mapping[str, str],
        timeouts_s: tuple[float | None, float | None],
        threads: str,
    ) -> None:
        """Open `url`; raises what PyAV raises, or NoVideo.

        name: of the source, in messages; options: for FFmpeg's demuxer; timeouts_s: for opening and for each read;
        threads: PyAV's `thread_type` ("AUTO" is fastest, "SLICE" delays no frame).
        """
        self._av: Any = import_av()
        self._name = name
        # Titles and names of sessions are Latin-1 or GBK in the wild (PyAV#629).
        self._container: Any = self._av.open(url, options=dict(options), timeout=timeouts_s, metadata_errors="replace")
        try:
            self._stream: Any = _best_video(self._container)
            self._stream.thread_type = threads
        except BaseException:
            self._container.close()
            raise
        self.packets = 0
        self.damaged = 0
        self.broken_off = False
        self.last_pts_s: float | None = None
        self.format: str = self._container.format.name
        self.stamped = self.format not in _UNSTAMPED
        self.segmented = self.format == "hls"
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps: float | None = float(rate) if rate else None
        header: int | None = self._stream.frames or None
        # A cut AVI has no index, and one of a fragmented MP4 begins with its first fragment, which declares nothing.
        self.declared_frames = (self.indexed_frames or header) if header else None
        aspect = self._stream.sample_aspect_ratio
        self._pixel_aspect: float = float(aspect) if aspect and _LEAST_ASPECT < aspect < 1 / _LEAST_ASPECT else 1.0
        duration = self._container.duration
        self.duration_s: float | None = duration / self._av.time_base if duration else None

    @property
    def indexed_frames(self) -> int | None:
        """Frames that the container's index shows, None without one; of a fragmented MP4 complete only at the end.

        It knows more than the header's count: an edit list hides frames (ISO 14496-12, 8.6.6), and in an AVI some are
        empty and repeat the one before.
        """
        index = self._stream.index_entries if self.format in _INDEXED else ()
        return sum(entry.size > 0 and not entry.is_discard for entry in index) if len(index) > 1 else None

    def early(self, frames_read: int) -> str | None:
        """What is missing of a recording that has ended, None where nothing is."""
        declared = self.declared_frames or (self.indexed_frames if "mov" in self.format else None)
        if declared is not None and self.packets < declared:
            return counted(declared, frames_read)
        if self.broken_off:
            return f"{counted(declared, frames_read)}: breaks off inside a packet"
        if "matroska" in self.format and self.duration_s and self.last_pts_s is not None:
            end_s = self.last_pts_s + (1 / self.fps if self.fps else 0)
            missing = end_s < self.duration_s - _SLACK_S
            return f"declared={self.duration_s:.1f}s read={end_s:.1f}s" if missing else None
        return None

    def demux(self) -> Iterator[Any]:
        """The packets, and an empty one at the end; raises what PyAV raises."""
        for packet in self._container.demux(self._stream):
            if packet.size:
                self.packets += not packet.is_discard
                self.broken_off = packet.is_corrupt
            yield packet

    def decode(self, packet: Any) -> list[Any]:
        """The frames that a packet completes, or those that are left when it is empty; never raises for a bad one."""
        for _ in range(1 if packet.size else _MOST_FLUSHES):
            try:
                return list(packet.decode())
            except self._av.error.EOFError:  # flushed before
                return []
            except self._av.FFmpegError:
                self.damaged += 1  # counted; a file that loses frames so is reported by its source
        return []

    def shots(self) -> Iterator[Shot]:
        """Every frame in order of presentation; raises what PyAV raises when reading fails, never for a bad frame."""
        for packet in self.demux():
            # The part of a packet with which a cut file ends: its error would cost the frames before it, too.
            if not (packet.is_corrupt and self.format in _INDEXED):
                yield from map(self.shot, self.decode(packet))

    def restart(self) -> None:
        """Forget what was decoded: the next packet does not follow the last one."""
        self._stream.codec_context.flush_buffers()

    def facts(self, *, live: bool) -> Facts:
        """What the container says of its video."""
        context = self._stream.codec_context
        size = (context.height, self._square_width(context.width)) if context.height and context.width else None
        fps = self.fps if self.stamped or not live else None  # nobody knows the rate of a camera without stamps
        return Facts(live, size, fps, self.declared_frames, context.name)

    def close(self) -> None:
        """Close the container; the caller makes sure that no thread is inside a read."""
        self._container.close()

    def _square_width(self, width: int) -> int:
        """How wide a picture is with square pixels, as people see it and models were trained; an even number."""
        return width if self._pixel_aspect == 1 else max(2, 2 * round(width * self._pixel_aspect / 2))

    def shot(self, frame: Any) -> Shot:
        """A decoded frame, whose image is upright and has square pixels."""
        self.damaged += bool(frame.is_corrupt)
        pts_s = frame.time if self.stamped else None
        if pts_s is not None:
            self.last_pts_s = pts_s
        return Shot(Decoded(frame, self._square_width(frame.width), self._name), pts_s, damaged=self.damaged)


def counted(declared: int | None, read: int) -> str:
    """How many frames a recording should have, and how many it gave."""
    return f"declared={'unknown' if declared is None else declared} read={read}"


def _best_video(container: Any) -> Any:
    """The stream that a player would show; raises NoVideo."""
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise NoVideo
    return stream
