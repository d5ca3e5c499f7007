"""The script that switches on the device: what it starts is bounded, and it goes back by itself. Run as it is."""

from __future__ import annotations

import subprocess
import time
from importlib.resources import files

import pytest

SCRIPT = (files("edgecv.deploy") / "switch.sh").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """Two releases, of which the first runs."""
    for name in ("old", "new"):
        release = tmp_path / "releases" / name
        release.mkdir(parents=True)
        (release / "probe").write_text(f"echo {name} answers")
        (release / "restart").write_text("")
    (tmp_path / "current").symlink_to("releases/old")
    return tmp_path


def switched(folder, seconds=2):
    """(what the script said, how long it took)"""
    named = f"folder='{folder}'\nid=new\nseconds={seconds}\noutcome=outcome.x\n"
    start_s = time.monotonic()
    subprocess.run(["sh", "-c", named + SCRIPT], stdin=subprocess.DEVNULL, timeout=30, check=False)
    took_s = time.monotonic() - start_s
    assert not (folder / "pending").exists()
    assert not [*folder.glob("said.*"), *folder.glob("current.*")]
    return (folder / "outcome.x").read_text().strip(), took_s


def now(folder):
    return (folder / "current").readlink().name


def test_a_release_that_answers_runs(folder):
    assert switched(folder)[0] == "ready: new answers"
    assert now(folder) == "new"


@pytest.mark.parametrize(
    ("part", "script", "why"),
    [
        ("probe", "sleep 60", "the probe took longer than 2 s"),
        ("restart", "sleep 60", "the restart took longer than 2 s"),
        ("restart", "echo no such unit >&2; exit 5", "no such unit"),
        ("probe", "echo not yet; exit 1", "not yet"),
        ("probe", "exec ./no-such-program", "./probe: 1: exec: ./no-such-program: not found"),
    ],
)
def test_what_does_not_come_back_is_gone_back_from(folder, part, script, why):
    (folder / "releases/new/restart").write_text("true")
    (folder / "releases/new" / part).write_text(script)
    said, took_s = switched(folder)
    assert said == f"failed: {why}; went back to old, which is ready"
    assert now(folder) == "old"
    assert took_s < 9


def test_a_program_that_a_restart_leaves_behind_is_not_waited_for(folder):
    (folder / "releases/new/restart").write_text("sleep 20 &\necho started")
    said, took_s = switched(folder)
    assert said == "ready: new answers"
    assert took_s < 5
    assert subprocess.run(["flock", "-n", str(folder / "lock"), "true"], check=False).returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "probe", "stopped"),
    [
        ("", "", "true", ""),
        ("one", "one", "true", ""),
        ("one", "two", "true", "old"),
        ("one", "", "true", "old"),
        ("", "two", "exit 1", "new"),
        ("one", "one", "exit 1", ""),
        ("one", "two", "exit 1", "old new"),
    ],
)
def test_what_a_release_started_is_stopped_where_the_other_does_not_start_it_anew(folder, old, new, probe, stopped):
    for name, service in (("old", old), ("new", new)):
        if service:
            stop = f'basename "$(pwd -P)" >>{folder}/stopped; : {service}'
            (folder / "releases" / name / "stop").write_text(stop)
    (folder / "releases/new/probe").write_text(probe)
    switched(folder)
    assert now(folder) == ("new" if probe == "true" else "old")
    log = folder / "stopped"
    assert (" ".join(log.read_text().split()) if log.exists() else "") == stopped
