"""Annotated frames as a live stream to an RTSP server.

They are encoded and sent by a process of its own: a server that hangs blocks FFmpeg inside its library, and only a
process can be ended there. It gets the address by its standard input, because everybody can read command lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np

from edgecv_runtime import spawned
from edgecv_runtime.addresses import peer
from edgecv_runtime.errors import BadInput, Closed
from edgecv_runtime.lastwords import LONGEST, LastWords
from edgecv_runtime.preprocess import Image
from edgecv_runtime.stream.redact import redact, shown, split
from edgecv_runtime.stream.sinks.base import Output, Sink

SCHEMES = {"rtsp": 554, "rtsps": 322}
_KEY_FRAME_S = 2  # who joins waits that long for a picture
_STAMP_BYTES = 8


class PublishSink(Sink):
    """Publishes one source's annotated frames by RTSP over TCP (ANNOUNCE and RECORD), as H.264.

    A server that is away, or takes nothing for `timeout_s`, fails the frame; the next one connects anew.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """url: `rtsp://user:password@host:port/path`; timeout_s: for each frame. Raises BadInput."""
        self.name = shown(url)
        form, parts = "rtsp://user:password@host:port/path", split(url)
        if parts.scheme not in SCHEMES:
            raise BadInput(f"{self.name}: expected {form}")
        peer(parts.place, SCHEMES[parts.scheme], self.name, form)
        self._url = url
        self._timeout_s = timeout_s
        self._source = ""
        self._child: _Child | None = None
        self._closed = False

    def start(self, sources: Sequence[str]) -> None:
        """Refuse several sources in one stream; raises BadInput."""
        if len(sources) > 1:
            raise BadInput(f"{self.name}: one stream shows one source, and there are {len(sources)}")

    def write(self, output: Output) -> None:
        """Draw and send one frame; raises ConnectionError when it cannot be sent."""
        if self._closed:
            raise Closed(f"{self.name}: is closed")
        self._source = self._source or output.frame.source
        if output.frame.source != self._source:
            raise BadInput(f"{self.name}: one stream shows one source, {self._source}")
        picture = output.result.draw(output.frame.image)
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]
        if self._child is not None and self._child.size != picture.shape[:2]:
            self._end()
        if self._child is None:
            self._child = _Child(self._url, picture.shape[:2])
        try:
            self._child.send(picture, output.frame.captured_ns, self._timeout_s)
        except OSError as exc:
            said = self._child.end()
            self._child = None
            raise ConnectionError(redact(said or f"nothing was taken: {exc}")[:LONGEST]) from exc

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.end()


class _Child:
    """The process that encodes and sends; it ends when its input does."""

    def __init__(self, url: str, size: tuple[int, ...]) -> None:
        self.size = size
        self._process = subprocess.Popen(
            spawned.command("from edgecv_runtime.stream.sinks.publish import main; main()"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=spawned.environment(),
            start_new_session=True,  # a Ctrl-C is for this process, which finishes what waits
        )
        self._words = LastWords(self._process.stderr)
        assert self._process.stdin is not None
        self._fd = self._process.stdin.fileno()
        os.set_blocking(self._fd, False)
        self._head = json.dumps({"url": url, "size": size}).encode() + b"\n"

    def send(self, picture: Image, captured_ns: int, timeout_s: float) -> None:
        """Hand over one picture; raises OSError when the process has ended or takes nothing in time."""
        head, self._head = self._head, b""
        pixels = memoryview(picture.tobytes())
        parts = [memoryview(head), memoryview(captured_ns.to_bytes(_STAMP_BYTES, "little")), pixels]
        end_s = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._fd, selectors.EVENT_WRITE)
            for rest in parts:
                while rest:
                    if not selector.select(max(0.0, end_s - time.monotonic())):
                        raise TimeoutError(f"no room within {timeout_s:g} s")
                    rest = rest[os.write(self._fd, rest) :]

    def end(self) -> str:
        """End the process, by force where it does not go; returns what it said last."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        return self._words.last()


def _publish(stdin: BinaryIO) -> None:
    """Read the address and pictures from standard input until it ends, and send them."""
    import av
    import cv2

    asked = json.loads(stdin.readline())
    height, width = asked["size"]
    container: Any = av.open(asked["url"], "w", format="rtsp", options={"rtsp_transport": "tcp"})
    stream: Any = container.add_stream("libx264", rate=25, options={"preset": "superfast", "tune": "zerolatency"})
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.time_base = stream.codec_context.time_base = Fraction(1, 90_000)
    stream.codec_context.gop_size = 25 * _KEY_FRAME_S
    first_ns: int | None = None
    last = -1
    while len(stamp := stdin.read(_STAMP_BYTES)) == _STAMP_BYTES:
        data = stdin.read(height * width * 3)
        if len(data) < height * width * 3:
            break
        captured_ns = int.from_bytes(stamp, "little")
        first_ns = captured_ns if first_ns is None else first_ns
        last = max(last + 1, (captured_ns - first_ns) * 9 // 100_000)
        planes = cv2.cvtColor(np.frombuffer(data, np.uint8).reshape(height, width, 3), cv2.COLOR_BGR2YUV_I420)
        picture = av.VideoFrame.from_ndarray(np.asarray(planes, np.uint8), format="yuv420p")
        picture.pts, picture.time_base = last, stream.time_base
        for packet in stream.encode(picture):
            container.mux(packet)
    for packet in stream.encode(None):
        container.mux(packet)
    container.close()


def main() -> None:
    """What the process does; its last words are the error."""
    try:
        _publish(sys.stdin.buffer)
    except Exception as exc:  # the parent, which knows the password, tells it
        sys.exit(f"{type(exc).__name__}: {exc}")
