"""Many cameras from one YAML file, checked as a whole before anything is opened, and followed while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from edgecv_runtime.errors import BadInput, EdgecvError, Unavailable
from edgecv_runtime.records import Record
from edgecv_runtime.stream.credentials import Credentials
from edgecv_runtime.stream.loop import Stream
from edgecv_runtime.stream.redact import shown
from edgecv_runtime.stream.rules import OnRules, Rule
from edgecv_runtime.stream.sinks import Limits, Sink, open_sink
from edgecv_runtime.stream.sinks.around import Only
from edgecv_runtime.stream.sources import DEFAULT_TIMEOUT_S, Source, open_source

logger = logging.getLogger("edgecv")


class SinkConfig(Record, frozen=True):
    """One sink. to: what `open_sink` takes; rules: it gets their events and not every frame."""

    to: str
    rules: tuple[Rule | str, ...] = ()

    def __post_init__(self) -> None:
        parsed(self.rules)


class CameraConfig(Record, frozen=True):
    """One camera.

    url: what `open_source` takes. name: in reports, files and topics; by default that of the source.
    credentials: a file with its login, see `Credentials`. rate: frames per second that the model gets, at most.
    when_late: "auto", "drop-oldest", "drop-newest" or "wait". timeout_s: for connecting and for each read.
    pace: play a recording as a camera. sinks: that get this camera's results alone; rules: for those of them that have
    none of their own.
    """

    url: str
    name: str | None = None
    credentials: str | None = None
    rate: float | None = None
    when_late: Literal["auto", "drop-oldest", "drop-newest", "wait"] = "auto"
    timeout_s: float = DEFAULT_TIMEOUT_S
    pace: bool = False
    sinks: tuple[SinkConfig | str, ...] = ()
    rules: tuple[Rule | str, ...] = ()

    def __post_init__(self) -> None:
        parsed(self.rules)
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise BadInput(f"{shown(self.url)}: rate must be positive, got {self.rate:g}")
        if not 0 < self.timeout_s < float("inf"):
            raise BadInput(f"{shown(self.url)}: timeout_s must be positive, got {self.timeout_s:g}")
        if self.rules and not self.sinks:
            raise BadInput(f"{shown(self.url)}: its rules are for sinks of its own, and it has none")


class StreamConfig(Record, frozen=True):
    """What `edgecv stream --config` takes.

    cameras: at least one. sinks: that get the results of all. credentials: for cameras that name no file.
    segment: limits of files, see `Limits.parse`. page: the address of the live page; page_token: a file with its token.
    Files of credentials and tokens lie where the YAML file does; other paths are those of the command line.
    """

    cameras: tuple[CameraConfig, ...]
    sinks: tuple[SinkConfig | str, ...] = ()
    credentials: str | None = None
    segment: tuple[str, ...] = ()
    page: str | None = None
    page_token: str | None = None

    def __post_init__(self) -> None:
        Limits.parse(self.segment)
        if not self.cameras:
            raise BadInput("cameras: at least one is wanted")
        names = [camera.name or shown(camera.url) for camera in self.cameras]  # sinks know them by these
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BadInput(f"two cameras are called '{twice}'; give each a name of its own")


def parsed(rules: Iterable[Rule | str]) -> tuple[Rule, ...]:
    """Rules that were given as records or as text; raises BadInput."""
    return tuple(Rule.parse(rule) if isinstance(rule, str) else rule for rule in rules)


def read(path: str | Path) -> StreamConfig:
    """Read and check a file; raises BadInput in one line that names the key and the nearest known one."""
    path = Path(path)
    try:
        from edgecv_runtime import yamltext
    except ImportError as exc:
        raise Unavailable(f"{path}: YAML needs PyYAML", extra="cpu") from exc
    return yamltext.read(path, StreamConfig, "cameras")


class Setup:
    """The cameras and sinks of a file."""

    def __init__(self, config: StreamConfig, folder: Path) -> None:
        """folder: where the file lies. Raises BadInput for credentials that cannot be read."""
        self.config = config
        files = {camera.credentials or config.credentials for camera in config.cameras}
        self._logins = {name: Credentials.read(folder / name if name is not None else None) for name in files}
        self._names: dict[CameraConfig, str] = {}

    def source(self, camera: CameraConfig) -> Source:
        """A new connection to a camera, by its name; raises BadInput."""
        url = self.url(camera)
        source = open_source(url, timeout_s=camera.timeout_s, pace=camera.pace)
        source.name = camera.name or source.name
        return source

    def url(self, camera: CameraConfig) -> str:
        """A camera's URL with its login."""
        return self._logins[camera.credentials or self.config.credentials].apply(camera.url)

    def sinks(self) -> list[Sink]:
        """All sinks, those of single cameras around their own; raises BadInput."""
        limits = Limits.parse(self.config.segment)
        made = [self._sink(sink, limits, ()) for sink in self.config.sinks]
        for camera in self.config.cameras:
            name = self.source(camera).name if camera.sinks else ""
            made += [Only(self._sink(sink, limits, camera.rules), name) for sink in camera.sinks]
        return made

    def _sink(self, sink: SinkConfig | str, limits: Limits, rules: tuple[Rule | str, ...]) -> Sink:
        to, own = (sink, ()) if isinstance(sink, str) else (sink.to, sink.rules)
        logins = self._logins.get(self.config.credentials) or Credentials.read()
        opened = open_sink(logins.apply(to, any_host=False), limits=limits)
        return OnRules(opened, parsed(own or rules)) if own or rules else opened

    def rules(self) -> list[Rule]:
        """Every rule in the file."""
        all_sinks = [*self.config.sinks, *(sink for camera in self.config.cameras for sink in camera.sinks)]
        own = [rule for sink in all_sinks if not isinstance(sink, str) for rule in parsed(sink.rules)]
        return own + [rule for camera in self.config.cameras for rule in parsed(camera.rules)]


class Followed:
    """Keeps the cameras of a running stream as a file says; those that did not change are not touched."""

    def __init__(self, stream: Stream, path: Path) -> None:
        """Reads nothing yet; `begin` adds the cameras."""
        self._stream = stream
        self._path = path
        self._asked = threading.Event()
        self._running: dict[str, tuple[CameraConfig, str, str]] = {}  # by name or URL: camera, its URL, its name here

    def begin(self, setup: Setup) -> None:
        """Add all cameras; raises BadInput."""
        self._setup = setup
        for camera in setup.config.cameras:
            self._add(camera, setup)

    def ask(self) -> None:
        """Ask for the file to be read again, from a signal's handler, say; `look` does it."""
        self._asked.set()

    def look(self) -> None:
        """Read the file again where that was asked for; to be called now and then."""
        if self._asked.is_set():
            self._asked.clear()
            self.reload()

    def reload(self) -> None:
        """Read the file again and add, remove and exchange cameras; a file with an error changes nothing."""
        try:
            config = read(self._path)
            setup = Setup(config, self._path.parent)
            for camera in config.cameras:
                setup.source(camera)  # that it can be one, before any other is touched
            self._refuse_new_sinks(config)
        except EdgecvError as exc:
            logger.warning("not reloaded, all stays as it is: %s", exc)
            return
        self._setup = setup
        wanted = {_key(camera): camera for camera in config.cameras}
        ended = 0
        for key, (camera, url, name) in list(self._running.items()):
            if wanted.get(key) != camera or setup.url(camera) != url:
                ended += 1
                del self._running[key]
                self._stream.remove(name)
        new = [camera for key, camera in wanted.items() if key not in self._running]
        logger.info("reloaded: %d cameras stay, %d end, %d begin", len(self._running), ended, len(new))
        for camera in new:
            self._add(camera, setup)

    def _add(self, camera: CameraConfig, setup: Setup) -> None:
        when_late = None if camera.when_late == "auto" else camera.when_late
        name = self._stream.add(setup.source(camera), when_late=when_late, max_fps=camera.rate)
        self._running[_key(camera)] = camera, setup.url(camera), name

    def _refuse_new_sinks(self, config: StreamConfig) -> None:
        """Sinks hold the account of the whole run: they change with a restart."""
        before = self._setup.config
        kept = {_key(camera): (camera.sinks, camera.rules) for camera in before.cameras}
        is_new = any(kept.get(_key(each), ((), ())) != (each.sinks, each.rules) for each in config.cameras)
        rest = ("sinks", "segment", "page", "page_token")
        if is_new or any(getattr(config, name) != getattr(before, name) for name in rest):
            raise BadInput("sinks, their rules and the page change with a restart; cameras alone are reloaded")


def _key(camera: CameraConfig) -> str:
    return camera.name or camera.url
