"""A server of bundles: `with Server([Offer("digits", "1", Always(model))], "127.0.0.1", 8000) as server: ...`."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgecv_runtime import machine
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.serve.body import Limits
from edgecv_runtime.serve.line import Line, Source
from edgecv_runtime.serve.metrics import Metrics
from edgecv_runtime.serve.models import NETWORK, Face, Network, Pictures
from edgecv_runtime.serve.tls import Tls
from edgecv_runtime.stream.redact import remember
from edgecv_runtime.web import Background, Guarded, check_guarded, json_answer

if TYPE_CHECKING:
    from typing import Self

    from edgecv_runtime.serve.grpcserver import GrpcServer

_CLOSE_S = 10.0  # for requests that have begun


class Offer(NamedTuple):
    """A bundle, by the name and version under which clients ask for it."""

    name: str
    version: str
    source: Source


class Server:
    """Serves models over HTTP by the Open Inference Protocol v2; `url` is where.

    Each offer is two models of the protocol: `NAME` takes image files and answers with results, those of
    `model(frame)` for the decoded file; `NAME.network` takes and gives the tensors of the network.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        grpc_port: int | None = None,
        token: str | None = None,
        tls: Tls | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Bind the address; the sources are closed with the server.

        grpc_port: of the same host, for gRPC; None for none. tls: certificates, for both; where clients have to show
        one, that stands in for the token.
        Raises BadInput for an address of other machines without a token, one that is taken, and names that are given
        twice; Unavailable without starlette, uvicorn and prometheus-client, or grpcio.
        """
        is_mutual = tls is not None and tls.client_ca is not None
        if not is_mutual:
            check_guarded(host, port, token, "use the models", "--token")
        if tls is not None:
            tls.check()
        if token is not None:
            remember(token)
        _check_names(offers)
        try:
            from edgecv_runtime.serve.app import UNGUARDED, App
            from edgecv_runtime.serve.desk import Desk, Served
            from edgecv_runtime.webconnection import Bounds
        except ImportError as exc:
            raise Unavailable("a server needs starlette and uvicorn", extra="serve") from exc
        self._limits = limits = limits or Limits()
        self._metrics = metrics = Metrics()
        self._lines: list[Line] = []
        served: list[Served] = []
        cores = max(1, machine.this().cores)
        pictures, network = Pictures(limits.max_pixels), Network()
        turns = threading.BoundedSemaphore(cores)
        for name, version, source in offers:
            line = Line(
                source,
                calls=limits.calls or max(cores, source.current().streams),
                readers=cores,
                turns=turns,
                most=limits.waiting,
                delay_s=limits.delay_ms / 1e3,
                ran=metrics.ran(name, version),
            )
            metrics.inside(name, version, lambda line=line: line.inside)  # type: ignore[misc]
            self._lines.append(line)
            faces: tuple[tuple[str, Face], ...] = ((name, pictures), (name + NETWORK, network))
            served += [Served(each, version, line, face) for each, face in faces]
        self._desk = Desk(served, limits, metrics)
        self._grpc: GrpcServer | None = None
        try:
            guarded = Guarded(
                App(self._desk).asgi,
                token,
                UNGUARDED,
                lambda text, *rest: json_answer({"error": text}, *rest),
                is_open=is_mutual,
            )
            self._background = Background(
                guarded,
                host,
                port,
                name="edgecv-serve",
                extra="serve",
                bounds=Bounds(limits.connections, limits.head_s, limits.send_s),
                timeout_graceful_shutdown=int(_CLOSE_S),
                proxy_headers=False,  # nothing here depends on who asks through whom
                **({} if tls is None else tls.for_uvicorn()),
            )
            if grpc_port is not None:
                from edgecv_runtime.serve.grpcserver import GrpcServer

                try:
                    self._grpc = GrpcServer(self._desk, host, grpc_port, token, tls)
                except BaseException:
                    self._background.close(0)
                    raise
        except BaseException:
            self._close_lines()
            raise
        self.port, self.url = self._background.port, self._background.url
        self.grpc_port = None if self._grpc is None else self._grpc.port

    def start(self) -> None:
        """Serve, in a thread of its own."""
        self._background.start()
        if self._grpc is not None:
            self._grpc.start()

    def close(self) -> bool:
        """Take no more requests, answer those that have begun, close the models; False where a call hangs."""
        if self._grpc is not None:
            self._grpc.close(_CLOSE_S)
        self._background.close(_CLOSE_S + 1)
        return self._close_lines()

    def hanging_s(self) -> float:
        """How long the longest call of a model that goes on has taken so far."""
        now_s = time.monotonic()
        return max((line.hanging_s(now_s) for line in self._lines), default=0.0)

    def counts(self) -> list[dict[str, object]]:
        """How many requests there were, by model, version and status of HTTP."""
        return self._metrics.counts()

    def _close_lines(self) -> bool:
        closed = [line.close(_CLOSE_S) for line in self._lines]
        return all(closed)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_names(offers: Sequence[Offer]) -> None:
    seen: set[tuple[str, str]] = set()
    for name, version, _ in offers:
        if not name or not version or not all(each.isprintable() and "/" not in each for each in (name, version)):
            raise BadInput(f"'{name}:{version}' cannot be asked for in a URL: name it otherwise, NAME:VERSION=BUNDLE")
        if (name, version) in seen:
            raise BadInput(
                f"two bundles are '{name}', version {version}: tell them apart, as {name}:1=BUNDLE {name}:2=BUNDLE"
            )
        seen.add((name, version))
    taken = {name for name, _, _ in offers} & {name + NETWORK for name, _, _ in offers}
    if taken:
        raise BadInput(f"'{min(taken)}' is the name of another bundle's network: name it otherwise, NAME=BUNDLE")
