"""`edgecv stream` as it is run for months: a file of cameras, a page, a service manager, and no password anywhere."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgecv.cli.app import app
from edgecv.cli.output import Mode

sys.path.append(str(Path(__file__).parents[1] / "stream"))
from stream_lab import CARPHONE, RtspServer, refused_port

BUNDLE = Path(__file__).parents[1] / "assets" / "digits.edgecv"
SECRETS = {
    "wrong": "wr0ng'c4nary \"1<>@/",
    "file": "f1le c4nary-2'@",
    "query": "qu3ryc4nary",
    "broker": "br0ker'c4nary",
    "hook": "h00k/c4nary",
    "push": "pu5h c4nary",
    "token": "t0ken-c4nary-0123456789",
}


def edgecv(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "edgecv.cli", *map(str, arguments)], capture_output=True, text=True, timeout=60, **more
    )


def until(condition, process, seconds=20.0):
    end_s = time.monotonic() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.args
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.05)
    return found


def get(url, token):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read().decode(errors="replace")
    return ""


@pytest.fixture(scope="module")
def guarded():
    with RtspServer(CARPHONE, user="admin", password="right c4nary'0") as server:
        yield server


def test_a_service_with_cameras_of_a_file(guarded, tmp_path, request):
    """Cameras that work, refuse, are away; sinks that are away; a reload; systemd; and not one password shown."""
    away = refused_port()
    place = guarded.url.removeprefix("rtsp://").partition("/")[0]
    (tmp_path / "logins").write_text(f"{place} admin:right c4nary'0\n127.0.0.1:{away} u:{SECRETS['file']}\n")
    (tmp_path / "token").write_text(SECRETS["token"])
    first = f"""
credentials: logins
page: 127.0.0.1:0
page_token: token
sinks:
  - lines.jsonl
  - {{to: "{{source}}.mp4", rules: ["score >= 0"]}}
  - {json.dumps(f"mqtt://u:{SECRETS['broker']}@127.0.0.1:{away}/house")}
  - {json.dumps(f"http://u:{SECRETS['hook']}@127.0.0.1:{away}/hook")}
cameras:
  - {{name: works, url: "{guarded.url}", rate: 10}}
  - {{url: {json.dumps(guarded.with_login("admin:" + SECRETS["wrong"]))}}}
  - {{url: "rtsp://127.0.0.1:{away}/away"}}
  - {{url: "http://127.0.0.1:{away}/video.cgi?user=a&loginpas={SECRETS["query"]}"}}
"""
    config = tmp_path / "cameras.yaml"
    config.write_text(first)
    said, shown = [], tmp_path / "stderr"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, shown.open("w") as stderr:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        command = [sys.executable, "-m", "edgecv.cli", "stream", BUNDLE, "--config", config, "--log", "json", "--json"]
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000", "PATH": "/usr/bin:/bin"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=tmp_path, env=environment
        )
        request.addfinalizer(process.kill)
        assert until(lambda: _received(systemd), process) == b"READY=1"
        url = until(lambda: re.search(r"live page: (http://\S+/)", shown.read_text()), process)[1]
        token = SECRETS["token"]

        def states():
            return {
                each["name"]: each
                for each in json.loads(get(f"{url}state.json", token) or '{"sources": []}')["sources"]
            }

        until(lambda: states().get("works", {}).get("inferred", 0) > 5, process)
        until(lambda: sum(each["state"] == "backing off" for each in states().values()) == 3, process)
        commands = [_command_of(number, process) for number in map(int, _numbers(Path("/proc")))]
        assert any("edgecv" in command for command in commands)
        metrics = get(f"{url}metrics", token)
        said += [*commands, metrics, *(get(f"{url}{path}", token) for path in ("", "state.json", "readyz"))]
        assert 'edgecv_source_state{source="works",state="live"} 1.0' in metrics
        assert 'edgecv_frames_total{outcome="dropped",reason="rate",source="works"}' in metrics
        assert 'edgecv_frame_age_seconds_count{source="works"}' in metrics
        assert 'edgecv_source_resident_memory_bytes{source="works"}' in metrics  # of the process that decodes
        assert 'edgecv_source_transitions_total{source="works",state="live"} 1.0' in metrics
        until(lambda: (_received(systemd) or b"") == b"WATCHDOG=1\nSTATUS=1 of 4 sources live", process)
        config.write_text(first.replace("rate: 10", "ratee: 10"))
        process.send_signal(signal.SIGHUP)
        until(lambda: "did you mean 'rate'" in shown.read_text(), process)
        config.write_text("\n".join(first.splitlines()[:-2]) + '\n  - {name: new, url: "fake:fps=20,9999"}\n')
        process.send_signal(signal.SIGHUP)
        until(lambda: states().get("new", {}).get("inferred", 0) > 0, process)
        assert states()["works"]["connections"] == 1
        process.send_signal(signal.SIGTERM)
        stdout, _ = process.communicate(timeout=20)
        told = [systemd.recv(500)]
        while told[-1] != b"STOPPING=1":
            told.append(systemd.recv(500))
    assert process.returncode in (3, 4, 143), shown.read_text()
    report = json.loads(stdout)
    assert {"works", "new"} <= {source["name"] for source in report["sources"]}
    log = [json.loads(line) for line in shown.read_text().splitlines()]
    assert {"time", "level", "message"} <= set(log[0])
    kinds = {(line["name"], line["state"]) for line in log if line.get("about") == "source"}
    assert ("works", "live") in kinds
    assert any("401" in line["message"] for line in log)
    assert any(line.get("about") == "sink" and line["state"] == "down" for line in log)
    said += [stdout, shown.read_text(), *map(str, tmp_path.rglob("*"))]
    said += [(tmp_path / "lines.jsonl").read_text(), *(part.decode(errors="replace") for part in told)]
    for text in said:
        for fragment in ("c4nary", "c4n", *(secret[:5] for secret in SECRETS.values())):
            assert fragment not in text, (fragment, text[max(0, text.find(fragment) - 200) :][:300])
    assert (tmp_path / "works.mp4").is_file()


def _received(listener):
    with contextlib.suppress(TimeoutError):
        return listener.recv(500)


def _numbers(folder):
    return [path.name for path in folder.iterdir() if path.name.isdecimal()]


def _command_of(number, process):
    """The command line of the process or of one that it started, "" of others and of those that end meanwhile."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{number}/cmdline").read_text(errors="replace")
        while number > 1 and number != process.pid:
            number = int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{number}/status").read_text())[1])
        return command if number == process.pid else ""
    return ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no sources: expected at least one camera"),
        (["fake:5", "--config", "x.yaml"], "SOURCE stands in x.yaml when there is a --config"),
        (["fake:5", "--on", "score > 1 for", "--sink", "-"], "expected a number"),
        (["fake:5", "--on", "score > 1"], "--on says what a sink gets, and there is none"),
        (["fake:5", "--on", "label == 'dgit 3'", "--sink", "-"], "no label 'dgit 3'; did you mean 'digit 3'"),
        (["fake:5", "--segment", "10"], "'10' is no limit of a file"),
        (["fake:5", "--log", "xml"], "--log is text or json"),
        (["fake:5", "--page", "0.0.0.0:0"], "other machines would see the cameras; give a token"),
        (["fake:5", "--credentials", "none"], "none: credentials cannot be read: No such file"),
        (["rtsp://u:c4nary@h/x", "--unit"], "rtsp://u:***@h/x: a unit is read by everybody"),
        (["ftp://u:c4nary@h/x"], "ftp://u:***@h/x: no such file"),
        (["fake:5", "--sink", "ftp://u:c4nary@h/x"], "ftp://u:***@h/x: not a sink"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["--quiet", "stream", str(BUNDLE), *arguments]
    monkeypatch.setattr(sys, "argv", ["edgecv", *command])
    monkeypatch.setattr(Mode, "json_log", False)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgecv: ")
    assert message in line
    assert "c4nary" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_one_line_and_moves_no_cursor(tmp_path, monkeypatch):
    """What a terminal shows of a file that somebody else named, and a log that is read line by line."""
    monkeypatch.setattr(Mode, "quiet", False)
    monkeypatch.setattr(Mode, "json_log", False)
    name = "yard\nedgecv: all is well\x1b[2J\x9b1A"
    video, taken = tmp_path / f"{name}.mp4", tmp_path / f"{name} out.mp4"
    shutil.copyfile(CARPHONE, video)
    taken.touch()
    done = CliRunner().invoke(app, ["stream", str(BUNDLE), str(video), "--frames", "2", "--sink", str(taken)])
    missing = CliRunner().invoke(app, ["stream", str(BUNDLE), str(video.with_suffix(".avi"))])
    assert (done.exit_code, missing.exit_code) == (0, 2), done.output
    assert "the name is taken" in done.stderr
    for text in (done.stdout, done.stderr, missing.stderr):
        assert r"all is well\x1b[2J\x9b1A" in text
        assert all(line.isprintable() and not line.startswith("edgecv: all") for line in text.splitlines())


def test_events_alone_on_stdout_and_a_unit(tmp_path):
    done = edgecv("stream", BUNDLE, "fake:12", "--on", "score > 0", "--sink", "-", "--log", "json")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["events"][0]["rule"] == "score > 0"
    assert all(json.loads(each) for each in done.stderr.splitlines())
    done = edgecv("stream", BUNDLE, "fake:12", "--on", "score > 0.5", "--sink", "out.jsonl", "--unit")
    start = next(line for line in done.stdout.splitlines() if line.startswith("ExecStart="))
    assert start == (
        f'ExecStart={sys.executable} -m edgecv.cli stream {BUNDLE} fake:12 --on "score > 0.5" --sink out.jsonl'
    )
