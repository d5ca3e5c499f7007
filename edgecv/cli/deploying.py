"""Verbs for devices that are elsewhere, without torch: check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecv.cli.device import EXIT_LOSSES, Json
from edgecv.cli.output import show_json, stderr, stdout
from edgecv_runtime.errors import BadInput

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle: a folder, or a .edgecv file.")]


def check(
    bundle: BundlePath,
    target: Annotated[str, typer.Option("--target", help="jetson-orin-jp6, rpi5, n100, ...: see docs/deploy.md.")],
    memory: Annotated[
        int | None, typer.Option("--memory", metavar="MIB", help="Of the device; else as it is sold.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell what of a bundle can run on a device that is not here: runs, is refused and why, or is not known.

    Exit code 4 when nothing of it can run there.
    """
    from edgecv.deploy import targets
    from edgecv.deploy.check import check as judge
    from edgecv_runtime.bundle import Bundle

    if memory is not None and memory < 1:
        raise BadInput(f"--memory is in MiB, at least 1; got {memory}")
    device = targets.find(target)
    with Bundle(bundle) as opened:
        checked = judge(opened, device, memory)
    if json:
        show_json(checked)
    else:
        packages = "".join(f", {name} {version}" for name, version in device.packages.items())
        stdout.print(f"{device.title}: {device.architecture}, Python {device.python}, glibc {device.glibc}{packages}")
        for each in checked.verdicts:
            why = "; ".join(f"{reason.because} [{reason.source}]" for reason in each.reasons)
            stdout.print(f"{each.variant} on {each.backend} {each.version}: {each.verdict}: {why}", soft_wrap=True)
            for note in each.notes:
                stdout.print(f"    {note.because} [{note.source}]", soft_wrap=True)
    if checked.nothing_runs:
        stderr.print(f"edgecv: nothing of {bundle} can run on {target}", soft_wrap=True)
        raise typer.Exit(EXIT_LOSSES)
