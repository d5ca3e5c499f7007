"""Many devices: the file is checked as a whole, so many at a time, and none is begun after so many failures."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ssh_lab import Server, free_port
from typer.testing import CliRunner

from edgecv.cli.app import app
from edgecv.deploy import fleet, wheels
from edgecv.deploy.fleet import Device
from edgecv_runtime.errors import BadInput, Unavailable

DIGITS = Path(__file__).parents[1] / "assets" / "digits.edgecv"


def written(tmp_path, text):
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return path


def test_options_of_a_device_go_over_those_of_its_groups_and_of_all(tmp_path):
    found = fleet.read(
        written(
            tmp_path,
            "options: {keep: 1, ready: 5, extra: [page]}\n"
            "groups: {gate: {ready: 6, folder: /opt/gate}, slow: {ready: 7}}\n"
            "hosts: [a, "
            "{host: pi@b:22, groups: [gate, slow], keep: 3}, {host: c, groups: [slow], ready: 8, offline: true}]",
        )
    )
    said = [found.options_of(each).said() for each in found.devices()]
    assert said == [
        {"keep": 1, "ready": 5, "extra": ("page",)},
        {"keep": 3, "ready": 7, "extra": ("page",), "folder": "/opt/gate"},
        {"keep": 1, "ready": 8, "extra": ("page",), "offline": True},
    ]
    assert [each.host for each in found.only("slow")] == ["pi@b:22", "c"]
    with pytest.raises(BadInput, match="no group 'slwo'; did you mean 'slow'"):
        found.only("slwo")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hosts: []", "at least one"),
        ("hosts: [a, {host: a}]", "'a' stands there twice"),
        ("hosts: [{host: a, groups: [gat]}]\ngroups: {gate: {}}", "no group 'gat'; did you mean 'gate'"),
        ("hosts: [{host: a, kep: 1}]", r"unknown key 'hosts\[...\]\.kep'|unknown key .*kep"),
        ("hosts: [{host: a, keep: many}]", "keep"),
        ("hosts: ['root@']", "is no device"),
        ("hosts: [a]\noptions: {host: b}", "unknown key 'options.host'"),
        ("- a", "expected keys"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_line(text, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        fleet.read(written(tmp_path, text)).only(None)


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_at_once_and_none_after_so_many_failures(at_once):
    lock, now, most, begun = threading.Lock(), 0, 0, []

    def do(device):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            begun.append(device.host)
        time.sleep(0.05)
        with lock:
            now -= 1
        if int(device.host[1:]) >= 3:
            raise Unavailable("gone") if int(device.host[1:]) % 2 else OSError("gone")
        return "fine"

    devices = [Device(host=f"h{number}") for number in range(12)]
    rows = fleet.run(devices, do, at_once=at_once, stop_after=2, tell=lambda _: None)
    assert most == at_once
    assert [row.host for row in rows] == [each.host for each in devices]
    assert [row.state for row in rows[:3]] == ["done"] * 3
    failed = [row for row in rows if row.state == "failed"]
    assert 2 <= len(failed) <= 1 + at_once  # those that had begun end
    assert {row.code for row in failed} == {3}
    assert {row.host for row in rows if row.state != "left out"} == set(begun)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two devices, and one that is not there."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    servers = [Server(folder) for folder in folders]
    config = folders[0] / "both"
    known = "".join((each.folder / "known_hosts").read_text() for each in servers)
    (folders[0] / "known").write_text(known)
    keys = "".join(f"IdentityFile {each.folder}/user\n" for each in servers)
    config.write_text(
        f"{keys}IdentitiesOnly yes\nIdentityAgent none\n"
        f"UserKnownHostsFile {folders[0]}/known\nGlobalKnownHostsFile /dev/null\n"
    )
    user = servers[0].name.rpartition("@")[0]
    absent = f"{user}@127.0.0.1:{free_port()}"
    there = [str(folder / "edgecv") for folder in folders]
    path = folders[0] / "fleet.yaml"
    hosts = "".join(
        f"  - {{host: '{server.name}', groups: [up], folder: {place}}}\n"
        for server, place in zip(servers, there, strict=True)
    )
    path.write_text(
        f"options: {{offline: true, bench: false, wheel: {wheels.own(folders[0])}}}\ngroups: {{up: {{}}}}\nhosts:\n"
        f"  - '{absent}'\n{hosts}"
    )
    yield SimpleNamespace(
        names=[each.name for each in servers], absent=absent, folders=[Path(each) for each in there],
        options=["--fleet", str(path), "--ssh-config", str(config)],
    )  # fmt: skip
    for each in servers:
        each.stop()


def edgecv(two, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_DEPS", "1")
        return CliRunner().invoke(app, ["--quiet", "deploy", *words, *two.options])


def test_a_fleet_is_deployed_to_asked_and_gone_back(two):
    done = edgecv(two, str(DIGITS), "--at-once", "1")
    assert done.exit_code == 3
    assert f"{two.absent}  failed" in done.stdout
    assert done.stdout.count("left out") == 2
    dry = edgecv(two, str(DIGITS), "--only", "up", "--dry-run")
    assert dry.stdout.count("would write releases/") == 2, dry.output
    assert not any(each.exists() for each in two.folders)
    done = edgecv(two, str(DIGITS), "--only", "up", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [(row["host"], row["state"]) for row in rows] == [(name, "done") for name in two.names]
    assert all((each / "current" / "environment" / "complete").exists() for each in two.folders)
    (two.folders[1] / "current" / "probe").write_text("echo silent; exit 1")
    done = edgecv(two, "--status", "--json")
    states = [(row["state"], row["code"]) for row in json.loads(done.stdout)]
    assert states == [("failed", 3), ("done", 0), ("failed", 4)]
    assert done.exit_code == 4
    done = edgecv(two, "--rollback", "--only", "up", "--stop-after", "2")
    assert done.exit_code == 3
    assert done.stdout.count("there is no release before") == 2


@pytest.mark.parametrize("words", [["--status", "x"], [], [str(DIGITS), "pi@x"], [str(DIGITS), "--only", "pu"]])
def test_what_a_fleet_does_not_take_is_refused(words, two):
    done = edgecv(two, *words)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
