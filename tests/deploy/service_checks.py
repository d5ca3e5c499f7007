"""A deployment with a service under a real systemd, in a container of Debian's own files: `make test-service`, as root.

Whole wheels are brought (`--offline`), units and probes are those of `--service`, of the system and of a user, who has
no rights but a systemd of his own; the computer restarts. About two minutes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import msgspec
import pytest
from ssh_lab import Server, free_port

from edgecv.cli import services
from edgecv.deploy import running, wheels
from edgecv.deploy.deployment import Asked, deploy
from edgecv.deploy.ssh import Host
from edgecv_runtime import Bundle
from edgecv_runtime.errors import ComputationError, Unavailable

DIGITS = Path(__file__).parents[1] / "assets" / "digits.edgecv"
FOLDER = "/opt/edgecv"
USER, NUMBER = "pi", 10007


@pytest.fixture
def container(tmp_path):
    """A computer that systemd runs: our /usr, a root of its own, sshd as a service. Gives the host."""
    root, shared = tmp_path / "root", tmp_path / "ssh"
    for name in (
        "usr",
        "etc/systemd/system/multi-user.target.wants",
        "var/lib",
        "tmp",
        "root",
        "proc",
        "sys",
        "dev",
        "opt",
        f"home/{USER}",
    ):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "shadow", "os-release"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    for name in ("pam.d", "security"):  # a systemd of a user logs in
        shutil.copytree(f"/etc/{name}", root / "etc" / name)
    # where cgroups of version 1 do not tell that a unit's last process has ended, a stop takes its whole time
    (root / "etc/systemd/system.conf").write_text("[Manager]\nDefaultTimeoutStopSec=3\n")
    (root / "etc/systemd/system/user@.service.d").mkdir()
    (root / "etc/systemd/system/user@.service.d/stop.conf").write_text("[Service]\nTimeoutStopSec=3\n")
    with (root / "etc/passwd").open("a") as users, (root / "etc/shadow").open("a") as passwords:
        users.write(f"{USER}:x:{NUMBER}:100::/home/{USER}:/bin/sh\n")
        passwords.write(f"{USER}:*:::::::\n")
    os.chown(root / "home" / USER, NUMBER, 100)
    groups = (root / "etc/group").read_text()  # who may read the journal, as on Raspberry Pi OS
    (root / "etc/group").write_text(re.sub("^adm:.*$", f"adm:x:4:{USER}", groups, flags=re.MULTILINE))
    (root / "etc" / "machine-id").write_text(
        f"{uuid.uuid4().hex}\n"
    )  # without it units are enabled anew, as presets say
    shared.mkdir()
    server = Server(shared, variables="PIP_NO_INDEX=1")
    server.stop()
    unit = root / "etc/systemd/system/lab-sshd.service"
    unit.write_text(f"[Service]\nRuntimeDirectory=sshd\nExecStart=/usr/sbin/sshd -D -e -f {shared}/sshd_config\n")
    (unit.parent / "multi-user.target.wants" / unit.name).symlink_to(f"../{unit.name}")
    boot = f"systemd-nspawn --boot -D {root} --bind-ro=/usr --bind={shared} --register=no --keep-unit --console=pipe"
    again = f"while {boot} --link-journal=no & own=$!; do wait $own; [ $? = 133 ] || exit; done"  # 133: it restarts
    script = f"mount -t tmpfs tmpfs /run; mkdir /run/systemd; trap 'kill $own; wait $own; exit' TERM; {again}"
    with (tmp_path / "log").open("wb") as log:
        command = ["unshare", "--mount", "sh", "-c", script]
        booted = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield _up(Host(server.name, server.config)), shared
    finally:
        booted.terminate()
        try:
            booted.wait(20)
        except subprocess.TimeoutExpired:
            booted.kill()


def _up(host):
    end = time.monotonic() + 60
    while True:
        try:
            assert host.run("cat /proc/1/comm") == "systemd\n"
        except Unavailable:
            assert time.monotonic() < end
            time.sleep(0.5)
        else:
            return host


def test_a_service_is_switched_probed_gone_back_from_and_comes_back(container):
    host, folder = container
    page = f"127.0.0.1:{free_port()}"
    stream = services.parse(f"stream 'test://?fps=10&frames=99999' --page {page}")
    asked = Asked(FOLDER, wheels.own(folder), offline=True, bench=False, service=stream, ready_s=30)
    silent = services.parse(f"stream rtsp://127.0.0.1:{free_port()}/x --page {page}")
    with Bundle(DIGITS) as bundle:
        done = deploy(host, bundle, asked)
        assert '"ready":true' in done.steps["switch"]
        back = f"is not ready .*; went back to {done.release}, which is ready"
        with pytest.raises(ComputationError, match=back):
            deploy(host, bundle, msgspec.structs.replace(asked, service=silent, ready_s=15))
        taken = services.parse(f"stream 'test://?fps=10&frames=99999' --page 127.0.0.1:{host.name.rpartition(':')[2]}")
        with pytest.raises(ComputationError, match=f"; went back to {done.release}, which is ready"):
            deploy(host, bundle, msgspec.structs.replace(asked, service=taken, ready_s=15))
        server = services.parse(f"serve --listen 127.0.0.1:{free_port()}")
        assert (
            "health/ready is ready"
            in deploy(host, bundle, msgspec.structs.replace(asked, service=server)).steps["switch"]
        )
    assert host.run("systemctl is-active edgecv-stream edgecv-serve || true") == "inactive\nactive\n"
    assert host.run("systemctl is-enabled edgecv-serve") == "enabled\n"  # linked where systemd looks when it boots
    with Bundle(DIGITS) as bundle:
        deploy(host, bundle, Asked(FOLDER, asked.wheel, offline=True, bench=False, without_service=True))
    assert host.run("systemctl is-active edgecv-stream edgecv-serve || true") == "inactive\ninactive\n"
    for _ in range(2):
        running.rollback(host, FOLDER, 30)
    found = running.status(host, FOLDER)
    assert found.answers, found.ready
    assert found.facts.current == done.release
    assert host.run("systemctl is-active edgecv-stream edgecv-serve || true") == "active\ninactive\n"
    assert f"releases/{done.release}/bundle" in host.run("systemctl show edgecv-stream -p ExecStart")


def test_services_of_the_system_and_of_a_user_are_back_after_a_restart_of_the_computer(container):
    host, folder = container
    user = Host(host.name.replace("root@", f"{USER}@"), folder / "ssh_config")
    host.run(f"loginctl enable-linger {USER}")  # what an owner says once
    host.run(f"while ! systemctl is-active user@{NUMBER}; do sleep 0.1; done")
    asked = Asked(wheel=wheels.own(folder), offline=True, bench=False, ready_s=30)
    stream = services.parse(f"stream 'test://?fps=10&frames=99999' --page 127.0.0.1:{free_port()}")
    server = services.parse(f"serve --listen 127.0.0.1:{free_port()}")
    with Bundle(DIGITS) as bundle:
        own = deploy(user, bundle, msgspec.structs.replace(asked, service=stream))
        assert '"ready":true' in own.steps["switch"]
        assert not own.warnings
        deploy(host, bundle, msgspec.structs.replace(asked, service=server, folder=FOLDER))
    places = {user: ("--user", own.facts.folder), host: ("", FOLDER)}
    ctl = "XDG_RUNTIME_DIR=/run/user/$(id -u) systemctl"
    assert own.facts.folder.startswith(f"/home/{USER}/")
    assert host.run(f"ps -o user= -p $({ctl} show edgecv-serve -p MainPID --value)") != "root\n"
    assert user.run(f"ps -o user= -p $({ctl} --user show edgecv-stream -p MainPID --value)") == f"{USER}\n"
    assert "edgecv" in user.run("journalctl --user-unit edgecv-stream --output cat --no-pager")
    silent = services.parse(f"stream rtsp://127.0.0.1:{free_port()}/x --page 127.0.0.1:{free_port()}")
    with (
        Bundle(DIGITS) as bundle,
        pytest.raises(ComputationError, match=f"went back to {own.release}, which is ready"),
    ):
        deploy(user, bundle, msgspec.structs.replace(asked, service=silent, ready_s=10))

    def begun():
        return host.run("systemctl show -p UserspaceTimestampMonotonic")

    before = begun()
    with contextlib.suppress(Unavailable):
        host.run("systemctl reboot")
    end = time.monotonic() + 90
    while True:
        assert time.monotonic() < end
        time.sleep(1)
        with contextlib.suppress(Unavailable):
            if begun() != before and all(running.status(each, at).answers for each, (_, at) in places.items()):
                break
    assert running.status(user, own.facts.folder).facts.current == own.release
