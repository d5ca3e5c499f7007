"""Reading what clients send: never more than a limit each, never more than a budget all together, never for ever."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from edgecv_runtime.errors import BadInput, EdgecvError
from edgecv_runtime.records import Record

T = TypeVar("T")
Receive = Callable[[], Awaitable[Any]]
_LINGER_S = 2.0  # what is sent in vain is taken so long, so that a client that sends first reads why


class Limits(Record, frozen=True):
    """What a server takes.

    body_mb: of a request; memory_mb: of all bodies, inputs of networks and answers that are held at once. waiting:
    requests of one model that may be inside at once. delay_ms: the longest that one waits for others to join its
    batch. body_s: until a body must be there; send_s: until an answer must be taken. head_s: until a request's headers
    must be there. connections: at once. max_pixels: of the pictures of a request together. calls: of a model that
    compute at once; 0: one a core, or as many as the model has streams.
    """

    body_mb: float = 32.0
    memory_mb: float = 256.0
    waiting: int = 64
    delay_ms: float = 2.0
    body_s: float = 30.0
    send_s: float = 30.0
    head_s: float = 10.0
    connections: int = 256
    calls: int = 0
    max_pixels: int = 50_000_000

    def __post_init__(self) -> None:
        for name in ("body_mb", "memory_mb", "body_s", "send_s", "head_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadInput(f"{name} must be positive, got {getattr(self, name):g}")
        for name in ("waiting", "connections", "max_pixels"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.calls < 0:
            raise BadInput(f"calls must be 0 or more, got {self.calls}")
        if not 0 <= self.delay_ms < float("inf"):
            raise BadInput(f"delay_ms must be 0 or more, got {self.delay_ms:g}")


class Refusal(EdgecvError):
    """A request is not taken: with this status of HTTP."""

    def __init__(self, message: str, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class Gone(EdgecvError):
    """The client has closed the connection: there is nobody to answer."""


class Memory:
    """The bytes of all bodies, inputs of networks and answers that are held."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self.held = 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Gives what takes more bytes for one request; they are free at the end. It raises Refusal."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            with self._lock:
                if taken + count > self._most:
                    raise Refusal(f"one request takes more than the {self._most / 2**20:g} MB of all together", 413)
                if self.held + count > self._most:
                    raise Refusal("too much is sent at once; try again later", 429, {"Retry-After": "1"})
                self.held += count
                taken += count

        try:
            yield take
        finally:
            with self._lock:
                self.held -= taken


async def read(receive: Receive, headers: Mapping[str, str], limits: Limits, take: Callable[[int], None]) -> bytearray:
    """A whole body; raises Refusal, and Gone."""
    coding = headers.get("content-encoding", "identity").lower()
    most = int(limits.body_mb * 2**20)
    length = headers.get("content-length", "")
    if coding != "identity":
        await linger(receive)
        raise Refusal(f"Content-Encoding '{coding[:20]}' is not taken: send the body as it is", 415)
    if length and "transfer-encoding" in headers:
        await linger(receive)  # of two lengths somebody between may have taken the other one (RFC 9112, 6.1)
        raise Refusal("Content-Length and Transfer-Encoding: send one of them", 400, {"Connection": "close"})
    if length.isdecimal() and int(length[:20]) > most:
        await linger(receive)
        raise _too_large(most)
    try:
        return await _within(limits.body_s, _whole(receive, most, take))
    except asyncio.TimeoutError as exc:
        raise Refusal(f"the body was not there after {limits.body_s:g} s", 408, {"Connection": "close"}) from exc
    except Refusal:
        await linger(receive)
        raise


async def _within(seconds: float, doing: Awaitable[T]) -> T:
    """As asyncio.wait_for, which makes a task of each before Python 3.12: a tenth of a millisecond."""
    if sys.version_info < (3, 11):
        return await asyncio.wait_for(doing, seconds)
    async with asyncio.timeout(seconds):
        return await doing


async def _whole(receive: Receive, most: int, take: Callable[[int], None]) -> bytearray:
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        piece = message.get("body", b"")
        if len(body) + len(piece) > most:
            raise _too_large(most)
        take(len(piece))
        body += piece
        more = message.get("more_body", False)
    return body


async def linger(receive: Receive) -> None:
    """Take what is still sent, for a short while: a client that sends first reads then why it was in vain."""

    async def drop() -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return

    try:
        await asyncio.wait_for(drop(), _LINGER_S)
    except asyncio.TimeoutError:
        return


def _too_large(most: int) -> Refusal:
    return Refusal(f"a request has at most {most / 2**20:g} MB; send fewer or smaller pictures", 413)
