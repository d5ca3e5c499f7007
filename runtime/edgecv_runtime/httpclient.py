"""A client of one server over HTTP: connections that stay open, a time for each whole answer, a budget for retries.

What may be tried again is what was not answered: a connection refused, or cut before its answer, and 429 or 503 that
say with Retry-After when. What has a time-out or another status is not.
"""

from __future__ import annotations

import email.utils
import functools
import http.client
import io
import random
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from edgecv_runtime.errors import BackendUnavailable, BadInput, Closed, ComputationError

_FIRST_S, _LONGEST_S = 0.05, 1.0  # waits double
_MOST = 256 << 20  # bytes of an answer
_AGAIN = (429, 503)


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Unanswered(Exception):
    """The connection was refused, or cut before an answer began; reused: it had lain idle, and may just be old."""

    def __init__(self, why: str, reused: bool) -> None:
        super().__init__(why)
        self.reused = reused


class Client:
    """Asks one server; calls may come from several threads."""

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        *,
        timeout_s: float,
        retry_s: float,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """timeout_s: from sending a request to the end of its answer. retry_s: after which nothing is tried again."""
        self.where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self._host, self._port = host, port
        self._timeout_s, self._retry_s = timeout_s, retry_s
        self._headers = dict(headers or {})
        self._context = context if scheme == "https" else None
        self._idle: list[http.client.HTTPConnection] = []
        self._closed = threading.Event()

    def ask(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """GET, or POST of a body -> an answer of any status but 429 and 503.

        Raises BackendUnavailable where there is no answer, in time or within the budget, and ComputationError for one
        that is no HTTP, or is cut.
        """
        end_s, wait_s = time.monotonic() + self._retry_s, _FIRST_S
        while True:
            if self._closed.is_set():
                raise Closed(f"{self.where}: the model is closed")
            try:
                answer = self._once(path, body, {**self._headers, **(headers or {})})
                if answer.status not in _AGAIN:
                    return answer
                why, asked_s = refusal(answer), _retry_after(answer.headers.get("retry-after", ""))
                if asked_s is None:
                    raise BackendUnavailable(f"{self.where}{path}: {why}")
                pause_s = max(asked_s, wait_s)
            except _Unanswered as exc:
                if exc.reused:  # a connection of which there are only so many
                    continue
                why, pause_s = str(exc), wait_s * random.uniform(0.75, 1.25)
            if time.monotonic() + pause_s > end_s:
                raise BackendUnavailable(f"{self.where}{path}: {why}; tried for {self._retry_s:g} s")
            wait_s = min(2 * wait_s, _LONGEST_S)
            self._closed.wait(pause_s)

    def close(self) -> None:
        """Close what lies idle; what is asked afterwards raises Closed."""
        self._closed.set()
        while self._idle:
            self._idle.pop().close()

    def _once(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        end_s = time.monotonic() + self._timeout_s
        connection, reused = self._connection()
        is_kept = False
        try:
            self._begin(connection, reused, path, body, headers, end_s)
            answer, is_kept = self._read(connection, reused)
        except TimeoutError as exc:
            raise BackendUnavailable(f"{self.where}{path}: no whole answer within {self._timeout_s:g} s") from exc
        except ssl.SSLError as exc:
            raise BackendUnavailable(f"{self.where}: TLS fails: {exc.reason or exc}") from exc
        except socket.gaierror as exc:
            raise BackendUnavailable(f"{self.where}: its name is not known: {exc.strerror}") from exc
        except OSError as exc:
            raise BackendUnavailable(f"{self.where}: cannot be reached: {exc.strerror or exc}") from exc
        except http.client.HTTPException as exc:
            raise ComputationError(f"{self.where}{path}: what it answers is cut, or no HTTP: {exc!r:.120}") from exc
        finally:
            if is_kept and not self._closed.is_set():
                self._idle.append(connection)
            else:
                connection.close()
        return answer

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        try:
            return self._idle.pop(), True
        except IndexError:
            pass
        if self._context is not None:
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, context=self._context
            )
        else:
            made = http.client.HTTPConnection(self._host, self._port)
        return made, False

    @staticmethod
    def _begin(
        connection: http.client.HTTPConnection,
        reused: bool,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        end_s: float,
    ) -> None:
        """Connect where that is needed, and send; raises _Unanswered for a connection that is refused or cut."""
        connection.response_class = functools.partial(_Response, end_s=end_s)  # type: ignore[assignment]
        connection.timeout = max(1e-3, end_s - time.monotonic())
        try:
            if connection.sock is None:
                connection.connect()
            connection.sock.settimeout(max(1e-3, end_s - time.monotonic()))
            connection.request("GET" if body is None else "POST", path, body, dict(headers))
        except ConnectionRefusedError as exc:
            raise _Unanswered("nothing listens there: the connection is refused", reused) from exc
        except ConnectionError as exc:
            raise _Unanswered("the connection was cut before an answer", reused) from exc

    @staticmethod
    def _read(connection: http.client.HTTPConnection, reused: bool) -> tuple[Answer, bool]:
        """A whole answer, and whether the connection can be used again."""
        try:
            response = connection.getresponse()
        except ConnectionError as exc:  # RemoteDisconnected is one
            raise _Unanswered("the connection was cut before an answer", reused) from exc
        if (response.length or 0) > _MOST:
            raise http.client.HTTPException(f"an answer of more than {_MOST >> 20} MB")
        try:
            body = response.read(_MOST + 1)
        except ConnectionError as exc:
            raise http.client.IncompleteRead(b"", response.length) from exc
        if len(body) > _MOST:
            raise http.client.HTTPException(f"an answer of more than {_MOST >> 20} MB")
        if response.length:
            raise http.client.IncompleteRead(body, response.length)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, body), not response.will_close


class _Response(http.client.HTTPResponse):
    """Reads with what is left of one time for all of it: a server that drips a byte a second is given up, too."""

    def __init__(self, sock: socket.socket, *rest: Any, end_s: float, **more: Any) -> None:
        super().__init__(sock, *rest, **more)
        self.fp.close()
        self.fp = io.BufferedReader(_Timed(sock, end_s), 1 << 16)


class _Timed(io.RawIOBase):
    def __init__(self, sock: socket.socket, end_s: float) -> None:
        self._sock, self._end_s = sock, end_s
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def tls_context(ca: str, cert: str, key: str) -> ssl.SSLContext:
    """What a server's certificate is checked by, and what is shown to it; "" for the system's, and for nothing.

    Raises BadInput that names the file.
    """
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except (OSError, ssl.SSLError) as exc:
        raise BadInput(f"{ca}: no certificates can be read from it: {getattr(exc, 'strerror', None) or exc}") from exc
    if cert:
        try:
            context.load_cert_chain(cert, key or None)
        except (OSError, ssl.SSLError) as exc:
            why = getattr(exc, "strerror", None) or exc
            raise BadInput(f"{cert}, {key or cert}: no certificate with its key: {why}") from exc
    return context


def refusal(answer: Answer) -> str:
    """The status and words of an answer that is an error, in one line."""
    import msgspec

    text = answer.body[:2000].decode(errors="replace")
    try:
        said = msgspec.json.decode(answer.body)
        if isinstance(said, dict):
            text = str(next((said[name] for name in ("error", "detail", "message") if said.get(name)), text))
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    words = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return f"it answers {answer.status}: {words[:300] or http.client.responses.get(answer.status, 'nothing more')}"


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After, which may be a date; None where it says none."""
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
