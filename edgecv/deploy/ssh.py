"""A device that is reached by the system's ssh: keys, agent and ~/.ssh/config are those that people have.

Nothing is asked (BatchMode), and the host's key must be known (StrictHostKeyChecking): what ssh would ask is one line
that says what to do. Each call is a connection of its own, so that one that dies takes no other along.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import IO

from edgecv_runtime.errors import BadInput, ComputationError, Unavailable

_SSH_FAILED = 255  # ssh's own exit code (ssh(1)); all others are the command's
_DESTINATION = re.compile(
    r"(?:(?P<user>[^@\s-][^@\s]*)@)?(?P<host>\[[0-9a-fA-F:.]+\]|[\w.][\w.-]*)(?::(?P<port>\d{1,5}))?"
)
_FINGERPRINT = "on the device: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
# What ssh says -> what that means, and what to do.
_CURES = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is another one than known_hosts has: a new device, or somebody in between; compare the "
        f"fingerprint ({_FINGERPRINT}), then: ssh-keygen -R {{host}}",
    ),
    (
        "Host key verification failed",
        "its host key is not known: connect once by hand (ssh {destination}) and compare the fingerprint "
        f"({_FINGERPRINT})",
    ),
    (
        "Permission denied",
        "it refuses the key: put yours there (ssh-copy-id {destination}), and into the agent where it has a passphrase",
    ),
    ("Could not resolve hostname", "no such host name"),
    ("Connection refused", "nothing listens there: is sshd running, is the port right?"),
    ("No route to host", "no route to it: is it on, and on this network?"),
    ("timed out", "it does not answer: is it on, and on this network?"),
)


class Host:
    """A device, "user@host:port" or a name of ~/.ssh/config; raises BadInput for what is none.

    config: a file in the place of ~/.ssh/config. connect_s: how long a connection may take to be made.
    """

    def __init__(self, destination: str, config: Path | None = None, connect_s: int = 10) -> None:
        found = _DESTINATION.fullmatch(destination)
        if found is None or (found["port"] and not 0 < int(found["port"]) < 1 << 16):
            raise BadInput(
                f"'{destination}' is no device: expected user@host, user@host:port or a name of ~/.ssh/config"
            )
        self.name = destination
        self._to = f"{found['user']}@" * bool(found["user"]) + found["host"].strip("[]")
        self._port, self._config, self._connect_s = found["port"], config, connect_s

    def run(self, script: str, data: IO[bytes] | None = None, *, what: str = "") -> str:
        """Run a POSIX shell script there -> what it printed.

        data: what it reads on its standard input. what: it does, for the message.
        Raises Unavailable where the device cannot be reached, ComputationError where the script fails.
        """
        line = self.open(script, data or subprocess.DEVNULL)
        try:
            printed, said = line.communicate()
        except BaseException:  # Ctrl-C, say: what is undone next must not go on there
            line.kill()
            line.wait()
            raise
        self.check(line.returncode, said, what or "a script")
        return printed.decode(errors="replace")

    def open(self, script: str, data: IO[bytes] | int, *, own_session: bool = False) -> subprocess.Popen[bytes]:
        """Begin a script there; own_session: Ctrl-C here does not end it. Raises Unavailable where there is no ssh."""
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(
                self.command(script), bufsize=0, stdin=data, stdout=pipe, stderr=pipe, start_new_session=own_session
            )
        except FileNotFoundError as exc:
            raise Unavailable("ssh is not installed here: apt-get install openssh-client") from exc

    def check(self, code: int, error_output: bytes, what: str) -> None:
        """Raise what an ended script means: Unavailable or ComputationError."""
        said = error_output.decode(errors="replace")
        if code == _SSH_FAILED or code < 0:
            raise Unavailable(f"{self.name}: {self._why(said)}")
        if code:
            lines = [line for line in said.splitlines() if line.strip()] or [f"exit code {code}"]
            raise ComputationError(f"{self.name}: {what} failed: {_telling(lines)}")

    def command(self, script: str) -> list[str]:
        """The command that runs a script there."""
        options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"ConnectTimeout={self._connect_s}"]
        options += ["ServerAliveInterval=15", "ServerAliveCountMax=4"]  # a peer that is gone is noticed in a minute
        line = ["ssh", *(word for option in options for word in ("-o", option))]
        line += ["-F", str(self._config)] if self._config else []
        line += ["-p", self._port] if self._port else []
        return [*line, "--", self._to, f"exec sh -c {shlex.quote(script)}"]

    def _why(self, said: str) -> str:
        host = self._to.partition("@")[2] or self._to
        target = f"[{host}]:{self._port}" if self._port else host
        by_hand = f"-p {self._port} {self._to}" if self._port else self._to
        for sign, cure in _CURES:
            if sign in said:
                return cure.format(host=shlex.quote(target), destination=by_hand)
        lines = [line for line in said.splitlines() if line.strip()]
        return f"the connection broke: {lines[-1]}" if lines else "the connection broke"


def _telling(lines: list[str]) -> str:
    """The line that says what went wrong: pip's first error, or else the last."""
    errors = [line for line in lines if re.match(r"(?i)error|.*No space left on device", line)]
    return " ".join((errors or lines[-1:])[0].split())[:400]
