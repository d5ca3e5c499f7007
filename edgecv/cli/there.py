"""What `edgecv bench --on user@host` does: measure a bundle on a device, and bring the evidence home."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecv.cli.output import say, stderr

if TYPE_CHECKING:
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Entry

On = Annotated[
    str | None,
    typer.Option("--on", metavar="[USER@]HOST[:PORT]", help="Measure there, by ssh; the evidence comes home."),
]
Folder = Annotated[
    str | None, typer.Option("--folder", help="Of --on: below the home folder there, or absolute; as of deploy.")
]
Wheel = Annotated[
    Path | None, typer.Option("--wheel", metavar="FILE", help="Of --on: edgecv's, else one is made of this very one.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Of --on: bring all wheels from here.")]
SshConfig = Annotated[
    Path | None, typer.Option("--ssh-config", metavar="FILE", help="Of --on: in the place of ~/.ssh/config.")
]


@dataclass(frozen=True)
class Place:
    """A device, and how it is reached; host None is here."""

    host: str | None = None
    folder: str | None = None
    wheel: Path | None = None
    offline: bool = False
    ssh_config: Path | None = None

    @property
    def named(self) -> list[str]:
        """The options that were given beside the host."""
        given = {
            "--folder": self.folder, "--wheel": self.wheel, "--offline": self.offline, "--ssh-config": self.ssh_config
        }  # fmt: skip
        return [name for name, value in given.items() if value]


def measure(bundle: Bundle, place: Place, seconds: float, rounds: int) -> list[Entry]:
    """Verify and time a bundle on a device, without torch there -> the evidence that is new."""
    from edgecv.deploy import deployment, device
    from edgecv.deploy.ssh import Host

    assert place.host is not None
    asked = deployment.Asked(place.folder or device.FOLDER, place.wheel, place.offline, seconds=seconds, rounds=rounds)
    found = deployment.measure(Host(place.host, place.ssh_config), bundle, asked, tell=say)
    for line in found.warnings:
        stderr.print(f"edgecv: warning: {place.host}: {line}", soft_wrap=True)
    say(f"{place.host}: {found.steps['prove']}")
    return list(found.entries)
