"""Results, or better events, as HTTP POST to somebody's server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import socket
import ssl
import threading
from urllib.parse import unquote

from edgecv_runtime.addresses import peer
from edgecv_runtime.errors import BadInput, Closed
from edgecv_runtime.stream.redact import redact, shown, split
from edgecv_runtime.stream.sinks.base import Output, Sink
from edgecv_runtime.stream.sinks.jsonlines import line_of

SCHEMES = {"http": 80, "https": 443}
_TRIES = 3
_ANSWER_BYTES = 65536
_LATE = 2  # times the timeout, which is for each read: a server may send a byte a second
_PAUSE_S = 0.5  # before the second try, twice that before the third
_WORTH_TRYING = (408, 425, 429)  # and all from 500 on: the server may be better in a moment


class WebhookSink(Sink):
    """POSTs the document of a JSON line, three times at most; the server answers with any 2xx.

    A repeated POST has the same `Idempotency-Key`. A redirection is not followed, since it would carry what was meant
    for this server to another one; it fails, as 4xx does, without a further try.
    """

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """url: `https://user:password@host/path`; timeout_s: for connecting and for each answer. Raises BadInput."""
        self.name = shown(url)
        parts = split(url)
        form = "https://user:password@host:port/path"
        if parts.scheme not in SCHEMES:
            raise BadInput(f"{self.name}: expected {form}")
        place = peer(parts.place, SCHEMES[parts.scheme], self.name, form)
        self._path = (parts.tail if parts.tail.startswith("/") else f"/{parts.tail}").partition("#")[0]
        if not self._path.isascii() or not self._path.isprintable() or " " in self._path:
            raise BadInput(f"{self.name}: write blanks as %20, and other letters by their bytes in UTF-8, as %C3%A4")
        self._headers = {"Content-Type": "application/json", "User-Agent": "edgecv"}
        if parts.userinfo:
            login = base64.b64encode(unquote(parts.userinfo).encode()).decode()
            self._headers["Authorization"] = f"Basic {login}"
        self._closed = threading.Event()
        self._timeout_s = timeout_s
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                *place, timeout=timeout_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(*place, timeout=timeout_s)

    def write(self, output: Output) -> None:
        """Send one result; raises ConnectionError when no try brought it there."""
        if self._closed.is_set():
            raise Closed(f"{self.name}: is closed")
        frame = output.frame
        body = line_of(output)
        # With the content: sinks with other rules may tell the same server something else of the same frame.
        key = f"{frame.source} {frame.captured_ns} {frame.index} {hashlib.sha256(body).hexdigest()[:16]}"
        headers = {**self._headers, "Idempotency-Key": base64.urlsafe_b64encode(key.encode()).decode()}
        for number in range(_TRIES):
            if number and self._closed.wait(_PAUSE_S * 2 ** (number - 1)):
                break
            trouble, is_final = self._post(body, headers)
            if not trouble:
                return
            if is_final:
                break
        raise ConnectionError(f"not delivered after {number + 1} tries: {trouble}")

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        self._connection.close()

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[str, bool]:
        """("", True) when it arrived, else why not, and whether that is the server's last word."""
        late = threading.Timer(_LATE * self._timeout_s, self._hang_up)
        late.start()
        try:
            self._connection.request("POST", self._path, body, headers)
            answer = self._connection.getresponse()
            answer.read(_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as exc:
            self._connection.close()
            return redact(f"{type(exc).__name__}: {exc}"), False
        finally:
            late.cancel()
        if not answer.isclosed():  # nobody reads the rest of a long one
            self._connection.close()
        if 200 <= answer.status < 300:
            return "", True
        is_final = answer.status < 500 and answer.status not in _WORTH_TRYING
        return f"the server answered {answer.status} {redact(answer.reason)}", is_final

    def _hang_up(self) -> None:
        """End what still goes on, from another thread."""
        connected = self._connection.sock
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
