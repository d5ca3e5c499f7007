"""Live streams as strangers have them: slow cameras, long groups of pictures, HLS, UDP, decoders that are too slow."""

from __future__ import annotations

import http.server
import threading
import time
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from stream_lab import BIKES, RtspServer, brightness, remux, truncate

from edgecv_runtime.errors import SourceUnavailable
from edgecv_runtime.stream import open_source, run
from edgecv_runtime.stream.sources import network
from edgecv_runtime.stream.sources.network import Pacer
from edgecv_runtime.stream.sources.packets import PacketReader, Silence


def packets(*kinds):
    """Packets by one letter each: K is a key frame, d is not."""
    return [
        SimpleNamespace(size=10, is_keyframe=kind == "K", name=f"{kind}{n}") for n, kind in enumerate("".join(kinds))
    ]


class Reading:
    """A reader whose clock the test moves."""

    def __init__(self, given, **options):
        self.now_ns = 0
        self.closed = threading.Event()
        self.reader = PacketReader(iter(given), self.closed.set, name="test", clock=lambda: self.now_ns, **options)

    def take(self, patience_s=2.0):
        item = self.reader.take(lambda: patience_s, lambda: False)
        return item and item.packet.name

    def filled(self, count):
        until_s = time.monotonic() + 5
        while self.reader.arrived < count and time.monotonic() < until_s:
            time.sleep(0.001)
        return self


def test_what_is_too_old_is_left_out_up_to_the_newest_key_frame():
    reading = Reading(packets("KddKddKdd")).filled(9)
    assert [reading.take(), reading.take()] == ["K0", "d1"]
    reading.now_ns = 1_500_000_000
    assert [reading.take() for _ in range(4)] == ["K6", "d7", "d8", None]
    assert (reading.reader.skipped(), reading.reader.broke) == ({"undecoded": 4}, True)
    assert reading.reader.skipped() == {}
    assert reading.closed.wait(1)


def test_without_a_key_frame_a_backlog_is_kept_for_a_while_and_then_a_gap():
    gate = threading.Event()

    def arriving():
        yield from packets("Kddddd")
        gate.wait(5)
        yield from packets("ddKd")

    reading = Reading(arriving()).filled(6)
    assert reading.take() == "K0"
    reading.now_ns = 2_000_000_000
    assert reading.take() == "d1"
    reading.now_ns = 3_000_000_000
    gate.set()
    assert [reading.take() for _ in range(3)] == ["K2", "d3", None]
    assert reading.reader.skipped() == {"undecoded": 6}


def test_a_camera_that_never_sends_a_key_frame_is_decoded_again():
    gate, second = threading.Event(), 1_000_000_000

    def arriving():
        yield from packets("ddd")
        gate.wait(5)
        for packet in packets("dddddd"):
            reading.now_ns += 5 * second
            yield packet

    reading = Reading(arriving()).filled(3)
    reading.now_ns = 3 * second
    taken = threading.Thread(target=lambda: (time.sleep(0.2), gate.set()))
    taken.start()
    assert reading.take() == "d4"  # more than 20 s after the gap began
    taken.join()


def test_a_recording_loses_nothing_and_is_not_read_ahead_for_ever(monkeypatch):
    monkeypatch.setattr("edgecv_runtime.stream.sources.packets._MOST_BYTES", 50)
    given = packets("Kddd" * 50)
    reading = Reading(given, bound_s=None)
    time.sleep(0.3)
    assert reading.reader.arrived < 10
    reading.now_ns = 10**12
    assert [reading.take() for _ in given] == [packet.name for packet in given]
    assert reading.reader.skipped() == {}


def test_silence_is_told_from_an_end_and_an_error_comes_after_what_was_read():
    stop = threading.Event()

    def arriving():
        yield packets("K")[0]
        stop.wait(5)
        raise OSError("reset")

    reading = Reading(arriving())
    assert reading.take() == "K0"
    with pytest.raises(Silence, match=r"0\.[23] s"):
        reading.take(patience_s=0.2)
    stop.set()
    with pytest.raises(OSError, match="reset"):
        reading.take()
    reading.reader.stop()
    assert reading.closed.is_set()


def test_a_stream_of_segments_is_shown_at_its_own_speed():
    now_s = [100.0]
    pacer = Pacer(lambda: now_s[0])
    waits = []
    for number in range(100):  # a burst of 50 frames, 3 s of nothing, another burst
        if number == 50:
            now_s[0] += 3
        wait_s = pacer.wait_s(7 + number * 0.04)
        waits.append(wait_s)
        now_s[0] += wait_s
    assert waits[0] == waits[50] == 0
    assert waits[1:50] == pytest.approx([0.04] * 49)
    assert waits[51:] == pytest.approx([0.04] * 49)
    assert [pacer.wait_s(-1000.0), pacer.wait_s(None)] == pytest.approx([0, 0], abs=1e-9)


@pytest.fixture
def web():
    """An HTTP server; `answers[path]` gets the handler."""
    answers = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # http.server's name
            answers[self.path.partition("?")[0].rpartition("/")[0] or self.path](self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()


def motion_jpeg(count, interval_s):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)  # FFmpeg wants 2 kB to open it
    data = bytes(cv2.imencode(".jpg", noise)[1])

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        handler.end_headers()
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
        for _ in range(count):
            handler.wfile.write(head + data + b"\r\n")
            time.sleep(interval_s)

    return answer


def test_a_road_camera_of_a_few_frames_a_minute_is_no_stall(web):
    place, answers = web
    answers["/"] = motion_jpeg(4, 1.2)
    frames = []
    with (
        pytest.raises(SourceUnavailable, match="lost after 4 frames"),
        open_source(f"{place}/", timeout_s=0.5) as camera,
    ):
        frames.extend(camera)
    assert len(frames) == 4


def test_frames_without_stamps_are_of_when_they_came(web):
    """FFmpeg numbers them at 25 a second, whatever comes: at 15 a second ages grew by 40 % of the time."""
    place, answers = web
    answers["/"] = motion_jpeg(45, 1 / 15)
    with open_source(f"{place}/") as camera:
        seen = [(time.monotonic_ns(), next(camera)) for _ in range(40)]
    assert {frame.pts_s for _, frame in seen} == {None}
    ages_s = sorted((now_ns - frame.captured_ns) / 1e9 for now_ns, frame in seen)
    assert ages_s[0] >= -0.2  # the time is taken before the frame is waited for
    assert seen[-1][1].captured_ns - seen[0][1].captured_ns == pytest.approx(39 / 15 * 1e9, rel=0.25)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.mp4"])
def test_a_recording_that_is_cut_is_so_on_a_server_too(web, tmp_path, name):
    place, answers = web
    data = truncate(remux(BIKES, tmp_path / name, **({"movflags": "faststart"} if "mp4" in name else {}))).read_bytes()

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    answers[f"/{name}"] = answer
    report = run(brightness, f"{place}/{name}", isolate=False)
    assert (report.sources[0].ended, report.exit_code) == ("ended_early", 4), report.failures
    assert 50 < report.sources[0].inferred < 200
    assert "declared=" in report.losses[0]


def segments(folder, count):
    """MPEG-TS segments of one second, 25 frames each."""
    for number in range(count):
        with av.open(str(folder / f"{number}.ts"), "w", format="mpegts") as made:
            stream = made.add_stream("libx264", rate=25, options={"preset": "ultrafast", "tune": "zerolatency"})
            stream.height, stream.width = 96, 128
            for at in range(25):
                frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), 4 * at, np.uint8), format="bgr24")
                frame.pts = 25 * number + at
                made.mux(stream.encode(frame))
            made.mux(stream.encode(None))


def test_hls_is_shown_at_its_speed_and_not_dropped_by_the_segment(web, tmp_path):
    place, answers = web
    segments(tmp_path, 20)
    start_s = time.monotonic() - 4

    def playlist(handler):
        head = int(time.monotonic() - start_s)
        lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{head - 3}"]
        lines += [f"#EXTINF:1.0,\nts/{number}.ts" for number in range(head - 3, head)]
        send(handler, "\n".join(lines).encode())

    def send(handler, body):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    answers["/live.m3u8"] = answers["/"] = playlist
    answers["/ts"] = lambda handler: send(handler, (tmp_path / handler.path.rpartition("/")[2]).read_bytes())
    stop = threading.Event()
    timer = threading.Timer(6, stop.set)
    timer.start()
    report = run(brightness, f"{place}/live.m3u8", stop=stop)
    source = report.sources[0]
    assert source.ended == "stopped"
    assert source.live
    assert source.fps == pytest.approx(25, rel=0.25)
    assert source.dropped.get("late", 0) < 0.2 * source.read


def gop(path, seconds):
    """A clip of `seconds` whose only key frame is its first."""
    with av.open(str(path), "w") as made:
        options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "scenecut=0", "g": "1000"}
        stream = made.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width = 96, 128
        for number in range(25 * seconds):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((96, 128, 3), number, np.uint8), format="bgr24")))
        made.mux(stream.encode(None))
    return path


def test_a_picture_may_take_as_long_as_the_group_of_pictures(tmp_path):
    with RtspServer(gop(tmp_path / "long.mp4", 4)) as server, open_source(server.url) as first:
        for _ in range(10):
            next(first)  # the camera runs: who comes now joins within the group
        start_s = time.monotonic()
        with open_source(server.url, timeout_s=1.2) as camera:
            assert next(camera).image.shape == (96, 128, 3)
        assert time.monotonic() - start_s > 1.5, "there was a key frame: nothing was tried"


def test_a_decoder_that_is_too_slow_is_behind_by_a_bound_and_says_so(tmp_path, monkeypatch):
    """The lag is known from outside: the stream's own time against the wall."""
    shot = network.Decoder.shot
    monkeypatch.setattr(network.Decoder, "shot", lambda *arguments: (time.sleep(0.1), shot(*arguments))[1])
    monkeypatch.setattr(network, "BOUND_S", 0.5)
    seen = []
    with RtspServer(gop(tmp_path / "short.mp4", 1)) as server, open_source(server.url) as camera:
        while len(seen) < 40:
            shot_now = camera.next_shot()
            seen.append((time.monotonic_ns() / 1e9, shot_now))
    start_s, first = seen[0]
    lags_s = [now_s - start_s - (each.pts_s - first.pts_s) for now_s, each in seen]
    ages_s = [now_s - each.captured_ns / 1e9 for now_s, each in seen]
    unknown_s = [age_s - lag_s for age_s, lag_s in zip(ages_s, lags_s, strict=True)][10:]  # the first lay in FFmpeg
    assert max(unknown_s) - min(unknown_s) < 0.15
    assert 0.3 < max(ages_s) < 2.0  # the bound and a group of pictures
    assert sum(each.skipped.get("undecoded", 0) for _, each in seen) >= 30


def test_udp_where_it_is_asked_for_and_where_there_is_nothing_else():
    with RtspServer(BIKES, udp_only=True) as server, open_source(server.url) as camera:
        assert next(camera).image.shape == (272, 640, 3)
    with RtspServer(BIKES) as server, open_source(server.url.replace("rtsp:", "rtsp+udp:")) as camera:
        assert next(camera).image.shape == (272, 640, 3)
        assert camera.name.startswith("rtsp+udp://")
