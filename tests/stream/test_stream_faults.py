"""Every fault of a network camera, by a real RTSP server and a proxy that breaks it: noticed, told, survived."""

from __future__ import annotations

import json
import signal
import threading
import time
from itertools import islice

import pytest
from fault_proxy import FaultProxy
from faults import FAULTS, Bench, Watch
from stream_lab import CARPHONE, brightness, encode, refused_port, run_python, tcp_server

from edgecv_runtime.stream import CallbackSink, FakeCamera, FileSource, Settings, Stream, Waits, open_source
from edgecv_runtime.stream.sources.fake import Frames

SOON = Waits(first_s=0.1, longest_s=0.4)


class Running:
    """A stream of a camera and of one that nothing happens to, in a thread; at the end the account must close."""

    def __init__(self, url, *, timeout_s=1.2, stall_s=0.8, waits=SOON):
        self.other = FakeCamera([Frames(10**6)], fps=25, name="other")
        self.frames = []
        source = open_source(url, timeout_s=timeout_s)
        sink = CallbackSink(lambda frame, _: self.frames.append(frame))
        settings = Settings(stall_s=stall_s, waits=waits)
        self.stream = Stream(brightness, [source, self.other], [sink], settings)
        self.watch = Watch(source.name)
        self.others = Watch("other")
        self.stream.journal.subscribe(self.watch)
        self.stream.journal.subscribe(self.others)
        self.stop = threading.Event()
        self.reports = []
        self.thread = threading.Thread(target=lambda: self.reports.append(self.stream.run(self.stop)))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *failed):
        self.stop.set()
        self.thread.join(5)
        if failed[0] is None:
            report = self.reports[0]
            for each in report.sources:
                assert each.read == each.inferred + each.failed + sum(each.dropped.values())
            assert [event.state for event in self.others.events] == ["connecting", "live", "ended"]
            indices = [frame.index for frame in self.frames if frame.source == self.watch.name]
            assert indices == sorted(set(indices))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed_told_and_survived(name):
    fault = FAULTS[name]
    with Bench() as bench, Running(bench.url) as running:
        running.watch.wait("live")
        time.sleep(1.2)  # what is joined between key frames is over
        seen = len(running.watch.events)
        start_s = time.monotonic()
        fault.cause(bench)
        noticed = running.watch.wait(*fault.states, after=seen)
        assert time.monotonic() - start_s < 3
        assert noticed.reason
        fault.end(bench)
        if noticed.state != "degraded":
            running.watch.wait("live", after=seen)
        else:
            time.sleep(0.5)
        attempts = running.watch.events[-1].attempt
        assert attempts > 1 if fault.reconnects else attempts >= 1
        frames = len(running.frames)
        time.sleep(0.5)
        assert len(running.frames) > frames + 5


def test_a_freeze_that_lasts_ends_the_connection_and_a_new_one_comes():
    with Bench() as bench, Running(bench.url) as running:
        running.watch.wait("live")
        seen = len(running.watch.events)
        bench.proxy.mode = "black hole"
        running.watch.wait("backing off", after=seen)
        reasons = {event.reason.partition(" for ")[0] for event in running.watch.events if event.state == "backing off"}
        assert reasons <= {"stalled: no frame", "no answer within 1.2 s"}
        seen = len(running.watch.events)
        bench.proxy.mode = "pass"
        assert running.watch.wait("live", after=seen).attempt >= 2


def test_a_camera_that_is_absent_at_the_start_comes():
    with Bench(mode="reset") as bench, Running(bench.url) as running:
        running.watch.wait("backing off")
        assert not running.frames or {frame.source for frame in running.frames} == {"other"}
        bench.proxy.mode = "pass"
        assert running.watch.wait("live").attempt >= 2


def test_another_size_and_codec_after_a_restart_are_told_and_right(tmp_path):
    with FileSource(CARPHONE) as clip:
        pictures = [frame.image for frame in islice(clip, 60)]
    other = encode(pictures, tmp_path / "other.mp4", "libx265")
    with Bench() as bench, Running(bench.url) as running:
        assert running.watch.wait("live").reason == "h264 640x272 25 fps"
        seen = len(running.watch.events)
        bench.kill()
        running.watch.wait("backing off", after=seen)
        bench.restart(other)
        assert running.watch.wait("live", after=seen).reason.startswith("hevc 192x144")
        time.sleep(0.5)
    sizes = [(frame.connection, frame.image.shape) for frame in running.frames if frame.source == running.watch.name]
    assert set(sizes) == {(1, (272, 640, 3)), (2, (144, 192, 3))}


def test_what_no_retry_mends_is_told_apart_and_tried_slowly(camera, guarded_camera):
    urls = {
        guarded_camera.with_login("admin:canary-wrong"): "the user name or password was refused (401)",
        camera.url.replace("/cam", "/nowhere"): "the camera answers, but has no such path (404)",
    }
    for url, reason in urls.items():
        with Running(url) as running:
            told = running.watch.wait("backing off").reason
            assert told.startswith(reason)
            time.sleep(0.3)
        report = running.reports[0]
        assert report.sources[0].attempts <= 4
        assert report.exit_code == 3
        assert "canary" not in "".join(map(str, running.watch.events))
    with Running(guarded_camera.url, waits=Waits()) as running:
        assert float(running.watch.wait("backing off").reason.rsplit("in ", 1)[1].split()[0]) >= 10
        time.sleep(0.5)
    assert running.reports[0].sources[0].attempts == 1


STATES = """
import sys
from edgecv_runtime.stream import run, stop_on_signals, open_source, JsonLinesSink
from stream_lab import brightness
def tell(event):
    print(event.state, file=sys.stderr, flush=True)
with stop_on_signals() as stop:
    source = open_source(sys.argv[1], timeout_s=float(sys.argv[3]))
    report = run(brightness, source, [JsonLinesSink(sys.argv[2])], stop=stop, on_event=tell)
each = report.sources[0]
print(each.ended, each.in_flight, each.read == each.inferred + each.failed + sum(each.dropped.values()))
"""


@pytest.mark.parametrize("state", ["connecting", "live", "stalled", "backing off"])
def test_sigterm_in_every_state_ends_in_order(state, camera, tmp_path):
    with tcp_server() as silent, FaultProxy(camera.port) as proxy:
        urls = {"connecting": f"rtsp://127.0.0.1:{silent}/x", "backing off": f"rtsp://127.0.0.1:{refused_port()}/x"}
        process = run_python(STATES, urls.get(state, proxy.url), tmp_path / "o.jsonl", 30)
        for line in process.stderr:
            if line.strip() == "live" and state == "stalled":
                time.sleep(0.5)
                proxy.mode = "freeze"
            if line.strip() == state:
                break
        time.sleep(0.5)
        start_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=10)
    assert time.monotonic() - start_s < 2.3  # the stop, and the end of the interpreter
    assert (process.returncode, printed) == (0, "stopped 0 True\n")
    assert errors.split()[-1] == "ended"
    assert set(errors.split()) <= {"connecting", "backing", "off", "ended"}
    if (tmp_path / "o.jsonl").exists():
        for line in (tmp_path / "o.jsonl").read_text().splitlines():
            json.loads(line)
