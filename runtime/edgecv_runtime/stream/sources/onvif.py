"""Cameras that speak ONVIF: their RTSP stream is asked for, where a user would have to know its path.

Five small SOAP requests (ONVIF Core 5.12 for the login, Media 5.2 and 5.15 for profiles and streams); the libraries for
it bring an XML parser in C and 90 WSDL files, and are not kept up.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from edgecv_runtime.addresses import peer
from edgecv_runtime.errors import BadInput, SourceUnavailable, nearest
from edgecv_runtime.stream.redact import redact, remember, shown, split
from edgecv_runtime.stream.sources.base import DEFAULT_TIMEOUT_S, Facts
from edgecv_runtime.stream.sources.network import NetworkSource, Url, probe

logger = logging.getLogger("edgecv")

_SERVICE = "/onvif/device_service"  # where every device has it (Core 5.1.1)
_MOST_BYTES = 4_000_000  # of an answer
_DEVICE, _MEDIA = "http://www.onvif.org/ver10/device/wsdl", "http://www.onvif.org/ver10/media/wsdl"
_SCHEMA = "http://www.onvif.org/ver10/schema"
_OASIS = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss"
_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope">'
    "<s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
)
_TOKEN = (
    f'<w:Security xmlns:w="{_OASIS}-wssecurity-secext-1.0.xsd" s:mustUnderstand="1"><w:UsernameToken>'
    "<w:Username>{user}</w:Username>"
    f'<w:Password Type="{_OASIS}-username-token-profile-1.0#PasswordDigest">{{digest}}</w:Password>'
    f'<w:Nonce EncodingType="{_OASIS}-soap-message-security-1.0#Base64Binary">{{nonce}}</w:Nonce>'
    f'<u:Created xmlns:u="{_OASIS}-wssecurity-utility-1.0.xsd">{{created}}</u:Created>'
    "</w:UsernameToken></w:Security>"
)


@dataclass(frozen=True)
class Profile:
    """One of the streams that a camera offers; token: names it in requests."""

    token: str
    name: str
    encoding: str
    size: str

    def __str__(self) -> str:
        return f"{self.token} ({self.name}, {self.encoding} {self.size})"


class OnvifSource(NetworkSource):
    """The stream of an ONVIF camera, `onvif://user:password@host[:port][/PROFILE]`; the first profile without one.

    With each opening the camera is asked again: its streams may have been set up anew.
    """

    def __init__(self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """url: PROFILE is a token or a name of the camera's; timeout_s: for each request, opening and read.

        Raises BadInput.
        """
        parts = split(url)
        self._host, self._port = peer(parts.place, 80, shown(url), "onvif://user:password@host:port")
        super().__init__(f"rtsp://{parts.place}", timeout_s=timeout_s)
        self.name = shown(url)
        user, _, password = parts.userinfo.partition(":")
        self._user, self._password = unquote(user), unquote(password)
        remember(self._password)
        self._wanted = unquote(parts.tail.strip("/"))

    def find(self) -> str:
        """The RTSP URL of the profile, with the login; raises SourceUnavailable with its kind, or BadInput."""
        device = _Device(self.name, self._host, self._port, self._user, self._password, self.timeout_s)
        device.set_clock()
        media = device.media_service()
        profile = self._choose(device.profiles(media))
        return self._reachable(device.stream(media, profile))

    def _open(self) -> Facts:
        self._url = Url.parse(self.find())
        return super()._open()

    def _choose(self, profiles: list[Profile]) -> Profile:
        listed = "; ".join(map(str, profiles))
        if not self._wanted:
            if len(profiles) > 1:
                taken = "%s: takes the first of %d profiles: %s; another by a / and its name"
                logger.warning(taken, self.name, len(profiles), listed)
            return profiles[0]
        for profile in profiles:
            if self._wanted in (profile.token, profile.name):
                return profile
        close = nearest(self._wanted, [profile.token for profile in profiles])
        raise BadInput(f"{self.name}: the camera has no profile '{self._wanted}'{close}; it has {listed}")

    def _reachable(self, url: str) -> str:
        """The URL that the camera gave, with the login; with our host where its own cannot be reached (behind NAT)."""
        given = urlsplit(url)
        try:
            host, port = given.hostname, given.port or 554
        except ValueError:
            host, port = None, 554
        if given.scheme.lower() not in ("rtsp", "rtsps") or not host:
            raise SourceUnavailable(f"{self.name}: the camera names no RTSP stream: '{shown(url)}'", kind="no video")
        if host != self._host and probe(host, port, min(1.0, self.timeout_s)) is not None:
            host = self._host
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        login = f"{quote(self._user, safe='')}:{quote(self._password, safe='')}@" if self._user else ""
        return replace_login(url, login, place)


def replace_login(url: str, login: str, place: str) -> str:
    """A URL with another login ("user:password@" or "") and host, its path and query as they are."""
    parts = split(url)
    return f"{parts.scheme}://{login}{place}{parts.tail}"


class _Device:
    """SOAP requests to one camera."""

    def __init__(self, name: str, host: str, port: int, user: str, password: str, timeout_s: float) -> None:
        self._name = name
        self._root = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._place = host, port
        self._user, self._password = user, password
        self._timeout_s = timeout_s
        self._ahead = timedelta(0)  # of our clock: cameras with a wrong one refuse tokens that seem old
        manager = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        if user:
            manager.add_password(None, self._root, user, password)
        # Some cameras ask for HTTP's digest instead of the token; no proxy of the environment stands between.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPDigestAuthHandler(manager), _NoRedirect()
        )

    def set_clock(self) -> None:
        """Learn the camera's time, for which no login is needed (Core 5.12.1); some ask for one all the same."""
        try:
            answer = self._ask(_SERVICE, _DEVICE, "GetSystemDateAndTime", login=False)
        except SourceUnavailable as exc:
            if exc.kind != "wrong password":
                raise
            return
        utc = answer.find(".//{*}UTCDateTime")
        if utc is not None:
            try:
                year, month, day, *rest = (int(utc.findtext(f"{{*}}{path}") or "") for path in _CLOCK)
                there = datetime(year, month, day, rest[0], rest[1], rest[2], tzinfo=timezone.utc)
            except ValueError:
                return  # a camera without a clock: ours will do
            self._ahead = there - datetime.now(timezone.utc)

    def media_service(self) -> str:
        """The path of the media service."""
        body = "<Category>Media</Category>"
        answer = self._ask(_SERVICE, _DEVICE, "GetCapabilities", body)
        address = answer.findtext(".//{*}Media/{*}XAddr")
        return urlsplit(address.strip()).path if address and address.strip() else "/onvif/media_service"

    def profiles(self, media: str) -> list[Profile]:
        """The profiles with video, in the camera's order."""
        found = []
        for profile in self._ask(media, _MEDIA, "GetProfiles").iterfind(".//{*}Profiles"):
            encoder = profile.find("{*}VideoEncoderConfiguration")
            if encoder is not None and profile.get("token"):
                width = encoder.findtext("{*}Resolution/{*}Width", "?")
                height = encoder.findtext("{*}Resolution/{*}Height", "?")
                name, encoding = profile.findtext("{*}Name", ""), encoder.findtext("{*}Encoding", "?")
                found.append(Profile(profile.get("token", ""), name.strip(), encoding, f"{width}x{height}"))
        if not found:
            raise SourceUnavailable(f"{self._name}: the camera has no profile with video", kind="no video")
        return found

    def stream(self, media: str, profile: Profile) -> str:
        """The URL of a profile's stream, as the camera gives it."""
        setup = (
            f'<StreamSetup><Stream xmlns="{_SCHEMA}">RTP-Unicast</Stream>'
            f'<Transport xmlns="{_SCHEMA}"><Protocol>RTSP</Protocol></Transport></StreamSetup>'
            f"<ProfileToken>{escape(profile.token)}</ProfileToken>"
        )
        return (self._ask(media, _MEDIA, "GetStreamUri", setup).findtext(".//{*}Uri") or "").strip()

    def _ask(
        self, path: str, namespace: str, action: str, content: str = "", *, login: bool = True
    ) -> ElementTree.Element:
        """Send one request; the answer's envelope. Raises SourceUnavailable with its kind."""
        header = self._token() if login and self._user else ""
        body = _ENVELOPE.format(header=header, body=f'<{action} xmlns="{namespace}">{content}</{action}>')
        kind = f'application/soap+xml; charset=utf-8; action="{namespace}/{action}"'
        request = urllib.request.Request(self._root + path, body.encode(), {"Content-Type": kind})
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                status, data = 200, answer.read(_MOST_BYTES)
        except urllib.error.HTTPError as exc:
            with exc:
                status, data = exc.code, exc.read(_MOST_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise self._silent(exc) from None  # urllib's error may hold the URL
        return self._envelope(status, data, action)

    def _envelope(self, status: int, data: bytes, action: str) -> ElementTree.Element:
        try:
            envelope = ElementTree.fromstring(data)
        except (ElementTree.ParseError, ValueError, LookupError):
            envelope = None
        fault = None if envelope is None else envelope.find(".//{*}Fault")
        said = "" if fault is None else " ".join(word.strip() for word in fault.itertext() if word.strip())
        if status in (401, 403) or "NotAuthorized" in said or "FailedAuthentication" in said:
            given = "was refused" if self._user else "is wanted and none was given"
            hint = f" ({redact(said, self._password)[:120]})" if said else ""
            raise SourceUnavailable(f"{self._name}: the user name or password {given}{hint}", kind="wrong password")
        if envelope is None or not envelope.tag.endswith("}Envelope"):
            port = self._place[1]
            raise SourceUnavailable(
                f"{self._name}: port {port} answers, but not as an ONVIF camera (HTTP {status}); is ONVIF switched on, "
                "and is it this port?",
                kind="wrong path" if status == 404 else "no video",
            )
        if fault is not None or status != 200:
            reason = redact(said or f"HTTP {status}", self._password)[:200]
            raise SourceUnavailable(f"{self._name}: the camera refuses {action}: {reason}", kind="no video")
        return envelope

    def _silent(self, exc: Exception) -> SourceUnavailable:
        """Why there was no answer at all."""
        trouble = probe(*self._place, self._timeout_s)
        if trouble is None and isinstance(exc, TimeoutError):
            trouble = "no answer", f"no answer within {self._timeout_s:g} s"
        kind, words = trouble or ("no video", "answers, but not as an ONVIF camera; is it this port?")
        return SourceUnavailable(f"{self._name}: {words}", kind=kind)

    def _token(self) -> str:
        """A login that is good once: base64(SHA-1(nonce + created + password)) (WS-Security UsernameToken 1.0, 3.1)."""
        nonce = os.urandom(16)
        created = (datetime.now(timezone.utc) + self._ahead).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        digest = hashlib.sha1(nonce + created.encode() + self._password.encode()).digest()
        return _TOKEN.format(
            user=escape(self._user),
            digest=base64.b64encode(digest).decode(),
            nonce=base64.b64encode(nonce).decode(),
            created=created,
        )


_CLOCK = ("Date/{*}Year", "Date/{*}Month", "Date/{*}Day", "Time/{*}Hour", "Time/{*}Minute", "Time/{*}Second")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A camera that sends us elsewhere would get the login there."""

    def redirect_request(self, *_: object) -> None:
        return None
