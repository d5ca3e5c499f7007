"""What `--service` says: a verb with its options, checked here as the command line checks them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
import typer.main

from edgecv.cli import serving, streaming
from edgecv.deploy.service import Service
from edgecv_runtime.addresses import parse_address
from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.stream.config import StreamConfig, read
from edgecv_runtime.stream.redact import shown

VERBS = ("stream", "serve")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def given(text: str) -> tuple[Service | None, bool]:
    """(the service, whether there shall be none any more) of `--service`; "" where it is not given."""
    return (None, text == "none") if text in ("", "none") else (parse(text), False)


def parse(text: str) -> Service:
    """The service of `stream SOURCE... --page HOST:PORT` or `serve`, with any options of the verb.

    Files named in it are the device's, but that of `--config`, which is read here and goes along. Raises BadInput.
    """
    try:
        verb, *words = shlex.split(text) or [""]
    except ValueError as exc:
        raise BadInput(f"--service: {exc}: {text}") from exc
    if verb not in VERBS:
        raise BadInput(f"--service is {' or '.join(VERBS)} with options, or none; got '{text}'{nearest(verb, VERBS)}")
    for word in words:
        if shown(word) != word:
            raise BadInput(f"--service: {shown(word)}: a unit is read by everybody; give the login in a file there")
    given = _options(verb, words)
    if verb == "serve":
        if len(given["bundles"]) > 1:
            raise BadInput(f"--service: it serves the bundle that is deployed, and no other: '{given['bundles'][1]}'")
        if given["client_ca"] is not None:
            raise BadInput("--service serve --client-ca: the probe has no certificate to show; give --restart")
        url = _url(given["listen"], "/v2/health/ready", "http" if given["tls_cert"] is None else "https")
        extras = ("serve", *["grpc"] * (given["grpc_port"] is not None))
        return Service("serve", tuple(words), url, _said(given["token"]), extras=extras)
    return _stream(words, given)


def _stream(words: list[str], given: dict[str, Any]) -> Service:
    config: StreamConfig | None = None
    cameras = ""
    if given["config"] is not None:
        path = Path(given["config"])
        for name in ("sources", "credentials", "sink", "on", "segment"):
            if given[name]:
                raise BadInput(
                    f"--service stream: {name} stand in {path} when there is a --config: give one of the two"
                )
        config, cameras = read(path), path.read_text(encoding="utf-8-sig")
        _refuse_what_stays(config, path)
        words = _renamed(words)
    elif not given["sources"]:
        raise BadInput("--service stream: no sources: expected a camera, URL, file or folder, or --config FILE")
    page = given["page"] or (config.page if config else None)
    if page is None:
        raise BadInput("--service stream: wants a page, which says whether frames come: --page 127.0.0.1:8080")
    token = given["page_token"] or (config.page_token if config else None)
    sinks = [*given["sink"], *(config.sinks if config else ()), *(_own(config) if config else ())]
    is_mqtt = any((each if isinstance(each, str) else each.to).startswith("mqtt") for each in sinks)
    extras = ("page", *["mqtt"] * is_mqtt)
    return Service("stream", tuple(words), _url(page, "/readyz"), _said(token), cameras, extras)


def _own(config: StreamConfig) -> list[Any]:
    return [sink for camera in config.cameras for sink in camera.sinks]


def _refuse_what_stays(config: StreamConfig, path: Path) -> None:
    """Secrets do not go along: files of logins and tokens lie on the device, where whoever may read them is known."""
    for file in (config.credentials, config.page_token, *(camera.credentials for camera in config.cameras)):
        if file is not None and not Path(file).is_absolute():
            raise BadInput(f"{path}: '{file}' does not go along: put it on the device, and give its absolute path")
    own = [each if isinstance(each, str) else each.to for each in (*config.sinks, *_own(config))]
    for text in (*(camera.url for camera in config.cameras), *own):
        if shown(text) != text:
            raise BadInput(
                f"{path}: {shown(text)}: it comes to lie readable there; give the login in a file (credentials)"
            )


def _options(verb: str, words: Sequence[str]) -> dict[str, Any]:
    """The options of a verb as its own command reads them."""
    command = typer.Typer(add_completion=False)
    command.command()({"stream": streaming.stream, "serve": serving.serve}[verb])
    try:
        found: dict[str, Any] = typer.main.get_command(command).make_context(verb, ["BUNDLE", *words]).params
    except Exception as exc:
        said = getattr(exc, "format_message", None)  # Click's, which Typer has as its own from 0.20 on
        if said is None:
            raise
        raise BadInput(f"--service {verb}: {said()}") from exc
    return found


def _renamed(words: Sequence[str]) -> list[str]:
    """The words with the file of `--config` where it comes to lie."""
    at = next(at for at, word in enumerate(words) if word.split("=")[0] == "--config")
    count = 1 if "=" in words[at] else 2
    return [*words[:at], "--config", "{cameras}", *words[at + count :]]


def _said(path: object) -> str:
    return "" if path is None else str(path)


def _url(address: str, path: str, scheme: str = "http") -> str:
    host, port = parse_address(address)
    if port == 0:
        raise BadInput("--service: port 0 is any free one: nobody would know where to ask; give another")
    host = _EVERYWHERE.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"
