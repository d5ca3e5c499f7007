"""A real sshd on a free port of 127.0.0.1, with keys and a configuration of its own, for who runs the tests."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sysconfig
import time
from contextlib import suppress
from pathlib import Path


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Server:
    """sshd; `config` is for `ssh -F`. Who logs in has the packages of this environment, and pip installs no others.

    variables: of the environment there, in the place of that.
    """

    def __init__(self, folder: Path, variables: str | None = None):
        self.folder, self.port = folder, free_port()
        self.config, self.packages = folder / "ssh_config", folder / "packages"
        for name in ("host", "user", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
        (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
        self.known("host")
        self.use("user")
        own = f"PYTHONPATH={self.packages} PIP_NO_DEPS=1 PIP_NO_INDEX=1 EDGECV_CACHE={folder}/cache"
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder}/host\nPidFile {folder}/pid\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\nPrintMotd no\n"
            f"SetEnv OMP_NUM_THREADS=1 CI=true {variables or own}\n"
        )
        self.packages.mkdir()
        for each in Path(sysconfig.get_paths()["purelib"]).iterdir():
            if not each.name.startswith(("openvino", "torch")):  # each costs every process there a second
                (self.packages / each.name).symlink_to(each)
        self.process = None
        self.start()

    @property
    def name(self):
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    def known(self, key):
        """Let known_hosts hold this key for the server; "" for none."""
        line = f"[127.0.0.1]:{self.port} {(self.folder / f'{key}.pub').read_text()}" if key else ""
        (self.folder / "known_hosts").write_text(line)

    def use(self, key):
        """Let the client have this key, and no agent."""
        self.config.write_text(
            f"IdentityFile {self.folder}/{key}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {self.folder}/known_hosts\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking no\n"
        )

    def start(self):
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", self.folder / "sshd_config"], stderr=log)
        for _ in range(200):
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            time.sleep(0.05)
        raise AssertionError("sshd did not start; run tests/install-debian.sh")

    def stop(self):
        """End the listener; nobody can connect any more."""
        self.process.kill()
        self.process.wait()
