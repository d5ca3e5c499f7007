"""A deployment with a service under a real systemd, in a container of Debian's own files: `make test-service`, as root.

Whole wheels are brought (`--offline`), units and probes are those of `--service`. About a minute.
"""

from __future__ import annotations

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
    ):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    for name in ("passwd", "group", "shadow", "os-release"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
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
    script = f"mount -t tmpfs tmpfs /run; mkdir /run/systemd; exec {boot} --link-journal=no"
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
