"""RTSP and HTTP cameras through PyAV, whose timeouts hold (those of OpenCV do not)."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from edgecv_runtime.addresses import peer
from edgecv_runtime.errors import BadInput, EdgecvError, SourceUnavailable
from edgecv_runtime.stream.clock import CaptureClock
from edgecv_runtime.stream.ending import End
from edgecv_runtime.stream.redact import redact, secrets_of, shown, split
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts, Shots, Source
from edgecv_runtime.stream.sources.decoded import import_av
from edgecv_runtime.stream.sources.libav import Decoder, NoVideo
from edgecv_runtime.stream.sources.packets import BOUND_S, Arrival, PacketReader, Silence


class Scheme(NamedTuple):
    """What stands before ://; port: its default; name: for FFmpeg, if that is another; options: of FFmpeg."""

    port: int
    name: str
    options: dict[str, str]


# RTSP over TCP: over UDP a lost packet is a broken picture, and silence has no end; a server that refuses TCP (461) is
# asked for UDP then. A short analysis, because what is analysed is old when it is shown; it is not discarded
# ("nobuffer" would do that), since with it would go the key frame. HLS begins with the newest segment.
_ANALYSIS = {"analyzeduration": "300000"}  # microseconds
_TCP = {"rtsp_transport": "udp+tcp", "rtsp_flags": "prefer_tcp", **_ANALYSIS}
_UDP = {"rtsp_transport": "udp", **_ANALYSIS}
_HTTP = {"live_start_index": "-1", **_ANALYSIS}
SCHEMES: dict[str, Scheme] = {
    "rtsp": Scheme(554, "rtsp", _TCP),
    "rtsp+udp": Scheme(554, "rtsp", _UDP),
    "rtsps": Scheme(322, "rtsps", {"rtsp_transport": "tcp", **_ANALYSIS}),
    "http": Scheme(80, "http", _HTTP),
    "https": Scheme(443, "https", _HTTP),
}
_STALL = 0.9  # an opening that took this part of its timeout has run into it, whatever FFmpeg calls the error
_LONGEST = 4  # times timeout_s: the longest wait for a packet
_PATIENCE = 3  # times the longest of the last waits
_FEW = 3  # packets from which on the waits between them are known
_MOST_REORDERED = 64  # packets whose frames may come later
_LONGEST_GAP_S = 60.0  # between two frames of an HLS stream; more is a new beginning


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
        if scheme not in SCHEMES:
            raise BadInput(f"{shown(text)}: expected rtsp://user:password@host:port/path")
        host, port = peer(authority, SCHEMES[scheme].port, shown(text), "rtsp://user:password@host:port/path")
        user, colon, password = userinfo.partition(":")
        encoded = "".join([quote(unquote(user), safe=""), colon, quote(unquote(password), safe="")])
        opened = f"{SCHEMES[scheme].name}://{encoded}{'@' if userinfo else ''}{authority}{tail}"
        return cls(shown(text), opened, scheme, host, port)


class NetworkSource(Source):
    """A camera or video behind a URL: RTSP, MJPEG, HLS or a file over HTTP.

    What is timed is the wait for a *packet*: a camera may be silent for four times `timeout_s` where it sends a few
    pictures a minute or an HLS segment at a time, and for `timeout_s` where its packets come faster; a picture may
    take as long as the camera's group of pictures. A stream with a duration is a recording: not `live`, nothing lost.
    """

    native = True

    def __init__(self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """url: see Url.parse; timeout_s: for opening and for each packet. Raises BadInput."""
        self._url = Url.parse(url)
        super().__init__(self._url.shown, live=True, timeout_s=timeout_s)
        self._decoder: Decoder | None = None
        self._reader: PacketReader | None = None

    def _open(self) -> Facts:
        av = import_av()
        failure: EdgecvError | None = None
        start_s = time.monotonic()
        try:
            self._decoder = Decoder(
                self._url.opened,
                name=self.name,
                options=SCHEMES[self._url.scheme].options,
                timeouts_s=(self.timeout_s, _LONGEST * self.timeout_s),
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
        decoder = self._decoder
        assert decoder is not None
        live = decoder.duration_s is None
        self._reader = PacketReader(
            decoder.demux(), decoder.close, name=self.name, bound_s=BOUND_S if live and not decoder.segmented else None
        )
        return decoder.facts(live=live)

    def _shots(self) -> Shots:
        av = import_av()
        decoder, reader = self._decoder, self._reader
        assert decoder is not None
        assert reader is not None
        clock, pacer = CaptureClock(), Pacer()
        arrivals: dict[int | None, Arrival] = {}  # of packets whose frames are still inside the decoder
        failure: SourceUnavailable | None = None
        while failure is None:
            try:
                arrival = reader.take(lambda: self._patience_s(decoder, reader), self._stop_asked)
            except Silence as exc:
                failure = SourceUnavailable(f"{self.name}: stalled: no frame for {exc.waited_s:.1f} s", kind="stalled")
                continue
            except av.FFmpegError as exc:
                failure = self._lost(exc)
                continue
            if arrival is None:
                return self._ended(decoder)
            if reader.broke:
                reader.broke = False
                decoder.restart()
                arrivals.clear()
            arrivals[arrival.packet.pts] = arrival
            self.alive_ns = arrival.arrived_ns
            for frame in decoder.decode(arrival.packet):
                shot = decoder.shot(frame)
                if shot.pts_s is None and decoder.stamped and not self.frames_read:
                    shot = shot._replace(pts_s=0.0)  # FFmpeg counts from the first RTP packet, and stamps it not at all
                of = arrivals.pop(frame.pts, arrival)
                captured_ns = clock.stamp(shot.pts_s, of.arrived_ns, of.waited)
                if decoder.segmented and self.live and self._interrupted.wait(pacer.wait_s(shot.pts_s)):
                    return End("stopped", damaged=decoder.damaged)
                yield shot._replace(captured_ns=captured_ns, skipped=reader.skipped())
            while len(arrivals) > _MOST_REORDERED:
                del arrivals[next(iter(arrivals))]
        raise failure

    def _patience_s(self, decoder: Decoder, reader: PacketReader) -> float:
        """How long the next packet may take: three times as long as lately, within 1 and _LONGEST times `timeout_s`."""
        longest_s = _LONGEST * self.timeout_s
        if decoder.segmented:
            return longest_s
        usual_s = reader.longest_s
        if reader.arrived < _FEW:
            usual_s = 1 / decoder.fps if decoder.stamped and decoder.fps else longest_s
        return min(longest_s, max(self.timeout_s, _PATIENCE * usual_s))

    def _left_out(self) -> Mapping[str, int]:
        return self._reader.skipped() if self._reader is not None else {}

    def _release(self) -> None:
        if self._reader is not None:
            self._reader.stop()  # it closes the container as soon as its read returns
        elif self._decoder is not None:
            self._decoder.close()
        self._decoder = self._reader = None

    def _ended(self, decoder: Decoder) -> End:
        if self._interrupted.is_set():
            return End("stopped", damaged=decoder.damaged)
        if self.live:
            return End("hung up", f"the camera ended the stream after {self.frames_read} frames", decoder.damaged)
        early = decoder.early(self.frames_read)
        return End("truncated" if early else "end of file", early or "", decoder.damaged)

    def _lost(self, exc: Any) -> SourceUnavailable:
        if isinstance(exc, import_av().error.ExitError):  # its own timeout
            return SourceUnavailable(
                f"{self.name}: stalled: no frame for {_LONGEST * self.timeout_s:.1f} s", kind="stalled"
            )
        return SourceUnavailable(
            f"{self.name}: lost after {self.frames_read} frames: {self._redacted(exc.strerror)}", kind="lost"
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
        kind, words = trouble or ("no stream", f"answers, but not with a video stream: {self._redacted(exc.strerror)}")
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


class Pacer:
    """When each frame of a stream that comes in segments is due, at its own speed; late ones move all that follow."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._start_s: float | None = None
        self._last_s = 0.0

    def wait_s(self, pts_s: float | None) -> float:
        """Seconds until the frame is due."""
        if pts_s is None:
            return 0.0
        now_s = self._now_s()
        stepped = not 0 <= pts_s - self._last_s <= _LONGEST_GAP_S
        self._last_s = pts_s
        if self._start_s is None or stepped or self._start_s + pts_s < now_s:
            self._start_s = now_s - pts_s
        return self._start_s + pts_s - now_s
