"""The paths of the Open Inference Protocol v2, as an app of Starlette."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgecv_runtime import __version__
from edgecv_runtime.datatypes import BINARY, HEADER_LENGTH
from edgecv_runtime.errors import BadInput, Closed, EdgecvError, Unavailable, nearest
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.serve import body, protocol
from edgecv_runtime.serve.body import Gone, Limits, Memory, Refusal
from edgecv_runtime.serve.line import Again, Busy, Line
from edgecv_runtime.serve.metrics import Metrics
from edgecv_runtime.serve.models import Face, Outputs
from edgecv_runtime.stream.latest import told
from edgecv_runtime.web import json_answer

T = TypeVar("T")
UNGUARDED = ("/v2/health/live", "/v2/health/ready")  # a word each, and nothing of what is served
_PLATFORM = "edgecv_onnx"
_PIECE = 1 << 18  # bytes
_TRIES = 3  # of a request whose model is exchanged meanwhile
_SLOW_S, _HANGS_S = 10.0, 30.0  # a call that takes so long is not ready for others; does not come back
logger = logging.getLogger("edgecv")


class Served(NamedTuple):
    """One model of the protocol: a bundle's line, seen by one of its faces."""

    name: str
    version: str
    line: Line
    face: Face


class App:
    """Answers the protocol for some models; `asgi` is what a server runs."""

    def __init__(self, served: Sequence[Served], limits: Limits, metrics: Metrics, workers: int) -> None:
        """workers: threads that decode."""
        self._models: dict[str, dict[str, Served]] = {}
        for each in served:
            self._models.setdefault(each.name, {})[each.version] = each
        self._limits = limits
        self._metrics = metrics
        self._memory = Memory(int(limits.memory_mb * 2**20))
        metrics.held(lambda: self._memory.held)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="edgecv-serve-decode")
        one = "/v2/models/{name}"
        exact = f"{one}/versions/{{version}}"
        routes = [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            *(Route(path, self._metadata) for path in (one, exact)),
            *(Route(f"{path}/ready", self._model_ready) for path in (one, exact)),
            *(Route(f"{path}/infer", _Endpoint(self.infer), methods=["POST"]) for path in (one, exact)),
            Route("/metrics", self._text_of_metrics),
        ]
        self.asgi = Starlette(routes=routes, exception_handlers={HTTPException: _plainly, EdgecvError: _refused})

    def close(self) -> None:
        """End the threads, when what they do is done."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def infer(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a posted request; what it sends and what it gets count as memory until it has taken it."""
        began_s = time.monotonic()
        request = Request(scope, receive)
        name = version = ""
        with self._memory.hold() as take:
            try:
                try:
                    served = self._find(request.path_params)
                except Refusal:
                    await body.linger(receive)
                    raise
                name, version = served.name, served.version
                sent = await body.read(receive, request.headers, self._limits, take)
                with served.line.place():
                    answer = await self._answer(served, sent, request, take)
                take(len(answer.body))
            except Gone:
                answer = Response(status_code=499)
            except Exception as exc:  # whatever it is, the client gets one line, and the others theirs
                answer = refusal(exc, served.line if name else None)
            self._metrics.answered(name, version, answer.status_code, time.monotonic() - began_s)
            await self._send(answer, scope, send)

    async def _send(self, answer: Response, scope: Any, send: Any) -> None:
        """Piece by piece, and give a client up that takes none of them for a while."""
        await send({"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers})
        for at in range(0, max(1, len(answer.body)), _PIECE):
            piece = answer.body[at : at + _PIECE]
            more = at + _PIECE < len(answer.body)
            sending = send({"type": "http.response.body", "body": piece, "more_body": more})
            try:
                await (asyncio.wait_for(sending, self._limits.send_s) if at else sending)  # the first waits for none
            except asyncio.TimeoutError:
                scope["state"]["abort"]()
                return

    async def _answer(
        self, served: Served, sent: memoryview, request: Request, take: Callable[[int], None]
    ) -> Response:
        """Read, compute, write; again where the model is exchanged meanwhile."""
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            for _ in range(_TRIES):
                try:
                    return await self._once(served, sent, request.headers.get(HEADER_LENGTH), gone, take)
                except Again:
                    continue
            raise Closed("the model was exchanged several times meanwhile; try again")
        finally:
            gone.cancel()

    async def _once(
        self,
        served: Served,
        sent: memoryview,
        header_length: str | None,
        gone: asyncio.Future[None],
        take: Callable[[int], None],
    ) -> Response:
        model, face = served.line.source.current(), served.face
        names = [spec.name for spec in face.outputs(model)]

        def made_ready() -> tuple[float | None, Future[tuple[bytes, int | None]]]:
            take(protocol.decoded_bytes(sent, header_length))
            asked = protocol.read(sent, header_length, face.input(model), names)
            take(len(asked.input) * _row_bytes(model.input) if asked.input.ndim else 0)
            ready = face.ready(model, asked.input)

            def written(outputs: Outputs) -> tuple[bytes, int | None]:
                columns = face.answer(model, ready, outputs)
                return protocol.write(served.name, served.version, told(model), asked, columns)

            return asked.timeout_s, served.line.submit(model, ready.tensor, written)

        with served.line.coming():
            timeout_s, waiting = await self._off(made_ready)
        answered = asyncio.wrap_future(waiting)
        try:
            ends: tuple[asyncio.Future[Any], ...] = (answered, gone)
            await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                if gone.done():
                    raise Gone
                raise Refusal(f"not computed after the {timeout_s:g} s of parameters.timeout", 504)
            document, length = answered.result()
        finally:
            waiting.cancel()  # at once: through the loop it would be computed yet
        if length is None:
            return Response(document, media_type="application/json")
        return Response(
            document,
            media_type="application/octet-stream",
            headers={"Inference-Header-Content-Length": str(length)},
        )

    async def _off(self, call: Callable[[], T]) -> T:
        """In a thread, so that the loop goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _find(self, path: Mapping[str, str]) -> Served:
        versions = self._models.get(path["name"])
        if versions is None:
            raise Refusal(f"there is no model '{path['name'][:80]}'{nearest(path['name'][:80], self._models)}", 404)
        version = path.get("version")
        if version is None:
            return max(versions.values(), key=lambda each: _order(each.version))
        if version not in versions:
            raise Refusal(f"model '{path['name']}' has the versions {', '.join(versions)}, not '{version[:40]}'", 404)
        return versions[version]

    async def _server(self, _: Request) -> Response:
        return json_answer({"name": "edgecv", "version": __version__, "extensions": [BINARY]})

    async def _live(self, _: Request) -> Response:
        """A call that hangs is mended by a new process."""
        now_s = time.monotonic()
        live = all(each.line.hanging_s(now_s) < _HANGS_S for each in self._all())
        return json_answer({"live": live}, 200 if live else 503)

    async def _ready(self, _: Request) -> Response:
        ready = all(self._is_ready(each) for each in self._all())
        return json_answer({"ready": ready}, 200 if ready else 503)

    async def _model_ready(self, request: Request) -> Response:
        served = self._find(request.path_params)
        ready = self._is_ready(served)
        return json_answer({"name": served.name, "ready": ready}, 200 if ready else 503)

    async def _index(self, _: Request) -> Response:
        return json_answer(
            [
                {
                    "name": each.name,
                    "version": each.version,
                    "state": "READY" if self._is_ready(each) else "UNAVAILABLE",
                    "reason": "",
                }
                for each in self._all()
            ]
        )

    async def _metadata(self, request: Request) -> Response:
        served = self._find(request.path_params)
        model = served.line.source.current()
        return json_answer(
            {
                "name": served.name,
                "versions": sorted(self._models[served.name], key=_order),
                "platform": _PLATFORM,
                "inputs": [protocol.metadata(served.face.input(model))],
                "outputs": [protocol.metadata(spec) for spec in served.face.outputs(model)],
                "parameters": {"content": told(model)},
            }
        )

    async def _text_of_metrics(self, _: Request) -> Response:
        return Response(await self._off(self._metrics.text), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _all(self) -> list[Served]:
        return [each for versions in self._models.values() for each in versions.values()]

    @staticmethod
    def _is_ready(served: Served) -> bool:
        return served.line.hanging_s(time.monotonic()) < _SLOW_S


class _Endpoint:
    """An app of its own, which Starlette does not take for a function from request to response."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


def refusal(error: Exception, line: Line | None = None) -> Response:
    """An error as the protocol shows it, with the status that tells a client whether to try again."""
    headers: dict[str, str] = {}
    if isinstance(error, Refusal):
        status, headers = error.status, error.headers
    elif isinstance(error, Busy):
        status = 429
        headers["Retry-After"] = str(math.ceil(line.wait_s()) if line is not None and line.wait_s() > 0 else 1)
    elif isinstance(error, BadInput):
        status = 400
    elif isinstance(error, (Closed, Unavailable)):
        status = 503
    else:
        status = 500
    if not isinstance(error, EdgecvError):
        logger.error("a request failed: %s: %s", type(error).__name__, error)
        error = EdgecvError("the computation failed")
    return json_answer({"error": str(error)}, status, headers)


def _row_bytes(spec: TensorSpec) -> int:
    return math.prod(size for size in spec.shape[1:] if isinstance(size, int)) * np.dtype(spec.dtype).itemsize


def _order(version: str) -> tuple[int, str]:
    """The latest last: by number."""
    return (int(version), "") if version.isdecimal() else (-1, version)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _plainly(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return json_answer({"error": error.detail}, error.status_code, error.headers)


async def _refused(_: Request, error: Exception) -> Response:
    return refusal(error)
