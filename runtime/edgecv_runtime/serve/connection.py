"""uvicorn's HTTP with what a server for strangers needs: headers in time, and JSON for what is no HTTP.

h11 refuses headers of more than 64 KB; uvicorn's other parser, httptools, takes any number of them into memory.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from edgecv_runtime import jsontext

_QUIET = logging.getLogger("edgecv.serve.http")  # whoever sends garbage fills no log
_QUIET.setLevel(logging.CRITICAL)


class _Gathered:
    """A transport that sends headers with the first piece of the body: one call of the system, one wake of a client."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
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

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)


def protocol(head_s: float, most: int) -> type[H11Protocol]:
    """The class of connections, of which there are so many at most, and whose headers must be there after `head_s`.

    A body that an answer has not waited for must end as soon, too.
    """

    class Connection(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _rest: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(_Gathered(transport, self.loop))  # type: ignore[arg-type]
            self.logger = _QUIET
            self._gone = self.loop.create_future()
            state = {"abort": transport.abort, "gone": self._gone, "connections": self.connections}
            self.app_state = {**self.app_state, **state}
            if len(self.connections) > most:  # each would hold a descriptor, of which a process has some hundreds
                self._refuse(503, f"{most} connections are open already; try again later")
            else:
                self._head = self.loop.call_later(head_s, self._late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._in_time()
            self._ended()
            self._gone.set_result(None)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._head is None and self.conn.their_state is h11.IDLE:  # the first of the next request
                self._head = self.loop.call_later(head_s, self._late)
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._in_time()
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

        def _in_time(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Connection
