"""The verb that runs for months: stream."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgecv.cli.device import EXIT_LOSSES, Json, ModelPath, refuse_overwriting
from edgecv.cli.loading import Loading, loads
from edgecv.cli.output import Mode, complain, leave, log_as, note, say, show_json, stderr, stdout
from edgecv_runtime.errors import BadInput
from edgecv_runtime.oneline import one_line

if TYPE_CHECKING:
    import edgecv_runtime as rt
    from edgecv_runtime.stream import Event, Sink, Stream, StreamReport
    from edgecv_runtime.stream.config import Followed, Setup


@loads
def stream(
    bundle: ModelPath,
    loading: Loading,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="File, folder, rtsp://..., onvif://..., camera index, gst:PIPELINE."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML with cameras and sinks; SIGHUP reads it anew.")
    ] = None,
    credentials: Annotated[
        Path | None, typer.Option("--credentials", metavar="FILE", help="Logins, a line 'HOST USER:PASSWORD' each.")
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            "--sink",
            help="out.mp4, out.jsonl, - (JSON lines on stdout), window, mqtt://..., https://... (webhook), rtsp://...",
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on", metavar="RULE", help="Sinks get events alone: \"label == 'person' for 2 s cooldown 1 min\""
        ),
    ] = None,
    segment: Annotated[
        list[str] | None, typer.Option("--segment", help="A new file after so much: '10 min', '500 MB', or both.")
    ] = None,
    page: Annotated[
        str | None, typer.Option("--page", metavar="HOST:PORT", help="A live page with /livez, /readyz and /metrics.")
    ] = None,
    page_token: Annotated[
        Path | None, typer.Option("--page-token", metavar="FILE", help="The token of a page for other machines.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Stop after so many frames of each source.")] = None,
    when_late: Annotated[str, typer.Option(help="auto, wait, drop-oldest or drop-newest.")] = "auto",
    reconnect: Annotated[
        bool, typer.Option("--reconnect/--no-reconnect", help="Connect a camera again when it is lost.")
    ] = True,
    isolate: Annotated[
        bool, typer.Option("--isolate/--no-isolate", help="Read each camera in a process of its own.")
    ] = True,
    latest: Annotated[
        bool, typer.Option("--latest", help="Exchange the model when the bundle changes, after its self-test.")
    ] = False,
    log: Annotated[str, typer.Option("--log", help="text, or json: one document a line on stderr.")] = "text",
    unit: Annotated[bool, typer.Option("--unit", help="Print a systemd unit that runs this, and end.")] = False,
    json: Json = False,
) -> None:
    """Run a bundle on cameras, network streams and files; every frame read is accounted for."""
    from edgecv_runtime import stream as streams
    from edgecv_runtime.stream.live.systemd import unit as unit_of

    if when_late not in ("auto", *streams.POLICIES):
        raise BadInput(f"--when-late is auto, {', '.join(streams.POLICIES)}; got '{when_late}'")
    log_as(log)
    setup = _setup(config, sources or [], credentials, sink or [], on or [], segment or [])
    if unit:
        words = sys.argv[sys.argv.index("stream") + 1 :]
        stdout.print(unit_of([word for word in words if word != "--unit"]), end="", soft_wrap=True)
        return
    names = [each if isinstance(each, str) else each.to for each in setup.config.sinks]
    inputs = [Path(camera.url) for camera in setup.config.cameras if os.path.exists(camera.url)]  # noqa: PTH110  # raises for no name
    refuse_overwriting(inputs, [Path(name) for name in names if name != "-" and "://" not in name], "--sink")
    if json and "-" in names:
        raise BadInput("--json and --sink - both write to stdout: choose one")
    folder = config.parent if config is not None else Path()
    token = page_token or (folder / setup.config.page_token if setup.config.page_token else None)
    telling = _Telling(page or setup.config.page, token)
    with ExitStack() as closing:
        if latest:
            load = partial(replace(loading, self_test=True).model, bundle)
            computing: Any = closing.enter_context(streams.Latest(bundle, load))
            model = computing.current()
        else:
            computing = model = closing.enter_context(loading.model(bundle))
        info = model.info
        say(f"{info.name}: {info.variant} on {info.backend}, runs in {info.precision}")
        for rule in setup.rules():
            rule.check(info.task, model.labels)
        settings = streams.Settings(
            when_late=when_late,  # type: ignore[arg-type]
            max_frames=frames,
            reconnect=reconnect,
            isolate=isolate,
        )
        running = streams.Stream(computing, [], [*setup.sinks(), *telling.sinks()], settings)
        running.journal.subscribe(_tell)
        followed = _followed(running, config, setup)

        def look(report: StreamReport) -> None:
            telling.look(report)
            followed.look()

        closing.enter_context(telling.serving(running, f"{info.name} {info.variant} on {info.backend}"))
        with _signals(followed, reloads=config is not None) as stop:
            report = running.run(stop, look)
        telling.stopping()
        if report.hung:  # what hangs cannot be closed
            _show(report, info, json, "-" in names)
            leave(report.exit_code)
    _show(report, info, json, "-" in names)
    code = report.exit_code
    if code == 0 and stop.signum not in (None, signal.SIGINT):
        code = 128 + stop.signum
    if code:
        raise typer.Exit(code)


class _Telling:
    """Who is told how the run stands: the terminal, a service manager, and the live page where one is asked for."""

    def __init__(self, address: str | None, token: Path | None) -> None:
        """address: of the page; token: its file. Raises BadInput."""
        from edgecv_runtime.addresses import parse_address
        from edgecv_runtime.stream.live import Board, Health
        from edgecv_runtime.stream.live.systemd import Notifier
        from edgecv_runtime.web import read_token

        self._place = None if address is None else parse_address(address)
        self._token = None if address is None else read_token(token)
        self._health = Health()
        self._board = None if address is None else Board(self._health)
        self._notifier = Notifier()

    def sinks(self) -> list[Sink]:
        """What brings results to the page."""
        from edgecv_runtime.stream.live import BoardSink

        return [] if self._board is None else [BoardSink(self._board)]

    @contextmanager
    def serving(self, running: Stream, model: str) -> Iterator[None]:
        """Serve the page; raises BadInput where it cannot listen."""
        if self._board is None or self._place is None:
            yield
            return
        from edgecv_runtime.stream.live import LivePage

        self._board.model = model
        with LivePage(self._board, *self._place, token=self._token, stream=running) as page:
            say(f"live page: {page.url}")
            yield

    def look(self, report: StreamReport) -> None:
        """Take the run's report; to be called about twice a second."""
        now_s = time.monotonic()
        _progress(report)
        if self._board is not None:
            self._board.look(report)
        else:
            self._health.look(report, now_s)
        self._notifier.look(report, self._health, now_s)

    def stopping(self) -> None:
        """The run is over."""
        self._notifier.stopping()


@loads
def soak(
    bundle: ModelPath,
    loading: Loading,
    sources: Annotated[list[str] | None, typer.Argument(metavar="SOURCE", help="Besides scripted cameras.")] = None,
    minutes: Annotated[float, typer.Option(help="For how long.")] = 3.0,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where the JSON goes too.")] = None,
    json: Json = False,
) -> None:
    """Run a bundle under faults: cameras fail, decoders are killed; tells memory, ages, recovery and the account."""
    import msgspec

    from edgecv_runtime import files, records
    from edgecv_runtime import stream as streams
    from edgecv_runtime.stream.soak import soak as run_soak

    if minutes <= 0:
        raise BadInput(f"--minutes must be positive, got {minutes:g}")
    with loading.model(bundle) as model, streams.stop_on_signals() as stop:
        found = run_soak(model, sources or [], minutes=minutes, stop=stop)
    if out is not None:
        files.write(out, records.encode(found))
    if json:
        show_json(msgspec.to_builtins(found))
    else:
        for line in _sentences(found.report):
            stdout.print(line, soft_wrap=True)
        for each in found.recoveries:
            times = f"median {each.median_s:.1f} s, worst {each.worst_s:.1f} s"
            stdout.print(f"{each.source}: came back {each.count} times, {times}", soft_wrap=True)
        memory = "" if found.rss_mb_per_minute is None else f"memory {found.rss_mb_per_minute:+.2f} MB a minute; "
        stdout.print(f"{memory}{found.killed} decoders killed; threads {found.threads[0]} to {found.threads[1]}")
    for line in found.failures:
        complain(line)
    if found.failures:
        raise typer.Exit(EXIT_LOSSES)


def _setup(
    config: Path | None,
    sources: list[str],
    credentials: Path | None,
    sinks: list[str],
    on: list[str],
    segment: list[str],
) -> Setup:
    """Cameras and sinks, of a file or of the command line; raises BadInput."""
    from edgecv_runtime.stream import config as configs
    from edgecv_runtime.stream.redact import shown

    if config is not None:
        given = {"SOURCE": sources, "--credentials": credentials, "--sink": sinks, "--on": on, "--segment": segment}
        twice = [name for name, value in given.items() if value]
        if twice:
            raise BadInput(f"{twice[0]} stands in {config} when there is a --config: give one of the two")
        return configs.Setup(configs.read(config), config.parent)
    if not sources:
        raise BadInput("no sources: expected at least one camera, URL, video file or folder, or --config FILE")
    for source in sources:
        if shown(source) != source:
            say(f"{shown(source)}: every user of this machine can read its password (ps); see --credentials")
    names = [
        f"{shown(url)}#{sources[:at].count(url) + 1}" if url in sources[:at] else None for at, url in enumerate(sources)
    ]
    asked = configs.StreamConfig(
        cameras=tuple(configs.CameraConfig(url, name) for url, name in zip(sources, names, strict=True)),
        sinks=tuple(configs.SinkConfig(name, tuple(on)) if on and name != "window" else name for name in sinks),
        credentials=None if credentials is None else str(credentials),
        segment=tuple(segment),
    )
    if on and not sinks:
        raise BadInput("--on says what a sink gets, and there is none: give --sink, too")
    return configs.Setup(asked, Path())


def _followed(running: Stream, config: Path | None, setup: Setup) -> Followed:
    from edgecv_runtime.stream.config import Followed

    followed = Followed(running, config or Path())
    followed.begin(setup)
    return followed


@contextmanager
def _signals(followed: Followed, *, reloads: bool) -> Iterator[Any]:
    """The event that ends the run; with a file, SIGHUP reads it anew instead of ending."""
    from edgecv_runtime import signals
    from edgecv_runtime import stream as streams

    if not reloads or not signals.HANG_UP:
        with streams.stop_on_signals() as stop:
            yield stop
        return
    before = signal.signal(signal.SIGHUP, lambda *_: followed.ask())
    try:
        with streams.stop_on_signals(*signals.ENDING) as stop:
            yield stop
    finally:
        signal.signal(signal.SIGHUP, before)


def _show(report: StreamReport, info: rt.Info, json: bool, lines_on_stdout: bool) -> None:
    """The account, and what went wrong."""
    if json:
        import msgspec

        show_json({"model": info, **msgspec.to_builtins(report)})
    else:
        for line in _sentences(report):
            if lines_on_stdout:
                note(line)
            else:
                stdout.print(line, soft_wrap=True)
    for line in report.failures:
        complain(line)


def _tell(event: Event) -> None:
    """A line on stderr for what happens to a camera, a sink or the model."""
    moment = time.strftime("%H:%M:%S", time.localtime(event.unix_s))
    facts = {"about": event.about, "name": event.name, "state": event.state, "reason": event.reason}
    say(str(event) if Mode.json_log else f"{moment} {event}", **facts, attempt=event.attempt)


def _progress(report: StreamReport) -> None:
    """A line per second on a terminal, overwritten; nothing into files."""
    if Mode.quiet or Mode.json_log or not stderr.is_terminal:
        return
    parts = [f"{each.name}: {each.inferred} of {each.read} frames, {each.fps or 0:.1f}/s" for each in report.sources]
    stderr.print(one_line("   ".join(parts)), end="\r", no_wrap=True, overflow="ellipsis")


def _sentences(report: StreamReport) -> list[str]:
    """The account of a run, one line per source and per sink."""
    lines = []
    for each in report.sources:
        dropped = ", ".join(f"{count} {reason}" for reason, count in each.dropped.items()) or "0"
        speed = f"; {each.fps:.1f} frames/s" if each.fps else ""
        times = (
            f"; inference p50 {each.inference.p50_ms:.1f}, p99 {each.inference.p99_ms:.1f} ms" if each.inference else ""
        )
        lines.append(
            f"{each.name}: read {each.read}, inferred {each.inferred}, dropped {dropped}, failed {each.failed}"
            f"{speed}{times}; {each.ended}{': ' + each.detail if each.ended == 'stopped' and each.detail else ''}"
        )
    for sink in report.sinks:
        lines.append(f"{sink.name}: delivered {sink.delivered}, failed {sink.failed}")
    return [one_line(line) for line in lines]
