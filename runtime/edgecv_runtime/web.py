"""What all that listens for HTTP shares: the socket, the thread, the token, and who may ask without one."""

from __future__ import annotations

import hmac
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecv_runtime import jsontext
from edgecv_runtime.addresses import host_and_port, is_local
from edgecv_runtime.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from starlette.responses import Response

    from edgecv_runtime.webconnection import Bounds

TOKEN_VARIABLE = "EDGECV_TOKEN"  # the name of a variable
COOKIE = "edgecv_token"
_SHORTEST_TOKEN = 16
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_ENCODED = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]


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
    return text


class Background:
    """An app that uvicorn serves in a thread of its own; `url` is where."""

    def __init__(
        self, app: Any, host: str, port: int, *, name: str, extra: str, bounds: Bounds | None = None, **settings: Any
    ) -> None:
        """Bind the address; the app is served from `start` on.

        name: of the thread, "edgecv-page" say. extra: that brings uvicorn. bounds: of what clients may hold.
        settings: of uvicorn, besides ours. Raises BadInput for an address that is taken, Unavailable without uvicorn.
        """
        try:
            from edgecv_runtime.webconnection import Bounds, listen, server
        except ImportError as exc:
            raise Unavailable(f"{name} needs starlette and uvicorn", extra=extra) from exc
        bounds = bounds or Bounds()
        self._socket = listen(host, port, bounds)
        self.port: int = self._socket.getsockname()[1]
        scheme = "https" if settings.get("ssl_certfile") else "http"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"
        self._server = server(app, bounds, **settings)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name=name, daemon=True)

    @property
    def is_ending(self) -> bool:
        """Whether it takes no more requests."""
        return self._server.should_exit

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def close(self, wait_s: float) -> None:
        """Stop serving; waits so long for requests that have begun."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(wait_s)
        self._socket.close()


class Guarded:
    """Around an app: who may ask, and what each answer forbids browsers to do with it.

    Without a token only names of this machine are answered: a web site could give its own name our address (DNS
    rebinding) and read the answers through its visitor. With one, every path but the `unguarded` needs it: as
    `Authorization: Bearer TOKEN`, as a cookie, or as `/?token=TOKEN`. The path is that of the request line: a URL is
    made with the Host header, too, which is the client's to write.
    """

    def __init__(
        self,
        app: Any,
        token: str | None,
        unguarded: Sequence[str],
        refusal: Callable[[str, int, dict[str, str]], Any],
        *,
        is_open: bool = False,
    ) -> None:
        """refusal: makes the answer of a text, a status and headers.

        is_open: who can connect may ask, for that takes a certificate.
        """
        self._is_open = is_open
        self._app = app
        self._token = token
        self._unguarded = unguarded
        self._refusal = refusal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_ENCODED]
            await send(message)

        app = self._app
        if scope["type"] == "http":
            request = Request(scope)
            if self._token is None:
                host = (host_and_port(request.headers.get("host", "")) or ("", None))[0]
                if not self._is_open and not is_local(host):
                    app = self._refusal("without a token this is for the machine itself", 421, {})
            elif scope["path"] not in self._unguarded and not self._is_known(request):
                app = self._refusal("a token is needed", 401, {"WWW-Authenticate": "Bearer"})
        await app(scope, receive, with_headers)

    def _is_known(self, request: Any) -> bool:
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = [bearer if kind.lower() == "bearer" else "", request.cookies.get(COOKIE, "")]
        given.append(request.query_params.get("token", "") if request.scope["path"] == "/" else "")
        assert self._token is not None
        return any(hmac.compare_digest(each.encode(), self._token.encode()) for each in given)


def check_guarded(host: str, port: int, token: str | None, what: str, option: str) -> None:
    """Refuse to listen for other machines without a token; raises BadInput that says what they would get."""
    if token is None and not is_local(host):
        raise BadInput(
            f"{host}:{port}: other machines would {what}; give a token "
            f"({option} FILE, or the variable {TOKEN_VARIABLE}), or listen at 127.0.0.1"
        )


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A Starlette response with one JSON document."""
    from starlette.responses import Response

    document = jsontext.encode(value)
    return Response(document, status_code=status, media_type="application/json", headers=headers)
