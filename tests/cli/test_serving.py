"""`edgecv serve` as a service: it says where, answers what has begun when it is ended, and refuses what is wrong."""

from __future__ import annotations

import json
import re
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

BUNDLE = Path(__file__).parents[1] / "assets" / "digits.edgecv"


def test_a_service_is_ready_answers_and_ends_well(tmp_path):
    shown = tmp_path / "stderr"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, shown.open("w") as stderr:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000", "PATH": "/usr/bin:/bin"}
        offers = [f"one={BUNDLE}", f"two:7={BUNDLE}", str(BUNDLE)]
        command = [
            sys.executable,
            "-m",
            "edgecv.cli",
            "serve",
            *offers,
            "--listen",
            "127.0.0.1:0",
            "--latest",
            "--json",
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment, cwd=tmp_path)
        try:
            assert systemd.recv(200) == b"READY=1"
            url = re.search(r"serving: (http://\S+/v2)", shown.read_text())[1]
            assert systemd.recv(200).startswith(b"WATCHDOG=1\nSTATUS=serving at http://127.0.0.1:")
            index = urllib.request.Request(f"{url}/repository/index", method="POST")
            with urllib.request.urlopen(index, timeout=5) as answer:
                found = [(each["name"], each["version"]) for each in json.load(answer)]
            assert found == [
                (name + face, version)
                for name, version in (("one", "1"), ("two", "7"), ("digits", "1"))
                for face in ("", ".network")
            ]
            # a request whose second half comes after SIGTERM
            port = int(url.rpartition(":")[2].partition("/")[0])
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                body = bytes(32 * 32 * 3)
                head = "POST /v2/models/one.network/infer HTTP/1.1\r\nHost: localhost\r\n"
                head += f"Inference-Header-Content-Length: 0\r\nContent-Length: {len(body)}\r\n\r\n"
                client.sendall(head.encode() + body[:100])
                time.sleep(0.1)
                process.send_signal(signal.SIGTERM)
                time.sleep(0.7)
                client.sendall(body[100:])
                said = b""
                while piece := client.recv(65536):
                    said += piece
            assert said.startswith(b"HTTP/1.1 200 OK")
            assert b'"model_name":"one.network"' in said
            counted = json.loads(process.communicate(timeout=10)[0])
            assert {"model": "one.network", "version": "1", "status": "200", "requests": 1} in counted["requests"]
            assert process.returncode == 143
        finally:
            process.kill()
            process.wait()
    assert shown.read_text().endswith("stopping: requests that have begun are answered\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["missing"], "missing: no such bundle"),
        ([f"={BUNDLE}"], "expected BUNDLE, NAME=BUNDLE or NAME:VERSION=BUNDLE"),
        ([f"a:={BUNDLE}"], "expected BUNDLE, NAME=BUNDLE or NAME:VERSION=BUNDLE"),
        ([str(BUNDLE), str(BUNDLE)], "two bundles are 'digits', version 1: tell them apart, as digits:1=BUNDLE"),
        ([str(BUNDLE), "--listen", "0.0.0.0:8000"], "other machines would use the models; give a token (--token FILE"),
        ([str(BUNDLE), "--listen", "here"], "'here' is no address to listen at"),
        ([str(BUNDLE), "--waiting", "0"], "waiting must be at least 1, got 0"),
        ([str(BUNDLE), "--max-body", "-1"], "body_mb must be positive, got -1"),
        ([str(BUNDLE), "--log", "xml"], "--log is text or json; got 'xml'"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, told):
    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 2
    assert told in done.stderr.splitlines()[-1]
