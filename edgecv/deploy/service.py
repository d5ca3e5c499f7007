"""A service of a device: the unit that runs a release's bundle, and the scripts that start, probe and stop it.

The unit lies in the release and names that release alone: what goes back to a release goes back to its unit. It is
linked (`systemctl enable PATH`), so that it starts again after a reboot. Who deploys as root has a unit of the system,
anybody else one of their own.
Measured: 2026-11, systemd 252 in a container (tests/deploy/service_checks.py).
"""

from __future__ import annotations

import shlex
from typing import Literal

from edgecv.deploy.device import Facts
from edgecv_runtime.errors import BadInput, Unavailable
from edgecv_runtime.records import Record
from edgecv_runtime.stream.live import systemd

CAMERAS = "cameras.yaml"
_OF_ROOT_ALONE = ("/root/", "/home/")  # homes, into which a user of the service's own cannot look


class Service(Record, frozen=True):
    """`edgecv VERB BUNDLE WORDS...` as a service.

    words: "{cameras}" is where the file of cameras comes to lie. url: where it says that it is ready; token: a file on
    the device. cameras: the text of the file of cameras that is brought along. extras: of edgecv, that it needs.
    """

    verb: Literal["stream", "serve"]
    words: tuple[str, ...]
    url: str
    token: str = ""
    cameras: str = ""
    extras: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its unit."""
        return f"edgecv-{self.verb}"

    def check(self, facts: Facts, where: str) -> list[str]:
        """Refuse a device on which it cannot be, by Unavailable; gives warnings."""
        if not facts.systemd:
            manager = "systemd" if facts.user == "root" else f"a systemd of {facts.user} (systemctl --user)"
            raise Unavailable(f"{where}: {manager} does not answer there; give --restart and --probe in its place")
        if facts.user == "root" and facts.folder.startswith(_OF_ROOT_ALONE):
            raise Unavailable(
                f"{where}: the service has a user of its own, who cannot read {facts.folder}: give --folder /opt/edgecv"
            )
        for unit in facts.unit:
            name, _, at = unit.partition("=")
            if name == f"{self.name}.service" and not at.startswith(f"{facts.folder}/releases/"):
                raise Unavailable(f"{where}: there is a {name} already that is another's ({at}): remove it first")
        if facts.user == "root" or facts.linger:
            return []
        return [
            f"the service is one of {facts.user}: after a restart of the device it comes when {facts.user} logs in, "
            f"unless this was said once: sudo loginctl enable-linger {facts.user}"
        ]

    def files(self, release: str, facts: Facts) -> dict[str, str]:
        """What a release holds for it, by name; release: its folder there, absolute."""
        python = f"{release}/environment/bin/python"
        words = (word.replace("{cameras}", f"{release}/{CAMERAS}") for word in self.words)
        command = (python, "-m", "edgecv.cli", self.verb, f"{release}/bundle", *words)
        is_system = facts.user == "root"
        ctl = "systemctl" if is_system else 'XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}" systemctl --user'
        # with --user it reads the user's own files alone, which a journal that is kept in memory does not have
        log = f"journalctl {'--unit' if is_system else '--user-unit'} {self.name} --lines 1 --output cat --no-pager"
        unit = f"{release}/{self.name}.service"
        linger = "" if is_system else "loginctl enable-linger >/dev/null 2>&1\n"
        token = f" --token {shlex.quote(self.token)}" if self.token else ""
        found = {
            "service": shlex.join((self.verb, *self.words)),
            f"{self.name}.service": systemd.text(self.verb, command, of_system=is_system),
            "restart": f'{linger}ctl() {{ {ctl} "$@"; }}\n'
            f"ctl enable --quiet --force {shlex.quote(unit)} && ctl daemon-reload || exit 1\n"
            f"ctl reset-failed {self.name} 2>/dev/null\n"
            f"ctl restart {self.name} || {{ {log}; exit 1; }}\n",
            "probe": f'ctl() {{ {ctl} "$@"; }}\n'
            f"ctl is-active --quiet {self.name} || {{ echo the service is not active: $({log}); exit 1; }}\n"
            f'exec "$PWD/environment/bin/python" -m edgecv.deploy.probe --ready {shlex.quote(self.url)}{token}\n',
            # one after the other: systemd forgets what a unit says when its file is gone (SuccessExitStatus, say)
            "stop": f'ctl() {{ {ctl} "$@"; }}\nctl stop {self.name}\nctl disable --quiet {self.name}\n',
        }
        return {**found, CAMERAS: self.cameras} if self.cameras else found


def refuse_forgetting(facts: Facts, where: str) -> None:
    """Refuse to end a service that runs there without a word, by BadInput."""
    if facts.service:
        raise BadInput(
            f"{where}: a service runs there ('{facts.service}'): give --service again, or --service none to end it"
        )
