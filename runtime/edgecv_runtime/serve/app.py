"""The paths of the Open Inference Protocol v2, as an app of Starlette."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgecv_runtime import __version__
from edgecv_runtime.datatypes import BINARY, HEADER_LENGTH
from edgecv_runtime.errors import BadInput, EdgecvError
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.serve import body, protocol
from edgecv_runtime.serve.body import Gone, Refusal
from edgecv_runtime.serve.desk import PLATFORM, Desk, Served, content, refusal
from edgecv_runtime.serve.line import Line
from edgecv_runtime.serve.models import Outputs
from edgecv_runtime.web import json_answer

_INFER = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")
UNGUARDED = ("/v2/health/live", "/v2/health/ready")  # a word each, and nothing of what is served
_PIECE = 1 << 18  # bytes


class Body(NamedTuple):
    """A posted request: its body, and how long the JSON at its start is where binary data follows."""

    sent: bytearray
    header_length: str | None

    def decoded_bytes(self) -> int:
        """What its JSON takes at most once it is read."""
        return protocol.decoded_bytes(self.sent, self.header_length)

    def read(self, spec: TensorSpec, outputs: Sequence[str]) -> protocol.Request:
        """The request."""
        return protocol.read(self.sent, self.header_length, spec, outputs)

    def write(self, served: Served, content: str, asked: protocol.Request, columns: Outputs) -> Response:
        """The answer, written by the thread that computed it."""
        document, length = protocol.write(served.name, served.version, content, asked, columns)
        if length is None:
            return Response(document, media_type="application/json")
        return Response(
            document,
            media_type="application/octet-stream",
            headers={"Inference-Header-Content-Length": str(length)},
        )


class App:
    """Answers the protocol for some models; `asgi` is what a server runs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        one = "/v2/models/{name}"
        exact = f"{one}/versions/{{version}}"
        routes = [  # those to infer for other methods alone: see `asgi`
            *(Route(f"{path}/infer", _Endpoint(self.infer), methods=["POST"]) for path in (one, exact)),
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            *(Route(path, self._metadata) for path in (one, exact)),
            *(Route(f"{path}/ready", self._model_ready) for path in (one, exact)),
            Route("/metrics", self._text_of_metrics),
        ]
        self._routed = Starlette(routes=routes, exception_handlers={HTTPException: _plainly, EdgecvError: _refused})
        self._routed.router.redirect_slashes = False  # to where the client's own Host header says

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        """The app; what is to be computed goes past the router, which costs what a small network does."""
        found = _INFER.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await self._routed(scope, receive, send)
        else:
            await self.infer({**scope, "path_params": found.groupdict()}, receive, send)

    async def infer(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a posted request; what it sends and what it gets count as memory until it has taken it."""
        began_s = time.monotonic()
        request = Request(scope, receive)
        name = version = ""
        desk = self._desk
        with desk.memory.hold() as take:
            try:
                try:
                    served = self._find(request)
                except Refusal:
                    await body.linger(receive)
                    raise
                name, version = served.name, served.version
                sent = await body.read(receive, request.headers, desk.limits, take)
                with served.line.place():
                    wire = Body(sent, _only(request.headers.getlist(HEADER_LENGTH)))
                    state = scope["state"]
                    here = len(state["connections"]) == 1 and desk.is_quick(served, len(sent))
                    answer = await desk.answer(served, wire, take, state["gone"], here=here)
                take(len(answer.body))
            except Gone:
                answer = Response(status_code=499)
            except Exception as exc:  # whatever it is, the client gets one line, and the others theirs
                answer = _said(exc, served.line if name else None)
            took_s = time.monotonic() - began_s
            try:
                await _send(answer, send)
            finally:  # also where the end of the server cuts it off
                desk.metrics.answered(name, version, answer.status_code, took_s)

    def _find(self, request: Request) -> Served:
        return self._desk.find(request.path_params["name"], request.path_params.get("version"))

    async def _server(self, _: Request) -> Response:
        return json_answer({"name": "edgecv", "version": __version__, "extensions": [BINARY]})

    async def _live(self, _: Request) -> Response:
        live = self._desk.is_live
        return json_answer({"live": live}, 200 if live else 503)

    async def _ready(self, _: Request) -> Response:
        ready = self._desk.is_ready
        return json_answer({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self, request: Request) -> Response:
        served = self._find(request)
        ready = served.is_ready
        return json_answer({"name": served.name, "ready": ready}, 200 if ready else 503)

    async def _index(self, _: Request) -> Response:
        return json_answer(
            [
                {
                    "name": each.name,
                    "version": each.version,
                    "state": "READY" if each.is_ready else "UNAVAILABLE",
                    "reason": "",
                }
                for each in self._desk.all()
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        served = self._find(request)
        model = served.line.source.current()
        return json_answer(
            {
                "name": served.name,
                "versions": self._desk.versions(served.name),
                "platform": PLATFORM,
                "inputs": [protocol.metadata(served.face.input(model))],
                "outputs": [protocol.metadata(spec) for spec in served.face.outputs(model)],
                "parameters": content(served),
            }
        )

    async def _text_of_metrics(self, _: Request) -> Response:
        return Response(
            await asyncio.to_thread(self._desk.metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


async def _send(answer: Response, send: Any) -> None:
    """Piece by piece, so that a client that takes none of them is noticed."""
    await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
    for at in range(0, max(1, len(answer.body)), _PIECE):
        more = at + _PIECE < len(answer.body)
        await send({"type": "http.response.body", "body": answer.body[at : at + _PIECE], "more_body": more})


def _only(values: list[str]) -> str | None:
    if len(set(values)) > 1:
        raise BadInput(f"{HEADER_LENGTH} is said {len(values)} times: say it once")
    return values[0] if values else None


class _Endpoint:
    """An app of its own, which Starlette does not take for a function from request to response."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


def _said(error: Exception, line: Line | None = None) -> Response:
    """An error as the protocol shows it."""
    refused = refusal(error, line)
    return json_answer({"error": str(refused)}, refused.status, refused.headers)


async def _plainly(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return json_answer({"error": error.detail}, error.status_code, error.headers)


async def _refused(_: Request, error: Exception) -> Response:
    return _said(error)
