"""What `edgecv bench --on user@host` does: measure a bundle on a device, and bring the evidence home."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecv.cli.benchasked import Asked
from edgecv.cli.output import say, stderr

if TYPE_CHECKING:
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Entry


def measure(bundle: Bundle, asked: Asked, seconds: float, rounds: int) -> list[Entry]:
    """Verify and time a bundle on a device, without torch there -> the evidence that is new."""
    from edgecv.deploy import deployment, device
    from edgecv.deploy.ssh import Host

    assert asked.on is not None
    folder = asked.folder or device.FOLDER
    wanted = deployment.Asked(folder, asked.wheel, asked.offline, seconds=seconds, rounds=rounds)
    found = deployment.measure(Host(asked.on, asked.ssh_config), bundle, wanted, tell=say)
    for line in found.warnings:
        stderr.print(f"edgecv: warning: {asked.on}: {line}", soft_wrap=True)
    say(f"{asked.on}: {found.steps['prove']}")
    return list(found.entries)
