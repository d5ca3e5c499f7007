"""Verbs for devices that are elsewhere, without torch: check, deploy, sbom."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from edgecv.cli.device import EXIT_LOSSES, Json
from edgecv.cli.output import say, show_json, stderr, stdout
from edgecv_runtime.errors import BadInput

if TYPE_CHECKING:
    from edgecv.deploy.ssh import Host

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


def deploy(
    place: Annotated[
        str | None, typer.Argument(metavar="BUNDLE", help="A bundle; with --status or --rollback the device.")
    ] = None,
    host: Annotated[
        str | None, typer.Argument(metavar="[USER@]HOST[:PORT]", help="The device, or its name in ~/.ssh/config.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Ask the device, say what would be done.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say what runs there, and whether it answers.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Switch to what ran before.")] = False,
    fleet: Annotated[
        Path | None, typer.Option("--fleet", metavar="FILE", help="YAML with devices, in the place of one.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="GROUP", help="Of the fleet.")] = None,
    at_once: Annotated[int, typer.Option("--at-once", metavar="N", help="Devices of the fleet.")] = 4,
    stop_after: Annotated[
        int, typer.Option("--stop-after", metavar="N", help="Failures, after which no other device is begun.")
    ] = 1,
    folder: Annotated[
        str, typer.Option("--folder", help="On the device, below the home folder or absolute.")
    ] = ".local/share/edgecv",
    wheel: Annotated[
        Path | None, typer.Option("--wheel", metavar="FILE", help="Of edgecv; else one is made of this very one.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Bring all wheels from here, for a device without an index.")
    ] = False,
    bench: Annotated[bool, typer.Option("--bench/--no-bench", help="Measure there, too.")] = True,
    seconds: Annotated[float, typer.Option(help="Of one round of one target.")] = 0.5,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 5,
    restart: Annotated[
        str, typer.Option("--restart", metavar="COMMAND", help="Starts there what runs it, after the switch.")
    ] = "",
    probe: Annotated[
        str, typer.Option("--probe", metavar="COMMAND", help="Tells there whether it answers; else a self-test does.")
    ] = "",
    service: Annotated[
        str,
        typer.Option(
            "--service",
            metavar="COMMAND",
            help="A systemd unit of 'stream SOURCE --page HOST:PORT' or 'serve'; or none.",
        ),
    ] = "",
    ready: Annotated[int, typer.Option("--ready", metavar="SECONDS", help="Until it has to answer.")] = 60,
    extra: Annotated[
        list[str] | None, typer.Option("--extra", metavar="NAME", help="Of edgecv, beside those that fit: page, mqtt.")
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", help="Old releases that stay, beside what runs and ran before.")
    ] = 2,
    merge: Annotated[bool, typer.Option("--merge", help="Put the evidence into the bundle here.")] = False,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", metavar="FILE", help="Where to save the evidence.")
    ] = None,
    ssh_config: Annotated[
        Path | None, typer.Option("--ssh-config", metavar="FILE", help="In the place of ~/.ssh/config.")
    ] = None,
    json: Json = False,
) -> None:
    """Bring a bundle to a device by ssh, prove it there, switch to it, and go back by itself if it does not answer.

    Exit code 3 where the device cannot be reached or does not fit, 5 where a step or the probe failed there; what ran
    before runs on.
    """
    from edgecv.cli import fleets, services
    from edgecv.deploy import deployment
    from edgecv.deploy import fleet as many
    from edgecv.deploy.ssh import Host
    from edgecv.run import elsewhere
    from edgecv_runtime import files, records
    from edgecv_runtime.bundle import Bundle
    from edgecv_runtime.evidence import Evidence

    if status and rollback:
        raise BadInput("--status and --rollback are two things: give one of them")
    if rollback and dry_run:
        raise BadInput("--rollback has no --dry-run: --status says what runs, and what it would go back to")
    if evidence is not None:
        files.check_place(evidence)
    extras = tuple(extra or ())
    asked = deployment.Asked(
        folder, wheel, offline, bench, seconds, rounds, restart, probe, ready, extras, keep, *services.given(service)
    )
    if fleet is not None:
        if host is not None or (place is None) != (status or rollback):
            wanted = "--fleet FILE alone" if status or rollback else "a bundle and --fleet FILE, and no device"
            raise BadInput(f"the devices stand in {fleet}: expected {wanted}")
        command = fleets.Command(many.read(fleet), only, asked, ssh_config)
        with tempfile.TemporaryDirectory(prefix="edgecv-fleet-") as work:
            do: Callable[[many.Device], str] = command.rollback if rollback else command.status
            if place is not None:
                do = command.deploy(place, Path(work), dry_run=dry_run)
            most = sys.maxsize if status else stop_after  # who asks wants to know of all
            code = command.run(do, at_once=at_once, stop_after=most, json=json)
        if evidence is not None and not dry_run:
            files.write(evidence, records.encode(Evidence(tuple(command.entries))))
        if merge and command.entries and place is not None:
            with Bundle(place) as opened:
                elsewhere.merge(opened, command.entries)
        if code:
            raise typer.Exit(code)
        return
    if only is not None:
        raise BadInput("--only is a group of a fleet: give --fleet FILE, too")
    if place is None:
        raise BadInput("expected a bundle and a device: edgecv deploy BUNDLE user@host")
    if status or rollback:
        if host is not None:
            raise BadInput("--status and --rollback want the device alone: edgecv deploy --status user@host")
        device = Host(place, ssh_config)
        _show_rollback(device, folder, ready, json) if rollback else _show_status(device, folder, ready, json)
        return
    with Bundle(place) as opened:
        if host is None:
            raise BadInput("where to? expected a device: edgecv deploy BUNDLE user@host")
        found = deployment.deploy(Host(host, ssh_config), opened, asked, dry_run=dry_run, tell=say)
        for line in found.warnings:
            stderr.print(f"edgecv: warning: {host}: {line}", soft_wrap=True)
        if evidence is not None and not dry_run:
            files.write(evidence, records.encode(Evidence(found.entries)))
        if merge and found.entries:
            elsewhere.merge(opened, found.entries)
        if json:
            show_json(found)
            return
        for name, done in found.steps.items():
            stdout.print(f"{name}: {done}", soft_wrap=True)
        for line in deployment.lines(opened, found.entries):
            stdout.print(line, soft_wrap=True)


def sbom(
    bundle: Annotated[Path | None, typer.Argument(metavar="[BUNDLE]", help="Whose files are listed, too.")] = None,
    environment: Annotated[
        Path | None,
        typer.Option("--environment", metavar="FOLDER", help="In the place of this one, or packages."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where the document goes.")] = None,
    json: Json = False,
) -> None:
    """List what a deployment holds: packages with their licences, and a bundle's files, as CycloneDX 1.6.

    Without --json a table of the licences.
    """
    from edgecv.deploy import sbom as bills
    from edgecv_runtime import files, jsontext
    from edgecv_runtime.bundle import Bundle

    found = bills.packages(environment)
    if bundle is None:
        made = bills.document(found)
    else:
        with Bundle(bundle) as opened:
            made = bills.document(found, opened)
    if out is not None:
        files.write(out, jsontext.encode(made, indent=2) + b"\n")
    if json:
        show_json(made)
        return
    table = Table(box=None, pad_edge=False)
    for name in ("package", "version", "licence"):
        table.add_column(name)
    for each in found:
        table.add_row(each.name, each.version, each.license)
    stdout.print(table)


def _show_status(device: Host, folder: str, ready: int, json: bool) -> None:
    from edgecv.deploy import running

    found = running.status(device, folder, ready)
    if json:
        show_json(found)
    else:
        facts = found.facts
        stdout.print(str(facts), soft_wrap=True)
        stdout.print(f"{facts.current or 'nothing'} runs, before it {facts.before or 'nothing'}", soft_wrap=True)
        if facts.pending is not None:
            stdout.print(f"a switch never ended; before it: {facts.pending or 'nothing'}", soft_wrap=True)
        stdout.print(f"{'answers' if found.answers else 'does not answer'}: {found.ready}", soft_wrap=True)
    if not found.answers:
        raise typer.Exit(EXIT_LOSSES)


def _show_rollback(device: Host, folder: str, ready: int, json: bool) -> None:
    from edgecv.deploy import running

    release = running.rollback(device, folder, ready)
    show_json({"host": device.name, "release": release}) if json else stdout.print(f"{release} runs")
