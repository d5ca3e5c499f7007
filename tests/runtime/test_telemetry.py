"""Nothing leaves the device: no process of edgecv opens a socket of the internet or writes outside its cache folder.

The child gives up such sockets for good before it begins (seccomp(2)): one that is opened all the same, by whatever
library and in whatever thread, ends it.
"""

import os
import platform
import subprocess
import sys

import pytest

from tests.sandbox import OFFLINE

EVERYTHING = """
import sys
import numpy as np
import edgecv_runtime as rt
from edgecv_runtime import stream
bundle, photo, sink = sys.argv[1:]
for backend in ("onnxruntime", "openvino"):
    with rt.load(bundle, backend=backend, self_test=True) as model:
        print(model(rt.images.read(photo)).label, model.info.precision)
        assert len(list(model.map([np.zeros((480, 640, 3), np.uint8)] * 4))) == 4
        stream.run(model, "fake:3,size=32x32", [stream.JsonLinesSink(sink)]).check()
from edgecv.cli import main
sys.argv = ["edgecv", "doctor"]
main()
"""


def run(script, *arguments, home, **variables):
    """Run a script in a process whose home, temporary and working folders are `home`; gives what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    inherited = {name: value for name, value in inherited.items() if not name.startswith(("XDG_", "ORT_"))}
    folders = {"HOME": str(home), "TMPDIR": str(home), "XDG_CONFIG_HOME": str(home / "config")}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**inherited, **folders, **variables},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def test_loading_predicting_and_streaming_look_up_nothing_and_leave_nothing(exported, tmp_path, photos, home):
    import cv2

    cv2.imwrite(str(tmp_path / "photo.png"), photos[0])
    before = sorted(exported.iterdir())
    given = (exported, tmp_path / "photo.png", tmp_path / "out.jsonl")
    offline = OFFLINE if platform.system() == "Linux" else ""
    said = run(offline + EVERYTHING, *given, home=home, EDGECV_CACHE=str(tmp_path / "cache"))
    assert said.count("float32") >= 2
    assert list(home.rglob("*")) == []
    assert sorted(exported.iterdir()) == before


@pytest.mark.skipif(platform.system() != "Linux", reason="seccomp is Linux's")
def test_a_process_that_looks_something_up_would_be_seen(home):
    with pytest.raises(AssertionError, match="-31"):  # SIGSYS
        run(OFFLINE + "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", home=home)


def test_who_wants_telemetry_gets_it(home):
    script = """
import os, sys
from edgecv_runtime import backends
versions = backends.get("onnxruntime").probe() | backends.get("openvino").probe()
print(len(versions), os.environ.get("ORT_DISABLE_TELEMETRY"), "openvino_telemetry" in sys.modules)
"""
    assert run(script, home=home).split() == ["2", "1", "False"]
    assert run(script, home=home, ORT_DISABLE_TELEMETRY="0").split() == ["2", "0", "False"]
    assert run(script, home=home, EDGECV_VENDOR_TELEMETRY="1").split() == ["2", "None", "True"]


def test_who_imported_a_runtime_before_edgecv_has_its_events_switched_off_at_load(home, monkeypatch):
    import onnxruntime

    from edgecv_runtime import telemetry

    called = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: called.append("off"))
    telemetry.onnxruntime()
    monkeypatch.setenv(telemetry.WANTED, "1")
    telemetry.onnxruntime()
    assert called == ["off"]


def test_openvino_telemetry_is_there_for_others_after_edgecv_has_loaded(home):
    script = """
from edgecv_runtime import backends
backends.get("openvino").probe()
import openvino_telemetry
print(openvino_telemetry.__name__)
"""
    assert run(script, home=home).split() == ["openvino_telemetry"]
