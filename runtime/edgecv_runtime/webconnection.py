"""uvicorn's HTTP with what a server for strangers needs: all in time, so many at once, JSON for what is no HTTP.

A process has some hundreds of descriptors, and cameras, files and models need some of them: what a client may hold has
an end, whether it says nothing, half of something, or takes no answer.
h11 refuses headers of more than 64 KB; uvicorn's other parser, httptools, takes any number of them into memory.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import Any, NamedTuple

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgecv_runtime import jsontext
from edgecv_runtime.errors import BadInput

_QUIET = logging.getLogger("edgecv.serve.http")  # whoever sends garbage fills no log
_QUIET.setLevel(logging.CRITICAL)
_TOLD = 64  # connections too many that are told so; the others are closed


class Bounds(NamedTuple):
    """What clients may hold. connections: at once; head_s, send_s: until a request's headers must be there, and until
    an answer must be taken, a piece at least."""

    connections: int = 256
    head_s: float = 10.0
    send_s: float = 30.0


class _Listener(socket.socket):
    """A listening socket that closes connections beyond `most`; those in a handshake, too."""

    def __init__(self, *how: int, most: int) -> None:
        super().__init__(*how)
        self._most = most
        self._taken: list[socket.socket] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """One too many is closed, and is to asyncio one that has gone already."""
        connection, address = super().accept()
        self._taken = [each for each in self._taken if each.fileno() >= 0]
        if len(self._taken) >= self._most:
            connection.close()
            raise ConnectionAbortedError
        self._taken.append(connection)
        return connection, address


def listen(host: str, port: int, bounds: Bounds) -> socket.socket:
    """A listening socket; raises BadInput for an address that is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # asyncio sets TCP_NODELAY where the protocol is named alone; without it each answer takes 40 ms longer, for its
        # headers and its body are two writes
        listener = _Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, most=bounds.connections + _TOLD)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # who went without a word is noticed
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as exc:
        raise BadInput(f"{host}:{port}: cannot listen there: {exc.strerror}") from exc
    return listener


class _Server(uvicorn.Server):
    """uvicorn's, whose TLS handshakes have an end."""

    def __init__(self, config: uvicorn.Config, handshake_s: float) -> None:
        super().__init__(config)
        self._handshake_s = handshake_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn does not hand the loop what it is told of handshakes."""
        if self.config.ssl is not None:
            loop: Any = asyncio.get_running_loop()
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=self._handshake_s)
        await super().startup(sockets)


def server(app: Any, bounds: Bounds, **settings: Any) -> uvicorn.Server:
    """What serves an app within bounds; settings: of uvicorn, besides ours."""
    ours: dict[str, Any] = {"log_config": None, "access_log": False, "lifespan": "off", "ws": "none"}
    ours |= {"loop": "asyncio", "http": _protocol(bounds)}  # another loop would not ask our socket
    return _Server(uvicorn.Config(app, **ours, **settings), bounds.head_s)


class _Gathered:
    """A transport that sends headers with the first piece of the body: one call of the system, one wake of a client.

    send_s: what is not taken so long after it was closed is given up.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, send_s: float) -> None:
        self._transport, self._loop, self._send_s = transport, loop, send_s
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Keep what comes first until there is more, the next turn of the loop at the latest."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/"):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close it when all is sent."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._send_s, self._transport.abort)

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


def _protocol(bounds: Bounds) -> type[H11Protocol]:
    """The class of connections within bounds; a body that an answer has not waited for must end after `head_s`, too."""
    most, head_s, send_s = bounds

    class Connection(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _rest: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(_Gathered(transport, self.loop, send_s))  # type: ignore[arg-type]
            self.app = self._in_time(self.app)
            self.logger = _QUIET
            self._gone = self.loop.create_future()
            state = {"gone": self._gone, "connections": self.connections}
            self.app_state = {**self.app_state, **state}
            if len(self.connections) > most:
                self._refuse(503, f"{most} connections are open already; try again later")
            else:
                self._head = self.loop.call_later(head_s, self._late)

        def _in_time(self, app: Any) -> Any:
            """The app, whose client is given up when it takes nothing of an answer for a while."""

            async def timed(scope: Any, receive: Any, send: Any) -> None:
                async def timed_send(message: Any) -> None:
                    if not self.transport.get_write_buffer_size():  # it waits for nothing
                        await send(message)
                        return
                    try:
                        await asyncio.wait_for(send(message), send_s)
                    except asyncio.TimeoutError:
                        self.transport.abort()

                await app(scope, receive, timed_send)

            return timed

        def connection_lost(self, exc: Exception | None) -> None:
            self._came()
            self._ended()
            self._gone.set_result(None)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._came()
            elif self._head is None and self.conn.trailing_data[0]:  # the first of the next request
                self._head = self.loop.call_later(head_s, self._late)
            if self.conn.their_state is not h11.SEND_BODY:
                self._ended()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
                self._rest = self.loop.call_later(head_s, self.transport.close)

        def send_400_response(self, msg: str) -> None:
            text = f"{msg} Or its headers have more than 64 KB."
            self._refuse(400, text)

        def _late(self) -> None:
            self._head = None
            if self.conn.our_state is h11.IDLE and not self.transport.is_closing():
                self._refuse(408, f"the headers were not there after {head_s:g} s")

        def _refuse(self, status: int, text: str) -> None:
            headers: Any = [(b"content-type", b"application/json"), (b"connection", b"close")]
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                for event in (
                    h11.Response(status_code=status, headers=headers),
                    h11.Data(data=jsontext.encode({"error": text})),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _ended(self) -> None:
            if self._rest is not None:
                self._rest.cancel()
                self._rest = None

        def _came(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Connection
