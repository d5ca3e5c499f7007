"""The live page, health checks and metrics over HTTP, for this machine alone unless there is a token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecv_runtime.errors import Unavailable
from edgecv_runtime.stream.live.board import Board
from edgecv_runtime.stream.live.metrics import Measured, Metrics
from edgecv_runtime.stream.redact import remember
from edgecv_runtime.web import COOKIE, Background, Guarded, check_guarded, json_answer

if TYPE_CHECKING:
    from typing import Self

    from edgecv_runtime.webconnection import Bounds

_OPEN = ("/livez",)  # says one word, and nothing of cameras
_MOST_VIEWERS = 16  # of moving pictures at a time
_FRAME_S = 0.1  # between two pictures of one viewer
_PIECE = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


class LivePage:
    """Serves a board: `with LivePage(board, "127.0.0.1", 8080) as page: ...`; `page.url` is where.

    `/` is the page, `/state.json` what it shows, `/picture/N` and `/video/N` the pictures of a source, `/livez`,
    `/readyz` and `/metrics` are for supervisors. With a token, each request but `/livez` needs it: as
    `Authorization: Bearer TOKEN`, or once as `/?token=TOKEN`, which leaves a cookie.
    """

    def __init__(
        self,
        board: Board,
        host: str,
        port: int,
        *,
        token: str | None = None,
        stream: Measured | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        """Bind the address; raises BadInput for one of other machines without a token, and where it is taken.

        stream: what the metrics measure, a `Stream` say. bounds: of what clients may hold.
        Raises Unavailable without starlette, uvicorn and prometheus-client.
        """
        check_guarded(host, port, token, "see the cameras", "--page-token")
        try:
            import starlette  # noqa: F401  # the app imports it
        except ImportError as exc:
            raise Unavailable("the live page needs starlette and uvicorn", extra="page") from exc
        if token is not None:
            remember(token)
        self._board = board
        self._token = token
        self._metrics = Metrics(board, stream).text
        self._viewers = 0
        self._served = Background(
            self._app(), host, port, name="edgecv-page", extra="page", bounds=bounds, timeout_graceful_shutdown=1
        )
        self.port, self.url = self._served.port, self._served.url

    def start(self) -> None:
        """Serve, in a thread of its own."""
        self._served.start()

    def close(self) -> None:
        """Stop serving; waits for viewers a second."""
        self._served.close(3.0)

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
        return Guarded(Starlette(routes=routes), self._token, _OPEN, _refusal)

    async def _file(self, request: Any) -> Any:
        from starlette.responses import RedirectResponse, Response

        if self._token is not None and "token" in request.query_params:  # so that it stays in no history
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
            return answer
        name, kind = _FILES[request.scope["path"]]
        return Response(Path(__file__).with_name(name).read_bytes(), media_type=kind)

    async def _state(self, _: object) -> Any:
        return json_answer(self._board.state())

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
            while not self._served.is_ending:
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
        return json_answer({"alive": alive.ok, "reasons": alive.reasons}, 200 if alive.ok else 503)

    async def _readyz(self, request: Any) -> Any:
        ready = self._board.health.ready(time.monotonic(), request.query_params.get("source"))
        return json_answer({"ready": ready.ok, "reasons": ready.reasons}, 200 if ready.ok else 503)

    async def _text_of_metrics(self, _: object) -> Any:
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import Response

        return Response(await run_in_threadpool(self._metrics), media_type="text/plain; version=0.0.4; charset=utf-8")


def _refusal(text: str, status: int, headers: dict[str, str]) -> Any:
    from starlette.responses import Response

    return Response(text, status_code=status, media_type="text/plain", headers=headers)
