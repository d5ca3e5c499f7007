"""systemd: telling it that we are ready and at work (`sd_notify`), and the unit of a stream or server.

Its watchdog is fed as long as results come of the sources whose frames come: a camera that is away is not mended by a
new process, which would take the others along; a model that hangs is.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Final, Literal

from edgecv_runtime.errors import BadInput
from edgecv_runtime.oneline import one_line
from edgecv_runtime.stream.live.health import Health, Verdict
from edgecv_runtime.stream.redact import shown
from edgecv_runtime.stream.report import StreamReport

_TEMPLATE = Path(__file__).with_name("edgecv.service")
# What a user's own systemd may not do, or does not have (systemd.exec(5)); a line that it cannot keep ends the service.
_OF_SYSTEM: Final = (
    "Wants", "After", "SupplementaryGroups", "DevicePolicy", "DeviceAllow", "CapabilityBoundingSet",
    "AmbientCapabilities", "ProtectSystem", "ProtectHome", "PrivateTmp", "ProtectClock", "ProtectControlGroups",
    "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "RemoveIPC",
    "KeyringMode",
)  # fmt: skip


class Notifier:
    """Sends systemd what it asked to be told (sd_notify(3)); without NOTIFY_SOCKET it does nothing.

    The variables are taken out of the environment, so that no child of ours speaks for us.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        micros = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        mine = pid in ("", str(os.getpid()))
        self.watchdog_s: float | None = int(micros) / 1e6 if micros.isdecimal() and mine else None
        self._fed_s = float("-inf")
        self._is_ready = False

    def look(self, report: StreamReport, health: Health, now_s: float) -> None:
        """Tell that we run, how many sources are live, and that we are at work; to be called about twice a second.

        now_s: `time.monotonic()`.
        """
        live = sum(source.state == "live" for source in report.sources)
        self.tell(health.working(now_s), f"{live} of {len(report.sources)} sources live", now_s)

    def tell(self, working: Verdict, status: str, now_s: float) -> None:
        """Tell that we run and, while we are at work, the watchdog and a status; as often as `look`."""
        if not self._is_ready:
            self._is_ready = True
            self._send("READY=1")
        if self.watchdog_s is not None and working.ok and now_s - self._fed_s >= self.watchdog_s / 3:
            self._fed_s = now_s
            self._send(f"WATCHDOG=1\nSTATUS={status}")
        elif not working.ok:
            self._send(f"STATUS={one_line('; '.join(working.reasons))}")  # a second line would be a second message

    def stopping(self) -> None:
        """Tell that we go."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(self._address)
                sender.sendall(text.encode())
        except OSError:  # systemd that does not listen is told nothing, and its watchdog ends us
            return


def unit(arguments: Sequence[str]) -> str:
    """The unit of a stream that runs `edgecv stream ARGUMENTS`; existing files among them become absolute paths.

    It runs as the user who asks, as one of its own for root; it writes below /var/lib/edgecv-stream alone.
    Raises BadInput where an argument holds a password, which a unit would show to everybody.
    """
    import pwd

    for argument in arguments:
        if shown(argument) != argument:
            raise BadInput(
                f"{shown(argument)}: a unit is read by everybody; give the login in a file (--credentials FILE)"
            )
    absolute = [str(Path(each).absolute()) if Path(each).exists() else each for each in arguments]
    command = [sys.executable, "-m", "edgecv.cli", "stream", *absolute]
    name = pwd.getpwuid(os.getuid()).pw_name
    user = "DynamicUser=yes" if os.getuid() == 0 else f"User={name}"
    return text("stream", command, user=user)


def text(
    verb: Literal["stream", "serve"], command: Sequence[str], *, user: str = "DynamicUser=yes", of_system: bool = True
) -> str:
    """The unit that runs a command as edgecv-VERB.service: of the system, or of a user, whose systemd may do less."""
    parts = {"USER": user, "VERB": verb, "NAME": f"edgecv-{verb}", "COMMAND": " ".join(map(_quoted, command))}
    found = _TEMPLATE.read_text(encoding="utf-8")
    if not of_system:
        found = found.replace("multi-user.target", "default.target").replace("@USER@\n", "")
    for name, value in parts.items():
        found = found.replace(f"@{name}@", value)
    absent = () if of_system else _OF_SYSTEM
    absent = absent if verb == "stream" else (*absent, "ExecReload")  # a file of cameras is read again
    lines = [line for line in found.splitlines() if line.partition("=")[0] not in absent]
    return "\n".join(lines) + "\n"


def _quoted(argument: str) -> str:
    """An argument of ExecStart= (systemd.service(5), command lines): its $, % and line breaks mean themselves."""
    escaped = argument.replace("%", "%%").replace("$", "$$")
    if shlex.quote(escaped) == escaped:
        return escaped
    escaped = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else _bytes_of(each) for each in escaped) + '"'


def _bytes_of(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(text))
