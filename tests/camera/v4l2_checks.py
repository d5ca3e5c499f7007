"""Real Video4Linux cameras: `make test-camera` (pytest does not collect it by itself; it boots a machine, as root)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from machine import boot

HERE = Path(__file__).parent
FOLDER = Path(sys.prefix) / "camera-machine"  # made once
BUNDLE = HERE.parent / "assets/digits.edgecv"
SCRIPT = """
mkdir -p /run/scratch
export HOME=/run/scratch TMPDIR=/run/scratch EDGECV_CACHE=/run/scratch/cache
export PYTHONDONTWRITEBYTECODE=1 SYSTEMD_IGNORE_CHROOT=1
mkdir -p /run/udev/rules.d
echo 'SUBSYSTEM=="video4linux", ATTR{{name}}=="vivid-000-vid-cap", SYMLINK+="v4l/by-id/front"
SUBSYSTEM=="video4linux", ATTR{{name}}=="vivid-001-vid-cap", SYMLINK+="v4l/by-id/back"' > /run/udev/rules.d/99.rules
/lib/systemd/systemd-udevd --daemon
udevadm trigger --subsystem-match=video4linux --action=add
udevadm settle
{python} {guest} {bundle} /run/out
"""
# 75 % colour bars (SMPTE EG 1): white, yellow, cyan, green, magenta, red, blue, black, as BGR.
BARS = [[191] * 3, [0, 191, 191], [191, 191, 0], [0, 191, 0], [191, 0, 191], [0, 0, 191], [191, 0, 0], [0, 0, 0]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    out = tmp_path_factory.mktemp("machine")
    script = SCRIPT.format(python=Path(sys.executable), guest=HERE / "guest.py", bundle=BUNDLE)
    boot(FOLDER, out, script, timeout_s=300)
    try:
        results = json.loads((out / "results.json").read_text())
    except FileNotFoundError:
        pytest.fail(f"the machine did not come so far: {(out / 'console').read_text()[-3000:]}")
    print(json.dumps(results, indent=1))  # noqa: T201  # pytest shows it where a check fails
    return results


def near(colours, expected, tolerance):
    return all(
        abs(a - b) <= tolerance for pair in zip(colours, expected, strict=True) for a, b in zip(*pair, strict=True)
    )


@pytest.mark.parametrize("name", ["YUYV", "NV12", "BGR3"])
def test_each_format_shows_the_same_bars(seen, name):
    result = seen["formats"][name]
    assert result["shape"] == [360, 640, 3]
    assert near(result["bars"], BARS, 12)


def test_a_grey_camera_gives_three_equal_channels(seen):
    bars = seen["formats"]["GREY"]["bars"]
    assert all(len(set(bar)) == 1 for bar in bars)
    assert [bar[0] for bar in bars] == sorted([bar[0] for bar in bars], reverse=True)


def test_mjpeg_of_a_loopback_is_what_was_written(seen):
    assert near(seen["compressed"]["bars"], seen["compressed"]["written"], 8)


def test_a_camera_that_gives_nothing_more_is_noticed_within_its_timeout(seen):
    assert seen["compressed"]["hangs"]["kind"] == "stalled"
    assert seen["compressed"]["noticed_s"] < 5


def test_ages_are_true_in_a_slow_machine_too(seen):
    ages = [seen["formats"][name]["ages_ms"] for name in ("YUYV", "NV12", "BGR3")]
    assert min(map(min, ages)) >= 0
    assert max(each[-1] for each in ages) < 500  # the first frames wait until all is loaded


def test_cameras_are_listed_with_what_they_are_called_for_good(seen):
    listed = {path: (bus, ids) for path, bus, _, ids in seen["listed"]}
    assert listed["/dev/video0"][0] == "platform:vivid-000"
    assert "/dev/v4l/by-id/front" in listed["/dev/video0"][1]
    assert listed["/dev/video1"][0] == "platform:vivid-001"
    assert "/dev/v4l/by-id/back" in listed["/dev/video1"][1]
    assert any("by-path" in link for _, ids in listed.values() for link in ids)  # udev's own rule


def test_a_camera_that_is_not_there_is_missing_and_those_that_are_there_are_named(seen):
    assert seen["missing"]["kind"] == "missing"
    assert "/dev/video0" in seen["missing"]["error"]
    assert "front" in seen["unknown"]["error"]


def test_a_size_that_the_camera_has_not_is_said_and_not_resized(seen):
    assert "123x77" in seen["wish"]["error"]


def test_two_cameras_give_each_its_own_picture(seen):
    front, back, again = seen["two"]
    assert min(front + again) > 50
    assert max(back) < 20


def test_an_unplugged_camera_is_missing_and_comes_back_under_its_name_when_its_index_has_changed(seen):
    result = seen["plugging"]
    assert result["before"][0] != result["after"][0], "the index did not change: nothing was tried"
    assert result["unplugged"]["kind"] == "missing"
    assert "was it unplugged?" in result["unplugged"]["error"]
    assert result["noticed_s"] < 3
    assert result["absent"]["kind"] == "missing"
    assert near(result["again"]["bars"], BARS, 12)


def test_a_run_goes_on_when_its_camera_is_plugged_in_again(seen):
    result = seen["running"]
    states = [state for state, _ in result["events"]]
    assert states.count("live") >= 2
    assert "backing off" in states[states.index("live") :]
    assert result["gone"] >= 5
    assert result["again"] >= result["gone"] + 5
    assert result["ended"] == "stopped"
    assert result["account"] == result["read"]
