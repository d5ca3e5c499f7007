"""The verb for servers that are not ours, without torch: export-repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgecv.cli.device import Json
from edgecv.cli.output import say, show_json, stdout
from edgecv_runtime.errors import BadInput


def export_repository(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle: a folder, or a .edgecv file.")],
    triton: Annotated[Path | None, typer.Option("--triton", metavar="DIR", help="A repository of Triton.")] = None,
    ovms: Annotated[
        Path | None, typer.Option("--ovms", metavar="DIR", help="A repository of OpenVINO Model Server.")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Of the bundle; several times for several. Default: all.")
    ] = None,
    mounted: Annotated[
        str, typer.Option("--mounted", metavar="PATH", help="Where OpenVINO Model Server finds the folder.")
    ] = "/models",
    json: Json = False,
) -> None:
    """Write a bundle as a model repository of Triton or OpenVINO Model Server, with a note on preprocessing."""
    from edgecv_runtime import repository
    from edgecv_runtime.bundle import Bundle

    wanted = {server: folder for server, folder in (("triton", triton), ("ovms", ovms)) if folder is not None}
    if not wanted:
        raise BadInput("name the server and a new folder: --triton DIR, --ovms DIR, or both")
    if len(set(wanted.values())) < len(wanted):
        raise BadInput(f"{triton}: two repositories do not fit into one folder")
    written = []
    with Bundle(bundle) as opened:
        for server, folder in wanted.items():
            for name, each in repository.write(opened, folder, server, variant or (), mounted):
                written.append({"server": server, "model": name, "variant": each.name, "folder": str(folder / name)})
                if not json:
                    stdout.print(f"{folder / name}: {each.name}", soft_wrap=True)
    if json:
        show_json(written)
    for server, folder in wanted.items():
        say(f"{server}: what its clients have to do stands in {folder / repository.NOTE}")
