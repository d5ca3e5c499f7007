"""Network cameras over the loopback: a real RTSP server, MJPEG over HTTP, and every way not to get a picture."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
import traceback

import cv2
import numpy as np
import pytest
from stream_lab import BIKES, RtspServer, brightness, refused_port, remux, tcp_server

from edgecv_runtime.errors import SourceUnavailable
from edgecv_runtime.stream import Camera, open_source, run
from edgecv_runtime.stream.sources import network


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_camera_gives_the_clip_and_the_ledger_is_exact():
    with RtspServer(frames=70) as server:
        report = run(brightness, server.url, when_late="wait", reconnect=False)
    source = report.sources[0]
    assert source.read == source.inferred == 70
    assert (source.live, source.dropped, source.failed) == (True, {}, 0)
    assert (source.ended, source.detail) == ("ended_early", "the camera ended the stream after 70 frames")
    assert source.fps > 20
    assert report.exit_code == 4


def test_frames_are_those_of_the_clip():
    with RtspServer(frames=25) as server, open_source(server.url) as camera, open_source(BIKES) as clip:
        for _ in range(20):
            assert np.array_equal(next(camera).image, next(clip).image)
        assert (camera.live, camera.fps, camera.declared_frames) == (True, 25, None)


def test_a_slow_consumer_gets_young_frames(camera):
    ages = []
    with Camera(open_source(camera.url)) as reader:
        for frame in reader:
            time.sleep(0.2)  # 5 of 25 frames a second
            ages.append((time.monotonic_ns() - frame.captured_ns) / 1e6 - 200)
            if len(ages) == 10:
                break
    assert reader.when_late == "drop-oldest"
    assert max(ages[2:]) < 400  # the clip's B-frames alone are 160; not the seconds that a queue would hold
    assert reader.dropped["late"] >= 25
    reader.account.check(final=True)


def test_a_password_with_everything_in_it_opens(guarded_camera):
    with open_source(guarded_camera.with_login("admin:canary%407%2F%2541")) as camera:
        assert next(camera).image.shape == (272, 640, 3)
        assert "canary" not in repr(camera)


def test_what_is_wrong_is_told_apart(camera, guarded_camera):
    messages, kinds = {}, {}
    with tcp_server() as silent, tcp_server(lambda peer: peer.close()) as closing:
        cases = {
            "no password": guarded_camera.url,
            "wrong password": guarded_camera.with_login("admin:canary-wrong"),
            "wrong path": camera.url.replace("/cam", "/canary-path"),
            "refused": f"rtsp://u:canary-1234@127.0.0.1:{refused_port()}/cam",
            "unknown host": "rtsp://u:canary-1234@no-such-host.invalid/cam",
            "silent": f"rtsp://u:canary-1234@127.0.0.1:{silent}/cam",
            "closing": f"rtsp://u:canary-1234@127.0.0.1:{closing}/cam",
            "not RTSP": f"http://u:canary-1234@127.0.0.1:{camera.port}/cam",
        }
        for case, url in cases.items():
            start_s = time.monotonic()
            with pytest.raises(SourceUnavailable) as caught, open_source(url, timeout_s=1):
                pass
            assert time.monotonic() - start_s < 2.5
            error = caught.value
            shown = "".join(traceback.format_exception(type(error), error, error.__traceback__)) + repr(error)
            if case != "wrong path":
                assert "canary" not in shown
            assert error.__cause__ is error.__context__ is None  # PyAV's error holds the password
            kinds[case] = error.kind
            messages[case] = str(error).partition(": ")[2]
    assert messages["no password"] == "the user name or password is wanted and none was given (401)"
    assert messages["wrong password"] == "the user name or password was refused (401)"
    assert messages["wrong path"] == "the camera answers, but has no such path (404)"
    assert "nothing listens on port" in messages["refused"]
    assert messages["unknown host"] == "the host name is unknown"
    assert messages["silent"] == "no answer within 1 s"
    assert messages["closing"].startswith("answers, but not with a video stream")
    assert len(set(messages.values())) >= 7
    assert kinds == {
        "no password": "wrong password",
        "wrong password": "wrong password",
        "wrong path": "wrong path",
        "refused": "refused",
        "unknown host": "unknown host",
        "silent": "no answer",
        "closing": "no stream",
        "not RTSP": "no stream",
    }


def test_a_camera_that_freezes_is_a_stall_within_the_timeout():
    with RtspServer() as server, open_source(server.url, timeout_s=1) as camera:
        frames = iter(camera)
        for _ in range(20):
            next(frames)
        os.kill(server.process.pid, signal.SIGSTOP)
        start_s = time.monotonic()
        with pytest.raises(SourceUnavailable, match=r"stalled: no frame for 1\.\d s"):
            list(frames)
        assert time.monotonic() - start_s < 1.9  # 1 s, not FFmpeg's second helping
        assert next(frames, None) is None


def test_a_camera_that_dies_is_noticed_at_once():
    with RtspServer() as server:
        seen = []
        timer = threading.Timer(1.5, server.process.kill)
        timer.start()
        report = run(brightness, server.url, on_progress=seen.append, reconnect=False)
        source = report.sources[0]
    assert source.ended in ("ended_early", "error")
    assert report.exit_code in (3, 4)
    assert report.wall_s < 4
    assert seen
    assert seen[0].sources[0].ended == "running"


class MotionJpeg(http.server.BaseHTTPRequestHandler):
    """Twelve JPEG images as a camera's multipart stream; asks for a password on /guarded, has a file on /clip.mp4."""

    clip = b""

    def do_GET(self):  # http.server's name
        if self.path == "/guarded" or self.path == "/gone":
            self.send_error(401 if self.path == "/guarded" else 404)
            return
        self.send_response(200)
        if self.path == "/clip.mp4":
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", str(len(self.clip)))
            self.end_headers()
            self.wfile.write(self.clip)
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for number in range(12):
            jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 20 * number, np.uint8))[1].tobytes()
            self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg))
            self.wfile.write(jpeg + b"\r\n")
            time.sleep(0.02)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    path = tmp_path_factory.mktemp("web") / "clip.mp4"
    MotionJpeg.clip = remux(BIKES, path, movflags="faststart", count=25).read_bytes()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), MotionJpeg) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_motion_jpeg_over_http(web):
    means = []
    with pytest.raises(SourceUnavailable, match="lost after 12 frames"), open_source(f"{web}/stream.mjpg") as camera:
        means.extend(frame.image.mean() for frame in camera)
    assert np.allclose(means, [20 * number for number in range(12)], atol=2)
    assert camera.live


def test_a_file_over_http_is_a_recording(web):
    with open_source(f"{web}/clip.mp4") as source:
        assert len(list(source)) == source.declared_frames == 25
    assert (source.live, source.end.kind) == (False, "end of file")


def test_http_errors_are_told_apart(web):
    with pytest.raises(SourceUnavailable, match=r"\(401\)"), open_source(f"{web}/guarded"):
        pass
    with pytest.raises(SourceUnavailable, match=r"\(404\)"), open_source(f"{web}/gone"):
        pass


def test_a_name_server_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(network.socket, "getaddrinfo", lambda *_, **__: time.sleep(1))
    start_s = time.monotonic()
    assert network.probe("camera.example", 554, 0.1)[1] == "no name server answered within 0.1 s"
    assert time.monotonic() - start_s < 0.5
