"""The live page, health checks and metrics over HTTP, for this machine alone unless there is a token."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecv_runtime import jsontext
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.stream.live.board import Board
from edgecv_runtime.stream.live.metrics import Measured, Metrics
from edgecv_runtime.stream.redact import host_and_port, remember

if TYPE_CHECKING:
    from typing import Self

TOKEN_VARIABLE = "EDGECV_TOKEN"  # the name of a variable
_SHORTEST_TOKEN = 16
_COOKIE = "edgecv_token"
_OPEN = ("/livez",)  # says one word, and nothing of cameras
_LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
_MOST_VIEWERS = 16  # of moving pictures at a time
_FRAME_S = 0.1  # between two pictures of one viewer
_PIECE = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def parse_address(text: str) -> tuple[str, int]:
    """`127.0.0.1:8080`, `8080` (of this machine), `[::1]:8080` -> (host, port); port 0 is any free one.

    Raises BadInput.
    """
    host, port = host_and_port(f"127.0.0.1:{text}" if text.isdecimal() else text) or ("", None)
    if port is None or port > 65535:
        raise BadInput(f"'{text}' is no address to listen at; expected HOST:PORT, as 127.0.0.1:8080")
    return host, port


def read_token(path: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """The token of a file, else of the variable EDGECV_TOKEN, else None; raises BadInput, which never shows it."""
    where = TOKEN_VARIABLE if path is None else str(path)
    if path is None:
        text = environment.get(TOKEN_VARIABLE)
    else:
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "is not UTF-8"
            raise BadInput(f"{path}: the token cannot be read: {reason}") from exc
    if text is None:
        return None
    if len(text) < _SHORTEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise BadInput(
            f"{where}: a token has {_SHORTEST_TOKEN} printable ASCII characters at least, without blanks; "
            "make one with: openssl rand -hex 16"
        )
    remember(text)
    return text


class LivePage:
    """Serves a board: `with LivePage(board, "127.0.0.1", 8080) as page: ...`; `page.url` is where.

    `/` is the page, `/state.json` what it shows, `/picture/N` and `/video/N` the pictures of a source, `/livez`,
    `/readyz` and `/metrics` are for supervisors. With a token, each request but `/livez` needs it: as
    `Authorization: Bearer TOKEN`, or once as `/?token=TOKEN`, which leaves a cookie.
    """

    def __init__(
        self, board: Board, host: str, port: int, *, token: str | None = None, stream: Measured | None = None
    ) -> None:
        """Bind the address; raises BadInput for one of other machines without a token, and where it is taken.

        stream: what the metrics measure, a `Stream` say. Raises Unavailable without starlette, uvicorn and
        prometheus-client.
        """
        if token is None and not _is_local(host):
            raise BadInput(
                f"{host}:{port}: other machines would see the cameras; give a token "
                f"(--page-token FILE, or the variable {TOKEN_VARIABLE}), or listen at 127.0.0.1"
            )
        try:
            import starlette  # noqa: F401  # the app imports it
            import uvicorn
        except ImportError as exc:
            raise Unavailable("the live page needs starlette and uvicorn", extra="page") from exc
        self._board = board
        self._token = token
        self._metrics = Metrics(board, stream).text
        self._viewers = 0
        self._socket = _bind(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"
        config = uvicorn.Config(
            self._app(), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1, ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="edgecv-page", daemon=True
        )

    def start(self) -> None:
        """Serve, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop serving; waits for viewers a second."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(3.0)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.routing import Route

        routes = [
            *(Route(path, self._file) for path in _FILES),
            Route("/state.json", self._state),
            Route("/picture/{number:int}", self._picture),
            Route("/video/{number:int}", self._video),
            Route("/livez", self._livez),
            Route("/readyz", self._readyz),
            Route("/metrics", self._text_of_metrics),
        ]
        return _Guarded(Starlette(routes=routes), self._token)

    async def _file(self, request: Any) -> Any:
        from starlette.responses import RedirectResponse, Response

        if self._token is not None and "token" in request.query_params:  # so that it stays in no history
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(_COOKIE, self._token, httponly=True, samesite="strict")
            return answer
        name, kind = _FILES[request.url.path]
        return Response(Path(__file__).with_name(name).read_bytes(), media_type=kind)

    async def _state(self, _: object) -> Any:
        return _json(self._board.state())

    async def _picture(self, request: Any) -> Any:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        picture = await run_in_threadpool(self._board.picture, request.path_params["number"])
        return Response(status_code=404) if picture is None else Response(picture, media_type="image/jpeg")

    async def _video(self, request: Any) -> Any:
        from starlette.responses import Response, StreamingResponse

        number = request.path_params["number"]
        if self._board.index_of(number) is None:
            return Response(status_code=404)
        if self._viewers >= _MOST_VIEWERS:
            return Response(f"{_MOST_VIEWERS} viewers watch already", status_code=503, media_type="text/plain")
        return StreamingResponse(self._pieces(number), media_type="multipart/x-mixed-replace; boundary=frame")

    async def _pieces(self, number: int) -> AsyncIterator[bytes]:
        from starlette.concurrency import run_in_threadpool

        self._viewers += 1
        shown: int | None = None
        try:
            while not self._server.should_exit:
                index = self._board.index_of(number)
                if index is not None and index != shown:
                    picture = await run_in_threadpool(self._board.picture, number)
                    if picture is not None:
                        yield _PIECE % (len(picture), picture)
                    shown = index
                await asyncio.sleep(_FRAME_S)
        finally:
            self._viewers -= 1

    async def _livez(self, _: object) -> Any:
        alive = self._board.health.alive(time.monotonic())
        return _json({"alive": alive.ok, "reasons": alive.reasons}, 200 if alive.ok else 503)

    async def _readyz(self, request: Any) -> Any:
        ready = self._board.health.ready(time.monotonic(), request.query_params.get("source"))
        return _json({"ready": ready.ok, "reasons": ready.reasons}, 200 if ready.ok else 503)

    async def _text_of_metrics(self, _: object) -> Any:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        return Response(await run_in_threadpool(self._metrics), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Guarded:
    """Around an app: who may ask, and what each answer forbids browsers to do with it.

    Without a token only names of this machine are answered: a web site could give its own name our address (DNS
    rebinding) and read the page through its visitor.
    """

    def __init__(self, app: Any, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request
        from starlette.responses import Response

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        app = self._app
        if scope["type"] == "http":
            request = Request(scope)
            if self._token is None:
                host = (host_and_port(request.headers.get("host", "")) or ("", None))[0]
                if host not in _LOCAL_NAMES and not _is_local(host):
                    app = Response("this page is for the machine itself", status_code=421, media_type="text/plain")
            elif request.url.path not in _OPEN and not self._is_known(request):
                told = {"WWW-Authenticate": "Bearer"}
                app = Response("a token is needed", status_code=401, media_type="text/plain", headers=told)
        await app(scope, receive, with_headers)

    def _is_known(self, request: Any) -> bool:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = [bearer if kind.lower() == "bearer" else "", request.cookies.get(_COOKIE, "")]
        given.append(request.query_params.get("token", "") if request.url.path == "/" else "")
        assert self._token is not None
        return any(hmac.compare_digest(each.encode(), self._token.encode()) for each in given)


def _json(value: Any, status: int = 200) -> Any:
    from starlette.responses import Response

    return Response(jsontext.encode(value), status_code=status, media_type="application/json")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as exc:
        raise BadInput(f"{host}:{port}: cannot listen there: {exc.strerror}") from exc
    return listener
