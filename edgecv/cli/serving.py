"""The verb that answers others: serve."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import edgecv_runtime as rt
from edgecv.cli.device import Json
from edgecv.cli.loading import Loading, loads
from edgecv.cli.output import Mode, leave, log_as, say, show_json
from edgecv_runtime.errors import BadInput

if TYPE_CHECKING:
    from edgecv_runtime.serve import Offer
    from edgecv_runtime.stream import Event

_LOOK_S = 0.5
_HANGS_S = 30.0


@loads
def serve(
    bundles: Annotated[list[str], typer.Argument(metavar="[NAME[:VERSION]=]BUNDLE...", help="Bundles to serve.")],
    loading: Loading,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:8000",
    token: Annotated[
        Path | None,
        typer.Option("--token", metavar="FILE", help="The token that clients send; for other machines."),
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option("--grpc-port", metavar="PORT", help="Also serve gRPC there; 0 is any free one.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="FILE", help="TLS: the certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="TLS: its key.")] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            "--client-ca", metavar="FILE", help="Clients show a certificate of this authority, in place of a token."
        ),
    ] = None,
    latest: Annotated[
        bool, typer.Option("--latest", help="Exchange a model when its bundle changes, after its self-test.")
    ] = False,
    waiting: Annotated[int, typer.Option(help="Requests of a model that may be inside at once.")] = 64,
    calls: Annotated[int, typer.Option(help="Calls of a model that compute at once; 0: one a core.")] = 0,
    max_delay: Annotated[
        float, typer.Option("--max-delay", metavar="MS", help="The longest wait for others to join a batch.")
    ] = 2.0,
    max_body: Annotated[float, typer.Option("--max-body", metavar="MB", help="Of a request.")] = 32.0,
    max_memory: Annotated[
        float, typer.Option("--max-memory", metavar="MB", help="Of all requests that are held at once.")
    ] = 256.0,
    max_megapixels: Annotated[float, typer.Option(help="Of the pictures of a request together.")] = 50.0,
    log: Annotated[str, typer.Option("--log", help="text, or json: one document a line on stderr.")] = "text",
    json: Json = False,
) -> None:
    """Serve bundles over HTTP or gRPC by the Open Inference Protocol v2 (KServe, Triton); pictures or tensors in."""
    from edgecv_runtime import stream as streams
    from edgecv_runtime.addresses import parse_address
    from edgecv_runtime.serve import Limits, Server
    from edgecv_runtime.serve.tls import of_files
    from edgecv_runtime.stream.live.health import Verdict
    from edgecv_runtime.stream.live.systemd import Notifier
    from edgecv_runtime.web import read_token

    log_as(log)
    limits = Limits(
        body_mb=max_body,
        memory_mb=max_memory,
        waiting=waiting,
        calls=calls,
        delay_ms=max_delay,
        max_pixels=round(max_megapixels * 1e6),
    )
    host, port = parse_address(listen)
    secret = read_token(token)
    tls = of_files(tls_cert, tls_key, client_ca)
    notifier = Notifier()
    with ExitStack() as closing:
        offers = []
        for text in bundles:
            offer = _offer(text, loading, latest)
            closing.callback(offer.source.close)
            offers.append(offer)
        server = Server(offers, host, port, grpc_port=grpc_port, token=secret, tls=tls, limits=limits)
        with streams.stop_on_signals() as stop:
            server.start()
            grpc = "" if server.grpc_port is None else f", and gRPC at {host}:{server.grpc_port}"
            say(f"serving: {server.url}v2{grpc}")
            while not stop.wait(_LOOK_S):
                hanging_s = server.hanging_s()
                reasons = (f"a call has taken {hanging_s:.0f} s",) if hanging_s > _HANGS_S else ()
                notifier.tell(Verdict(not reasons, reasons), f"serving at {server.url}", time.monotonic())
            say("stopping: requests that have begun are answered")
            notifier.stopping()
            is_closed = server.close()
        if json:
            show_json({"requests": server.counts()})
        code = 0 if stop.signum == signal.SIGINT else 128 + (stop.signum or 0)
        if not is_closed:
            leave(code)
    if code:
        raise typer.Exit(code)


def _offer(text: str, loading: Loading, latest: bool) -> Offer:
    """Load what one argument names."""
    from edgecv_runtime import stream as streams
    from edgecv_runtime.serve import Always, Offer
    from edgecv_runtime.stream.events import Journal

    named, path = "", Path(text)
    if "=" in text and not path.exists():
        named, _, rest = text.partition("=")
        path = Path(rest)
        if not named or not rest or named[0] == ":" or named[-1] == ":":
            raise BadInput(f"'{text}': expected BUNDLE, NAME=BUNDLE or NAME:VERSION=BUNDLE")
    name, _, version = named.partition(":")
    source: streams.Latest | Always
    if latest:
        source = streams.Latest(path, partial(_load, path, replace(loading, self_test=True)))
        journal = Journal()
        journal.subscribe(_tell)
        source.attach(journal)
    else:
        source = Always(_load(path, loading))
    info = source.current().info
    offer = Offer(name or info.name, version or "1", source)
    say(f"{offer.name} {offer.version}: {info.variant} on {info.backend}, runs in {info.precision}, batch {info.batch}")
    return offer


def _load(path: Path, loading: Loading) -> rt.Model[Any]:
    return rt.load(path, **loading.asked(), busy_wait=False)  # decoding wants the cores that waiting threads would take


def _tell(event: Event) -> None:
    """A line on stderr when a model is exchanged, or kept."""
    facts = {"about": event.about, "name": event.name, "state": event.state, "reason": event.reason}
    moment = time.strftime("%H:%M:%S", time.localtime(event.unix_s))
    say(str(event) if Mode.json_log else f"{moment} {event}", **facts)
