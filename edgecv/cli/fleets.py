"""`edgecv deploy --fleet`: the same for many devices, and a table of what came of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.table import Table

from edgecv.cli import services
from edgecv.cli.device import EXIT_LOSSES
from edgecv.cli.output import say, show_json, stderr, stdout
from edgecv_runtime.errors import ComputationError

if TYPE_CHECKING:
    from edgecv.deploy.deployment import Asked
    from edgecv.deploy.fleet import Device, Fleet, Options, Row
    from edgecv_runtime.evidence import Entry

_NAMES = {"ready": "ready_s", "extra": "extras"}  # options that Asked calls otherwise


def asked_of(base: Asked, options: Options) -> Asked:
    """What is asked for one device: what its options say, and else the command line."""
    said: dict[str, Any] = {_NAMES.get(name, name): value for name, value in options.said().items()}
    if "service" in said:
        said["service"], said["without_service"] = services.given(said["service"])
    if "wheel" in said:
        said["wheel"] = Path(said["wheel"])
    return msgspec.structs.replace(base, **said)


class Command:
    """One command for the devices of a fleet. only: a group of it."""

    def __init__(self, fleet: Fleet, only: str | None, base: Asked, ssh_config: Path | None) -> None:
        """Everything that is asked of any device is checked here; raises BadInput."""
        self._devices = fleet.only(only)
        self._asked = {each.host: asked_of(base, fleet.options_of(each)) for each in self._devices}
        self._ssh_config = ssh_config
        self.entries: list[Entry] = []

    def deploy(self, place: str, work: Path, *, dry_run: bool) -> Callable[[Device], str]:
        """Deploy a bundle; work: an empty folder for the wheel, which is made once for all."""
        from edgecv.deploy import deployment, wheels
        from edgecv_runtime.bundle import Bundle

        if any(each.wheel is None for each in self._asked.values()):
            wheel = wheels.own(work)
            for host, each in self._asked.items():
                self._asked[host] = msgspec.structs.replace(each, wheel=each.wheel or wheel)

        def do(device: Device) -> str:
            with Bundle(place) as opened:  # each its own: they are unpacked for one reader
                found = deployment.deploy(
                    self._host(device), opened, self._asked[device.host], dry_run=dry_run, tell=say
                )
            for line in found.warnings:
                stderr.print(f"edgecv: warning: {device.host}: {line}", soft_wrap=True)
            self.entries += found.entries
            return found.steps["release"] if dry_run else f"{found.release}: {found.steps['switch']}"

        return do

    def status(self, device: Device) -> str:
        """Say what runs, and whether it answers."""
        from edgecv.deploy import running

        asked = self._asked[device.host]
        found = running.status(self._host(device), asked.folder, asked.ready_s)
        said = f"{found.facts.current or 'nothing'}: {found.ready}"
        if not found.answers:
            raise _Silent(said)
        return said

    def rollback(self, device: Device) -> str:
        """Go back to what ran before."""
        from edgecv.deploy import running

        asked = self._asked[device.host]
        return f"{running.rollback(self._host(device), asked.folder, asked.ready_s)} runs"

    def run(self, do: Callable[[Device], str], *, at_once: int, stop_after: int, json: bool) -> int:
        """Do it with each -> the exit code, the highest of the devices'."""
        from edgecv.deploy import fleet

        rows = fleet.run(self._devices, do, at_once=at_once, stop_after=stop_after, tell=_tell)
        show_json(rows) if json else stdout.print(_table(rows))
        return max(each.code for each in rows)

    def _host(self, device: Device) -> Any:
        from edgecv.deploy.ssh import Host

        return Host(device.host, self._ssh_config)


class _Silent(ComputationError):
    """It does not answer."""

    exit_code = EXIT_LOSSES


def _tell(row: Row) -> None:
    say(f"{row.host}: {row.state}: {row.said}")


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("device", "state", "seconds", "what"):
        table.add_column(name, justify="right" if name == "seconds" else "left", overflow="fold")
    for row in rows:
        table.add_row(row.host, row.state, f"{row.seconds:.0f}" if row.seconds else "", row.said)
    return table
