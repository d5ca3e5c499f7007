"""RTSP and HTTP cameras through PyAV, whose timeouts hold (OpenCV's do not: FACTS.md, Cameras)."""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from edgecv_runtime.errors import BadInput, EdgecvError, SourceUnavailable
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.redact import redact, secrets_of, shown, split
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts, Shots, Source
from edgecv_runtime.stream.sources.libav import Decoder, NoVideo, import_av

# Default port and FFmpeg options by scheme. RTSP over TCP: over UDP a lost packet is a broken picture, and silence has
# no end. A short analysis, because what is analysed is old when it is shown; it is not discarded ("nobuffer" would do
# that), since with it would go the key frame.
_ANALYSIS = {"analyzeduration": "300000"}  # microseconds
_RTSP = {"rtsp_transport": "tcp", **_ANALYSIS}
SCHEMES: dict[str, tuple[int, dict[str, str]]] = {
    "rtsp": (554, _RTSP),
    "rtsps": (322, _RTSP),
    "http": (80, _ANALYSIS),
    "https": (443, _ANALYSIS),
}
_STALL = 0.9  # a call that took this part of its timeout has run into it, whatever FFmpeg calls the error
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, repr=False)
class Url:
    """A URL taken apart so that its password cannot be printed by accident.

    shown: without credentials, for every message; opened: with them, percent-encoded, for FFmpeg only.
    """

    shown: str
    opened: str
    scheme: str
    host: str
    port: int

    def __repr__(self) -> str:
        return f"Url({self.shown!r})"

    @classmethod
    def parse(cls, text: str) -> Url:
        """Take `scheme://user:password@host:port/path` apart; `@`, `/` and `%` in the password may be raw.

        Raises BadInput when there is no host, or the scheme is none of SCHEMES.
        """
        scheme, userinfo, authority, tail = split(text)
        place = _HOST.fullmatch(authority)
        if scheme not in SCHEMES or place is None:
            raise BadInput(f"{shown(text)}: expected rtsp://user:password@host:port/path")
        user, colon, password = userinfo.partition(":")
        encoded = "".join([quote(unquote(user), safe=""), colon, quote(unquote(password), safe="")])
        opened = f"{scheme}://{encoded}{'@' if userinfo else ''}{authority}{tail}"
        port = int(place["port"] or SCHEMES[scheme][0])
        return cls(shown(text), opened, scheme, place["host"].strip("[]"), port)


class NetworkSource(Source):
    """A camera or video behind a URL: RTSP over TCP, MJPEG or a file over HTTP.

    `captured_ns` is the frame's own clock anchored to the fastest frame of the last half minute, so that a backlog in
    the network or the decoder shows as age. A stream with a duration is a recording: not `live`, never dropped.
    """

    def __init__(self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """url: see Url.parse; timeout_s: for opening and for each read. Raises BadInput."""
        self._url = Url.parse(url)
        super().__init__(self._url.shown, live=True, timeout_s=timeout_s)
        self._decoder: Decoder | None = None

    def _open(self) -> Facts:
        av = import_av()
        failure: EdgecvError | None = None
        start_s = time.monotonic()
        try:
            self._decoder = Decoder(
                self._url.opened,
                options=SCHEMES[self._url.scheme][1],
                timeout_s=self.timeout_s,
                threads="SLICE",  # frame threads would hold back one frame each
            )
        except NoVideo:
            failure = SourceUnavailable(
                f"{self.name}: connected, but the stream holds no video that can be decoded", kind="no video"
            )
        except av.FFmpegError as exc:
            failure = self._explain(av, exc, time.monotonic() - start_s)
        if failure is not None:
            raise failure  # outside the except: FFmpeg's error holds the URL with its password, and is not chained
        assert self._decoder is not None
        return self._decoder.facts(live=self._decoder.duration_s is None)

    def _shots(self) -> Shots:
        av = import_av()
        assert self._decoder is not None
        clock = CaptureClock()
        shots = self._decoder.shots()
        failure: SourceUnavailable | None = None
        while failure is None:
            start_s = time.monotonic()
            try:
                shot = next(shots, None)
            except av.FFmpegError as exc:
                failure = self._lost(exc.strerror, time.monotonic() - start_s)
                continue
            if shot is None:
                return self._ended(self._decoder)
            waited_s = time.monotonic() - start_s
            if waited_s >= _STALL * self.timeout_s:
                # FFmpeg hands out what its parser held before it admits the timeout, and then waits once more.
                failure = self._lost("", waited_s)
                continue
            yield shot._replace(captured_ns=clock.stamp(shot.pts_s, time.monotonic_ns()))
        raise failure

    def _release(self) -> None:
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _ended(self, decoder: Decoder) -> End:
        if self.live:
            return End("hung up", f"the camera ended the stream after {self.frames_read} frames", decoder.damaged)
        if self.declared_frames is not None and decoder.packets < self.declared_frames:
            return End("truncated", f"declared={self.declared_frames} read={self.frames_read}", decoder.damaged)
        return End("end of file", damaged=decoder.damaged)

    def _lost(self, why: str, waited_s: float) -> SourceUnavailable:
        if waited_s >= _STALL * self.timeout_s:
            return SourceUnavailable(f"{self.name}: stalled: no frame for {waited_s:.1f} s", kind="stalled")
        return SourceUnavailable(
            f"{self.name}: lost after {self.frames_read} frames: {self._redacted(why)}", kind="lost"
        )

    def _explain(self, av: Any, exc: Any, waited_s: float) -> EdgecvError:
        """What went wrong while opening, told apart: FFmpeg has one error for several of these."""
        error = av.error
        if isinstance(exc, error.HTTPUnauthorizedError):
            given = "was refused" if "@" in self._url.opened else "is wanted and none was given"
            return SourceUnavailable(f"{self.name}: the user name or password {given} (401)", kind="wrong password")
        if isinstance(exc, error.HTTPForbiddenError):
            return SourceUnavailable(f"{self.name}: the user may not see this stream (403)", kind="forbidden")
        if isinstance(exc, error.HTTPNotFoundError):
            return SourceUnavailable(f"{self.name}: the camera answers, but has no such path (404)", kind="wrong path")
        if isinstance(exc, (error.ProtocolNotFoundError, error.DemuxerNotFoundError)):
            return BadInput(f"{self.name}: this build of PyAV cannot read {self._url.scheme} streams")
        if waited_s >= _STALL * self.timeout_s:
            return SourceUnavailable(f"{self.name}: no answer within {self.timeout_s:g} s", kind="no answer")
        trouble = probe(self._url.host, self._url.port, self.timeout_s)
        kind, words = trouble or ("no video", f"answers, but not with a video stream: {self._redacted(exc.strerror)}")
        if kind == "unknown host" and self._url.opened.count("@") > 1:
            words += "; is there an @ or / in the password? write %40 or %2F"
        return SourceUnavailable(f"{self.name}: {words}", kind=kind)

    def _redacted(self, text: str | None) -> str:
        return redact(text or "unknown error", *secrets_of(self._url.opened))


def probe(host: str, port: int, timeout_s: float) -> tuple[str, str] | None:
    """Why a TCP connection to `host:port` cannot be made, (kind of End, in words); None when it can."""
    found: list[Any] = []

    def resolve() -> None:  # has no timeout of its own
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            found.append([])

    resolver = threading.Thread(target=resolve, name="edgecv-resolve", daemon=True)
    resolver.start()
    resolver.join(timeout_s)
    if not found:
        return "unknown host", f"no name server answered within {timeout_s:g} s"
    if not found[0]:
        return "unknown host", "the host name is unknown"
    try:
        socket.create_connection((host, port), timeout_s).close()
    except ConnectionRefusedError:
        return "refused", f"nothing listens on port {port} (connection refused)"
    except TimeoutError:
        return "no answer", f"no answer within {timeout_s:g} s"
    except OSError as exc:
        return "unreachable", f"cannot be reached: {exc.strerror}"
    return None


class CaptureClock:
    """Turns presentation times into capture times on our clock: `anchor + pts`, anchored to the least delayed frame.

    The anchor is the least `arrival - pts` of the last 15 to 30 s: a later frame that arrives behind it is old by the
    difference; forgetting follows the drift between the camera's clock and ours.
    """

    _WINDOW_NS = 15_000_000_000
    _JUMP_NS = 5_000_000_000  # a step of the camera's clock, not a delay

    def __init__(self) -> None:
        self._offsets: list[int] = []  # least offset of the previous and of the current window
        self._window_end_ns = 0
        self._last_ns = 0

    def stamp(self, pts_s: float | None, arrived_ns: int) -> int:
        """Capture time in monotonic ns of a frame that arrived at `arrived_ns`; never later, never falling."""
        if pts_s is None:
            return arrived_ns
        offset = arrived_ns - round(pts_s * 1e9)
        if self._offsets and abs(offset - min(self._offsets)) > self._JUMP_NS:
            self._offsets = []
        if not self._offsets or arrived_ns >= self._window_end_ns:
            self._offsets = [*self._offsets[-1:], offset]
            self._window_end_ns = arrived_ns + self._WINDOW_NS
        self._offsets[-1] = min(self._offsets[-1], offset)
        captured_ns = min(arrived_ns, min(self._offsets) + round(pts_s * 1e9))
        self._last_ns = max(self._last_ns, captured_ns)
        return self._last_ns
