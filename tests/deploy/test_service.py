"""`--service`: what it is refused for, and the whole way on a device whose systemctl runs what a unit says."""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from ssh_lab import Server, free_port
from typer.testing import CliRunner

from edgecv.cli import services
from edgecv.cli.app import app
from edgecv.deploy import running, wheels
from edgecv.deploy.device import Facts
from edgecv.deploy.ssh import Host
from edgecv_runtime.errors import BadInput, Unavailable

HERE = Path(__file__).parent
DIGITS = HERE.parent / "assets" / "digits.edgecv"
PI = Facts(arch="aarch64", folder="/home/pi/e", user="pi", systemd="252", linger="yes")


def camera(tmp_path, text):
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    return f"stream --config {path}"


def test_a_service_is_a_verb_with_its_options():
    found = services.parse("stream 'test://?fps=10' --page 0.0.0.0:8080 --page-token /etc/token --sink mqtt://broker/x")
    assert (found.url, found.token) == ("http://127.0.0.1:8080/readyz", "/etc/token")
    assert found.extras == ("page", "mqtt")
    assert services.parse("serve").url == "http://127.0.0.1:8000/v2/health/ready"
    over_tls = services.parse("serve --listen 0.0.0.0:8443 --tls-cert /etc/c --tls-key /etc/k --grpc-port 8444")
    assert over_tls.url == "https://127.0.0.1:8443/v2/health/ready"
    assert over_tls.extras == ("serve", "grpc")
    assert services.given("") == (None, False)
    assert services.given("none") == (None, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("straem x", "did you mean 'stream'"),
        ("stream 'x", "No closing quotation"),
        ("stream rtsp://c/x", "--page 127.0.0.1:8080"),
        ("stream --page 8080", "no sources"),
        ("stream rtsp://c/x --pge 8080", "No such option: --pge"),
        ("stream rtsp://u:c4nary@c/x --page 8080", r"rtsp://u:\*\*\*@c/x: a unit is read by everybody"),
        ("stream rtsp://c/x --page 127.0.0.1:0", "port 0"),
        ("stream rtsp://c/x --page here", "no address"),
        ("serve other.edgecv", "serves the bundle that is deployed"),
        ("serve --tls-cert /c --tls-key /k --client-ca /a", "no certificate to show"),
        ("stream --config nowhere.yaml", "nowhere.yaml: cannot be read"),
    ],
)
def test_what_is_no_service_is_refused_in_one_line(text, said):
    with pytest.raises(BadInput, match=said) as caught:
        services.parse(text)
    assert "c4nary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cameras: [{url: 'rtsp://c/x', rat: 5}]\npage: '8080'", "unknown key 'cameras.*rat'"),
        ("cameras: [{url: 'rtsp://u:c4nary@c/x'}]\npage: '8080'", "give the login in a file"),
        ("cameras: [{url: 'rtsp://c/x'}]\ncredentials: logins.txt\npage: '8080'", "'logins.txt' does not go along"),
        ("cameras: [{url: 'rtsp://c/x'}]", "wants a page"),
    ],
)
def test_a_file_of_cameras_is_checked_here_and_takes_no_secret_along(text, said, tmp_path):
    with pytest.raises(BadInput, match=said) as caught:
        services.parse(camera(tmp_path, text))
    assert "c4nary" not in str(caught.value)


def test_a_device_that_cannot_have_the_service_is_refused():
    found = services.parse("serve")
    assert found.check(PI, "pi") == []
    assert "enable-linger pi" in found.check(msgspec.structs.replace(PI, linger=""), "pi")[0]
    for changed, said in (
        ({"systemd": ""}, "does not answer there"),
        ({"user": "root", "folder": "/root/.local/share/edgecv"}, "give --folder /opt/edgecv"),
        ({"unit": ("edgecv-serve.service=/etc/systemd/system/edgecv-serve.service",)}, "another's .*: remove it first"),
    ):
        with pytest.raises(Unavailable, match=said):
            found.check(msgspec.structs.replace(PI, **changed), "pi")
    own = "edgecv-serve.service=/home/pi/e/releases/0123456789ab/edgecv-serve.service"
    assert found.check(msgspec.structs.replace(PI, unit=(own,)), "pi") == []


@pytest.fixture
def lab(tmp_path):
    """A device with such a systemctl."""
    place = tmp_path / "systemd"
    place.mkdir()
    folder = tmp_path / "ssh"
    folder.mkdir()
    variables = (
        f"PATH={HERE}:{os.environ['PATH']} LAB={place} PYTHONPATH={folder}/packages PIP_NO_DEPS=1 PIP_NO_INDEX=1"
    )
    server = Server(folder, variables=variables)
    wheel = wheels.own(folder)
    there = tmp_path / "edgecv"
    options = ["--folder", str(there), "--ssh-config", str(server.config), "--wheel", str(wheel), "--no-bench"]
    found = SimpleNamespace(server=server, place=place, folder=there, options=options)
    try:
        yield found
    finally:
        for pid in place.glob("*.pid"):
            os.killpg(int(pid.read_text()), 9)
        server.stop()


def deployed(lab, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_DEPS", "1")
        return CliRunner().invoke(
            app, ["--quiet", "deploy", str(DIGITS), lab.server.name, *lab.options, "--offline", *words]
        )


def test_a_service_comes_up_is_probed_and_gone_back_from(lab, tmp_path):
    page = f"127.0.0.1:{free_port()}"
    text = f"cameras: [{{name: yard, url: 'test://?fps=20&frames=99999'}}]\npage: {page}\n"
    done = deployed(lab, "--service", camera(tmp_path, text), "--ready", "20")
    assert done.exit_code == 0, done.output
    assert "readyz is ready" in done.output
    first = (lab.folder / "current").resolve()
    link = lab.place / "edgecv-stream.service"
    assert link.readlink() == first / "edgecv-stream.service"
    command = Path("/proc", (lab.place / "edgecv-stream.pid").read_text(), "cmdline").read_bytes()
    assert str(first / "cameras.yaml").encode() in command
    forgotten = deployed(lab)
    assert forgotten.exit_code == 2
    assert "a service runs there" in forgotten.stderr
    # it runs, and its camera gives nothing
    silent = f"cameras: [{{url: 'rtsp://127.0.0.1:{free_port()}/x'}}]\npage: {page}\n"
    done = deployed(lab, "--service", camera(tmp_path, silent), "--ready", "10")
    assert done.exit_code == 5, done.output
    assert re.search(rf"(is not ready|does not answer).*went back to {first.name}, which is ready", done.stderr), (
        done.stderr
    )
    assert link.readlink() == first / "edgecv-stream.service"
    status = running.status(Host(lab.server.name, lab.server.config), str(lab.folder))
    assert status.answers, status.ready
    assert (status.facts.service, status.facts.systemd) == ("stream --config '{cameras}'", "252 (lab)")
    calls = (lab.place / "calls").read_text()
    assert ("--user" in calls) == (getpass.getuser() != "root")
