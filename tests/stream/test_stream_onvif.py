"""ONVIF cameras: ipycam, a camera that others wrote, and what answers in its place."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest
from stream_lab import refused_port, tcp_server

from edgecv_runtime.errors import BadInput, SourceUnavailable
from edgecv_runtime.stream import open_source
from edgecv_runtime.stream.sources import OnvifSource
from edgecv_runtime.stream.sources.onvif import _Device

CAMERA = """
import sys, time
import cv2, numpy as np
from ipycam import CameraConfig, IPCamera
onvif, rtsp, user, password = sys.argv[1:]
camera = IPCamera(CameraConfig(
    local_ip="127.0.0.1", onvif_port=int(onvif), rtsp_port=int(rtsp), username=user, password=password,
    main_width=320, main_height=240, main_fps=15, sub_width=160, sub_height=120, sub_fps=15, show_timestamp=False,
    main_stream_name="main", sub_stream_name="sub"))
camera.start()
print("READY", flush=True)
picture = np.full((240, 320, 3), (40, 120, 200), np.uint8)
while True:
    camera.stream(picture)
    time.sleep(1 / 15)
"""
LOGIN = "admin", "can'ary @7/%41"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`host:port` of the camera's ONVIF service."""
    port = free_port()
    command = [sys.executable, "-c", CAMERA, str(port), str(free_port()), *LOGIN]
    folder = tmp_path_factory.mktemp("camera")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
    try:
        for line in process.stdout:
            if line.startswith("READY"):
                break
        else:
            pytest.fail(f"ipycam did not start; make dev installs it: {(folder / 'log').read_text()[-2000:]}")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_the_stream_is_found_and_shows_what_the_camera_sees(place, caplog):
    with open_source(f"onvif://admin:can'ary %407%2F%2541@{place}") as camera:
        frame = next(camera)
        assert camera.name == f"onvif://admin:***@{place}"
        assert "can" not in repr(camera)
    assert frame.image.shape == (240, 320, 3)
    assert frame.source == camera.name
    assert abs(frame.image.astype(int).mean((0, 1)) - (40, 120, 200)).max() < 12
    assert caplog.messages == [
        f"onvif://admin:***@{place}: takes the first of 2 profiles: Profile_Main (MainStream, H264 320x240); "
        "Profile_Sub (SubStream, H264 160x120); another by a / and its name"
    ]


@pytest.mark.parametrize("profile", ["Profile_Sub", "SubStream"])
def test_a_profile_is_chosen_by_its_token_or_name(place, profile, caplog):
    found = OnvifSource(f"onvif://admin:can'ary %407%2F%2541@{place}/{profile}").find()
    assert found.endswith("/sub")
    assert found.startswith("rtsp://admin:can%27ary%20%407%2F%2541@127.0.0.1:")
    assert not caplog.messages


def test_a_profile_that_the_camera_has_not_is_refused_with_those_it_has(place):
    with pytest.raises(
        BadInput, match=r"no profile 'Profile_Sup'; did you mean 'Profile_Sub'.*; it has Profile_Main \("
    ):
        OnvifSource(f"onvif://admin:can'ary %407%2F%2541@{place}/Profile_Sup").find()


@pytest.mark.parametrize(
    ("login", "message"), [("admin:canary-wrong@", "was refused"), ("", "is wanted and none was given")]
)
def test_a_wrong_password_is_one(place, login, message):
    with pytest.raises(SourceUnavailable, match=f"the user name or password {message}") as caught:
        next(open_source(f"onvif://{login}{place}"))
    assert caught.value.kind == "wrong password"
    assert "canary" not in str(caught.value)


def test_a_login_is_of_the_cameras_time(place):
    """The camera refuses logins that are five minutes old; ours here thinks that it is an hour later there."""
    host, port = place.split(":")
    device = _Device("camera", host, int(port), *LOGIN, 3)
    device._ahead += timedelta(hours=1)
    with pytest.raises(SourceUnavailable):
        device.media_service()
    device._ahead *= 0
    assert device.media_service() == "/onvif/media_service"


def answering(text, status="200 OK"):
    def talk(peer):
        peer.recv(65536)
        time.sleep(0.05)
        peer.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n{text}".encode())

    return talk


def test_what_is_no_onvif_camera_is_said_in_one_line():
    fault = (
        '<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body><s:Fault><s:Reason><s:Text>Device is '
        "locked</s:Text></s:Reason></s:Fault></s:Body></s:Envelope>"
    )
    cases = {
        answering("<html>router</html>"): ("no video", r"answers, but not as an ONVIF camera \(HTTP 200\)"),
        answering("not found", "404 Not Found"): ("wrong path", r"not as an ONVIF camera \(HTTP 404\)"),
        answering("", "302 Found\r\nLocation: http://127.0.0.1:1/"): ("no video", r"\(HTTP 302\)"),
        answering(fault, "500 Error"): ("no video", "the camera refuses GetSystemDateAndTime: Device is locked"),
        lambda peer: peer.close(): ("no video", "answers, but not as an ONVIF camera"),
        None: ("no answer", "no answer within 1 s"),
    }
    for talk, (kind, message) in cases.items():
        with tcp_server(talk) as port, pytest.raises(SourceUnavailable, match=message) as caught:
            next(open_source(f"onvif://u:canary-1@127.0.0.1:{port}", timeout_s=1))
        assert caught.value.kind == kind
        assert "canary" not in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(SourceUnavailable, match="nothing listens") as caught:
        next(open_source(f"onvif://127.0.0.1:{refused_port()}", timeout_s=1))
    assert caught.value.kind == "refused"
