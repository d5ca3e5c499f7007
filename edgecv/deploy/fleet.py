"""Many devices from one YAML file, checked as a whole before any is touched, some at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgecv.deploy.ssh import Host
from edgecv_runtime.errors import BadInput, EdgecvError, Unavailable, nearest
from edgecv_runtime.records import Record


class Options(Record, frozen=True, kw_only=True):
    """What `edgecv deploy` takes as options of these names; None: as of the group, of all, or of the command line."""

    folder: str | None = None
    wheel: str | None = None
    offline: bool | None = None
    bench: bool | None = None
    restart: str | None = None
    probe: str | None = None
    service: str | None = None
    ready: int | None = None
    keep: int | None = None
    extra: tuple[str, ...] | None = None

    def over(self, other: Options) -> Options:
        """These, and where they say nothing the other's."""
        return msgspec.structs.replace(other, **self.said())

    def said(self) -> dict[str, Any]:
        """Those that are given."""
        pairs = ((name, getattr(self, name)) for name in Options.__struct_fields__)
        return {name: value for name, value in pairs if value is not None}


class Device(Options, frozen=True, kw_only=True):
    """One device, as `edgecv deploy` takes it, the groups that it is in, and options of its own."""

    host: str
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Host(self.host)


class Fleet(Record, frozen=True):
    """What `edgecv deploy --fleet` takes. options: of all; of a device's groups the last that speaks counts."""

    hosts: tuple[Device | str, ...]
    groups: dict[str, Options] = {}
    options: Options = Options()

    def __post_init__(self) -> None:
        names = [each.host for each in self.devices()]
        if not names:
            raise BadInput("hosts: at least one is wanted")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BadInput(f"hosts: '{twice}' stands there twice")
        for each in self.devices():
            for group in each.groups:
                if group not in self.groups:
                    raise BadInput(f"hosts: {each.host}: no group '{group}'{nearest(group, self.groups)}")

    def devices(self) -> list[Device]:
        """All devices, in the order of the file."""
        return [Device(host=each) if isinstance(each, str) else each for each in self.hosts]

    def only(self, group: str | None) -> list[Device]:
        """The devices of one group, of all for None; raises BadInput for a group that is none, or empty."""
        if group is not None and group not in self.groups:
            raise BadInput(f"--only: no group '{group}'{nearest(group, self.groups)}")
        found = [each for each in self.devices() if group is None or group in each.groups]
        if not found:
            raise BadInput(f"--only: no device is in the group '{group}'")
        return found

    def options_of(self, device: Device) -> Options:
        """What counts for a device."""
        found = self.options
        for group in device.groups:
            found = self.groups[group].over(found)
        return device.over(found)


def read(path: Path) -> Fleet:
    """Read and check a file; raises BadInput in one line that names the key and the nearest known one."""
    try:
        from edgecv_runtime import yamltext
    except ImportError as exc:
        raise Unavailable(f"{path}: YAML needs PyYAML", extra="cpu") from exc
    return yamltext.read(path, Fleet, "hosts")


class Row(Record, frozen=True):
    """What came of one device. said: in words; code: the exit code that it would have been alone."""

    host: str
    state: Literal["done", "failed", "left out"]
    said: str
    code: int = 0
    seconds: float = 0.0


def run(
    devices: Sequence[Device],
    do: Callable[[Device], str],
    *,
    at_once: int,
    stop_after: int,
    tell: Callable[[Row], object],
) -> list[Row]:
    """Do something with each device, `at_once` at a time; after `stop_after` failures none is begun any more.

    do: gives what it did in words, or raises an error of edgecv's. tell: gets each row as it comes.
    """
    if at_once < 1 or stop_after < 1:
        raise BadInput(f"--at-once and --stop-after are at least 1; got {at_once} and {stop_after}")
    failed: list[str] = []
    stopped = threading.Event()  # by Ctrl-C

    def one(device: Device) -> Row:
        if stopped.is_set() or len(failed) >= stop_after:
            return Row(device.host, "left out", "not begun")
        start_s = time.monotonic()
        try:
            row = Row(device.host, "done", do(device))
        except (EdgecvError, OSError) as exc:  # a file here that cannot be read is one device's, too
            code = exc.exit_code if isinstance(exc, EdgecvError) else Unavailable.exit_code
            row = Row(device.host, "failed", " ".join(str(exc).split()), code)
            failed.append(device.host)
        row = msgspec.structs.replace(row, seconds=round(time.monotonic() - start_s, 1))
        tell(row)
        return row

    with ThreadPoolExecutor(at_once, thread_name_prefix="edgecv-fleet") as pool:
        try:
            return list(pool.map(one, devices))
        except BaseException:
            stopped.set()
            raise
