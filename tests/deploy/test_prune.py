"""The script that removes old releases from a device: never what runs, ran before, or is used by anything."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.resources import files

import pytest

SCRIPT = (files("edgecv.deploy") / "prune.sh").read_text(encoding="utf-8")
AGES = "123456"  # releases, the oldest first


def name(letter):
    return letter * 12


@pytest.fixture
def folder(tmp_path):
    """Six releases: 1 to 3 of one environment, 4 to 6 of another; each of its own bundle. 2 runs, 1 ran before it."""
    for kind, letters in (("environments", "ab"), ("bundles", AGES), ("releases", AGES)):
        for letter in letters:
            (tmp_path / kind / name(letter)).mkdir(parents=True)
    for letter in "ab":
        (tmp_path / "environments" / name(letter) / "complete").touch()
    for number, letter in enumerate(AGES):
        (tmp_path / "bundles" / name(letter) / "bundle.json").touch()
        release = tmp_path / "releases" / name(letter)
        (release / "environment").symlink_to(f"../../environments/{name('ab'[number // 3])}")
        (release / "bundle").symlink_to(f"../../bundles/{name(letter)}")
        if number:
            (release / "before").symlink_to(f"../{name(AGES[number - 1])}")
        os.utime(release, (1_000_000 + number,) * 2)
    (tmp_path / "current").symlink_to(f"releases/{name('2')}")
    return tmp_path


def pruned(folder, keep):
    done = subprocess.run(
        ["sh", "-c", f"folder='{folder}' keep={keep}\n{SCRIPT}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def there(folder, kind):
    return "".join(sorted(each.name[0] for each in (folder / kind).iterdir()))


@pytest.mark.parametrize(("keep", "left"), [(0, "12"), (1, "126"), (3, "12456"), (9, AGES)])
def test_what_runs_and_ran_before_stays_and_of_the_others_the_newest(folder, keep, left):
    went = "".join(f" {name(letter)}" for letter in reversed(AGES) if letter not in left)
    assert pruned(folder, keep) == f"removed{went or ' nothing'}"
    assert (there(folder, "releases"), there(folder, "bundles")) == (left, left)
    assert there(folder, "environments") == ("ab" if set(left) & set("456") else "a")
    for release in (folder / "releases").iterdir():
        assert (release / "environment" / "complete").exists()
        before = release / "before"
        assert before.exists() or not before.is_symlink()


@pytest.mark.parametrize("kind", ["releases", "environments"])
def test_what_a_process_uses_stays(folder, kind):
    used = folder / kind / name("5" if kind == "releases" else "b")
    waits = "import sys; print(flush=True); sys.stdin.read()"
    program = subprocess.Popen(
        [sys.executable, "-c", waits], cwd=used, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with program:
        program.stdout.readline()
        pruned(folder, 0)
        assert there(folder, "releases") == ("125" if kind == "releases" else "124")  # the last that links to it
        assert there(folder, "environments") == "ab"
        assert program.poll() is None
        program.stdin.close()
    pruned(folder, 0)
    assert (there(folder, "releases"), there(folder, "environments")) == ("12", "a")


def test_nothing_goes_while_a_switch_is_going_on_or_was_never_ended(folder):
    with subprocess.Popen(["flock", folder / "lock", "sh", "-c", "echo; read line"], stdin=-1, stdout=-1) as held:
        held.stdout.readline()
        assert pruned(folder, 0) == "removed nothing: a switch is going on"
        held.stdin.close()
    (folder / "pending").write_text(name("1"))
    assert pruned(folder, 0) == "removed nothing: a switch has not ended"
    assert there(folder, "releases") == AGES


@pytest.mark.parametrize("number", range(1, 7))
def test_power_lost_at_any_removal_leaves_what_is_whole_and_the_rest_goes_next_time(folder, number):
    count = f'rm() {{ n=$((${{n:-0}} + 1)); [ $n != {number} ] || kill -9 $$; command rm "$@"; }}'
    script = f"folder='{folder}' keep=0\n{count}\n{SCRIPT}"
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode == -9
    for release in (folder / "current", folder / "current" / "before"):
        assert (release / "environment" / "complete").exists()
        assert (release / "bundle" / "bundle.json").exists()
    pruned(folder, 0)
    assert [there(folder, kind) for kind in ("environments", "bundles", "releases")] == ["a", "12", "12"]
