"""GStreamer pipelines in a gst-launch of their own: Debian's, with its test source."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from stream_lab import BIKES, until

from edgecv_runtime import lastwords
from edgecv_runtime.errors import BadInput, SourceUnavailable, Unavailable
from edgecv_runtime.stream import open_source
from edgecv_runtime.stream.sources import launch


@pytest.fixture(autouse=True)
def _there_is_gstreamer():
    assert shutil.which("gst-launch-1.0"), "run tests/install-debian.sh"


def test_the_picture_is_that_of_the_pipeline_whatever_its_width():
    """The colours of the bars are SMPTE's; a row of 101 pixels is 303 bytes, and GStreamer's begin every 304."""
    pipeline = "videotestsrc pattern=smpte75 num-buffers=4 ! video/x-raw,width=101,height=99,framerate=20/1"
    with open_source(f"gst:{pipeline}") as source:
        frames = list(source)
        assert (source.facts.size, source.facts.fps, source.live) == ((99, 101), 20, True)
    assert len(frames) <= 4  # the newest wins
    assert source.end.detail == f"the pipeline ended after {len(frames)} frames"
    for frame in frames:
        bars = [frame.image[20, round(101 * (bar + 0.5) / 7)].astype(int) for bar in range(7)]
        expected = [(191, 191, 191), (0, 191, 191), (191, 191, 0), (0, 191, 0), (191, 0, 191), (0, 0, 191), (191, 0, 0)]
        assert np.abs(np.array(bars) - expected).max() <= 6
        assert frame.image.flags.c_contiguous


def test_pixels_that_are_not_square_are_made_so():
    """As in every other source; 720x576 with pixels of 64:45 is television's 16:9."""
    pipeline = "videotestsrc pattern=smpte75 num-buffers=2 ! video/x-raw,width=720,height=576,pixel-aspect-ratio=64/45"
    with open_source(f"gst:{pipeline}") as source:
        shapes = {frame.image.shape for frame in source}
    assert shapes == {(576, 1024, 3)}


def test_a_live_pipeline_keeps_its_rate_and_its_frames_are_young():
    with open_source("gst:videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=25/1") as source:
        next(source)
        start_s, ages_ms = time.monotonic(), []
        for _ in range(25):
            ages_ms.append((time.monotonic_ns() - next(source).captured_ns) / 1e6)
        child = source._child
        assert 0.7 < time.monotonic() - start_s < 2
    assert sorted(ages_ms)[12] < 20
    assert child.returncode is not None  # nothing is left behind


def test_a_talkative_pipeline_fills_no_disk_and_is_never_blocked(monkeypatch):
    """Nor is memory filled, while nobody reads its frames: what it says goes through a pipe that is always emptied."""
    monkeypatch.setattr(lastwords, "_MOST", 20_000)
    monkeypatch.setenv("GST_DEBUG", "basetransform:5")
    with open_source(
        "gst:videotestsrc num-buffers=1000 ! identity sleep-time=1000 ! video/x-raw,width=64,height=64"
    ) as source:
        next(source)
        said, texts = source._said, set()
        assert Path(f"/proc/{source._child.pid}/fd/1").is_fifo()
        until(lambda: texts.add(said.text) or len(texts) > 20)  # it says 2,700 bytes with each frame
        assert max(map(len, texts)) == 20_000
        assert list(source)
    assert len(said.text) == 20_000


CHANGES = (
    "videotestsrc is-live=true pattern=smpte75 num-buffers=25 ! video/x-raw,width=64,height=48,framerate=100/1 ! c. "
    "videotestsrc is-live=true pattern=smpte75 num-buffers=25 ! video/x-raw,width=48,height=64,framerate=100/1 ! c. "
    "concat name=c"
)


def test_another_size_ends_it_before_a_picture_of_that_size_is_read():
    """Of as many bytes as before, so that nothing but what is said between the frames tells them apart."""
    for _ in range(3):
        with open_source(f"gst:{CHANGES}") as source:
            first = next(source).image
            frames = list(source)
        assert (source.end.kind, source.end.detail) == ("hung up", "the size became 48x64")
        assert frames
        assert all(np.array_equal(frame.image, first) for frame in frames)


def test_what_is_no_frame_ends_it(tmp_path):
    path = tmp_path / "words"
    path.write_bytes(b"\1\0\1\0\0\2\xff\xff\xff\xff".ljust(62, b"\0") + bytes(500))
    source = launch.LaunchSource("videotestsrc")
    source._pipe = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(SourceUnavailable, match="sends what is no frame"):
            source._next_frame()
    finally:
        os.close(source._pipe)


def test_a_picture_in_the_tags_is_no_frame(tmp_path):
    """The cover of a film comes as an event before the first frame, here of 2 MB."""
    cover = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8))[1].tobytes()
    with av.open(str(tmp_path / "film.mkv"), "w") as made, av.open(str(BIKES)) as given:
        made.add_attachment("cover.png", "image/png", cover)
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in itertools.islice(given.demux(video=0), 10):
            packet.stream = stream
            made.mux(packet)
    with open_source(f"gst:filesrc location={tmp_path}/film.mkv ! decodebin") as source:
        assert next(source).image.shape == (272, 640, 3)


def test_decodebin_decodes_a_file(tmp_path):
    """Of one picture again and again: a pipeline leaves out those that come faster than they are taken."""
    path = tmp_path / "still.mp4"
    with av.open(BIKES) as clip, av.open(path, "w") as still:
        picture = next(clip.decode(video=0)).to_image()
        stream = still.add_stream("libx264", rate=25, width=picture.width, height=picture.height, pix_fmt="yuv420p")
        for _ in range(25):
            still.mux(stream.encode(av.VideoFrame.from_image(picture)))
        still.mux(stream.encode())
    with open_source(f"gst:filesrc location={path} ! decodebin") as source, open_source(path) as clip:
        assert np.abs(next(source).image.astype(int) - next(clip).image).mean() < 3


def test_a_pipeline_that_stands_still_is_a_stall():
    with open_source("gst:videotestsrc is-live=true", timeout_s=2) as source:
        next(source)
        os.kill(source._child.pid, signal.SIGSTOP)
        start_s = time.monotonic()
        with pytest.raises(SourceUnavailable, match="stalled: no frame within") as caught:
            list(source)
        assert time.monotonic() - start_s < 3.5
    assert caught.value.kind == "stalled"


@pytest.mark.parametrize(
    ("pipeline", "error", "message"),
    [
        ("videotestsrk", BadInput, 'no element "videotestsrk"'),
        ("videotestsrc ! ! x", BadInput, "gst:videotestsrc ! ! x: "),
        ("filesrc location='no", BadInput, "a quote is not closed"),
        ("filesrc location=/no/such.mp4 ! decodebin", SourceUnavailable, "Could not open file|Resource not found"),
    ],
)
def test_what_is_wrong_with_a_pipeline_is_said_in_one_line(pipeline, error, message):
    with pytest.raises(error, match=message) as caught:
        next(open_source(f"gst:{pipeline}", timeout_s=4))
    assert "\n" not in str(caught.value)


def test_a_password_never_gets_into_the_process_list():
    with pytest.raises(BadInput, match="would be seen in the process list") as caught:
        open_source("gst:rtspsrc location=rtsp://u:canary99@h/x ! decodebin")
    assert "canary" not in str(caught.value)


def test_a_boards_camera_is_that_of_the_element_that_is_there(monkeypatch):
    monkeypatch.setattr(launch, "has_element", lambda name: name == "nvarguscamerasrc")
    assert launch.csi("//1").startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM)")
    monkeypatch.setattr(launch, "has_element", lambda name: name == "libcamerasrc")
    assert launch.csi("//0") == "libcamerasrc ! video/x-raw"
    monkeypatch.undo()
    assert launch.has_element("videotestsrc")
    with pytest.raises(Unavailable, match="needs GStreamer's nvarguscamerasrc"):
        open_source("csi://0")
    with pytest.raises(BadInput, match="expected csi://0"):
        open_source("csi://front")
