"""The loop: every frame accounted for, whatever sources, model and sinks do, and an end within two seconds."""

from __future__ import annotations

import json
import signal
import threading
import time

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_lab import BIKES, CARPHONE, brightness, remux, run_python, tcp_server, truncate

from edgecv_runtime import records
from edgecv_runtime.errors import BadInput, ComputationError, EdgecvError, SourceUnavailable
from edgecv_runtime.stream import CallbackSink, FakeCamera, JsonLinesSink, Sink, StreamReport, open_source, run
from edgecv_runtime.stream.report import Percentiles
from edgecv_runtime.stream.sources.fake import Fail, Frames, Freeze, HangUp, number_of


def accounts_close(report):
    for source in report.sources:
        assert source.in_flight == 0
        assert source.read == source.inferred + source.failed + sum(source.dropped.values())
    inferred = sum(source.inferred for source in report.sources)
    for sink in report.sinks:
        assert sink.in_flight == 0
        assert inferred == sink.delivered + sink.failed + sum(sink.dropped.values())


frames = st.builds(Frames, st.integers(0, 25), size=st.sampled_from([(4, 4), (6, 8)]))
step = st.one_of(
    frames,
    frames,
    st.builds(Freeze, st.floats(0, 0.003)),
    st.just(Fail()),
    st.just(HangUp()),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scripts=st.lists(st.lists(step, min_size=1, max_size=4), min_size=1, max_size=3),
    when_late=st.sampled_from(["auto", "wait", "drop-oldest", "drop-newest"]),
    model_fails=st.sets(st.integers(0, 30)),
    sink_fails=st.sets(st.integers(0, 30)),
    pause_s=st.sampled_from([0, 0.0005, 0.002]),
    max_frames=st.none() | st.integers(1, 10),
)
def test_any_run_accounts_for_every_frame(scripts, when_late, model_fails, sink_fails, pause_s, max_frames):
    given_frames, modelled, sunk = [], [], []

    def model(image):
        time.sleep(pause_s)
        modelled.append(number_of(image))
        if number_of(image) in model_fails:
            raise ArithmeticError("no")
        return brightness(image)

    def sink(frame, _):
        sunk.append((frame.source, frame.index))
        if frame.index in sink_fails:
            raise OSError("full")

    cameras = [FakeCamera(script, name=f"camera{n}") for n, script in enumerate(scripts)]
    report = run(model, cameras, [CallbackSink(sink)], when_late=when_late, max_frames=max_frames, max_failures=10**6)
    given_frames = sum(camera.frames_read for camera in cameras)
    accounts_close(report)
    read = sum(source.read for source in report.sources)
    assert given_frames - len(cameras) <= read <= given_frames  # one may come in the moment of the stop
    assert len(modelled) == sum(source.inferred + source.failed for source in report.sources)
    assert len(sunk) == len(set(sunk)) == report.sinks[0].delivered + report.sinks[0].failed
    heard = report.sinks[0].state == "up"  # a recording ends where nobody takes its results any more
    for source, script in zip(report.sources, scripts, strict=True):
        if when_late in ("auto", "wait") and max_frames is None and heard:
            before = [step for step in script if isinstance(step, (Frames, Fail, HangUp))]
            last = next((n for n, step in enumerate(before) if not isinstance(step, Frames)), len(before))
            assert source.read == sum(step.count for step in before[:last])
            assert source.dropped == {}
        if max_frames is not None:
            assert source.inferred + source.failed <= max_frames


def test_a_file_is_inferred_completely_and_the_report_is_json():
    report = run(brightness, BIKES)
    source = report.sources[0]
    assert (source.read, source.inferred, source.declared_frames) == (250, 250, 250)
    assert (source.ended, source.dropped, source.failed, source.damaged) == ("end of file", {}, 0, 0)
    assert source.age.runs == source.inference.runs == 250
    assert 0 < source.inference.p50_ms <= source.inference.p90_ms <= source.inference.p99_ms <= source.inference.max_ms
    assert source.fps > 25
    assert (report.exit_code, report.losses) == (0, ())
    report.check()
    assert records.decode(records.encode(report), StreamReport, "report") == report


def test_several_sources_are_served_in_turn():
    order = []
    cameras = [FakeCamera([Frames(30)], name=name) for name in ("a", "b", "c")]

    def slow(image):
        time.sleep(0.003)  # so that every camera always has a frame waiting
        return brightness(image)

    report = run(slow, cameras, [CallbackSink(lambda frame, _: order.append(frame.source))])
    assert [source.inferred for source in report.sources] == [30, 30, 30]
    assert all(abs(order[:60].count(name) - 20) <= 4 for name in "abc")
    accounts_close(report)


def test_equal_names_are_told_apart():
    report = run(brightness, ["fake:5", "fake:5"])
    assert [source.name for source in report.sources] == ["fake:5", "fake:5#2"]
    assert [source.inferred for source in report.sources] == [5, 5]
    camera = FakeCamera([Frames(5)])
    with pytest.raises(BadInput, match="given twice"):
        run(brightness, [camera, camera])


def test_one_source_that_fails_leaves_the_others_alone():
    report = run(brightness, ["fake:30", "fake:5,fail", "fake:5,end"])
    assert [source.ended for source in report.sources] == ["end of file", "error", "ended_early"]
    assert [source.inferred for source in report.sources] == [30, 5, 5]
    assert report.sources[1].detail == "fake:5,fail: unplugged"
    assert report.exit_code == 3
    with pytest.raises(SourceUnavailable, match="unplugged"):
        report.check()


def test_a_truncated_file_is_a_loss(tmp_path):
    path = truncate(remux(BIKES, tmp_path / "cut.mp4", movflags="faststart"))
    report = run(brightness, path)
    source = report.sources[0]
    assert (source.ended, source.detail) == ("ended_early", f"declared=250 read={source.read}")
    assert report.exit_code == 4
    assert f"ended_early declared=250 read={source.read}" in report.losses[0]
    with pytest.raises(EdgecvError, match="ended_early"):
        report.check()


def test_what_is_no_video_has_the_exit_code_of_bad_input(tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    report = run(brightness, tmp_path / "text.mp4")
    assert (report.sources[0].ended, report.exit_code) == ("error", 2)
    with pytest.raises(BadInput, match="not a video"):
        report.check()
    with pytest.raises(BadInput):
        run(brightness, tmp_path / "missing.mp4")
    with pytest.raises(BadInput, match="no sources"):
        run(brightness, [])
    with pytest.raises(BadInput, match="max_frames must be at least 1"):
        run(brightness, "fake:5", max_frames=0)
    with pytest.raises(BadInput, match="when_late must be one of drop-oldest, drop-newest, wait"):
        run(brightness, "fake:5", when_late="never")


def test_a_model_that_fails_sometimes_is_counted():
    def model(image):
        if number_of(image) % 3 == 0:
            raise ValueError(f"frame {number_of(image)} of rtsp://u:canary1@h/x is odd")
        return brightness(image)

    report = run(model, "fake:30", [CallbackSink(lambda *_: None)])
    assert (report.sources[0].inferred, report.sources[0].failed) == (20, 10)
    assert report.first_failure == "ValueError: frame 0 of rtsp://u:***@h/x is odd"
    assert report.exit_code == 4
    accounts_close(report)


def test_a_model_that_always_fails_ends_the_run():
    def model(_):
        raise RuntimeError("no device")

    report = run(model, "fake:1000", [CallbackSink(lambda *_: None)], max_failures=30)
    source = report.sources[0]
    assert source.failed == 30
    assert (source.ended, source.detail) == ("error", "the model failed for 30 frames in a row")
    assert (report.gave_up, report.exit_code, report.first_failure) == (True, 5, "RuntimeError: no device")
    accounts_close(report)
    with pytest.raises(ComputationError, match="no device"):
        report.check()


def test_a_sink_that_always_fails_is_given_up_and_the_others_go_on():
    asked = []

    def full(frame, _):
        asked.append(frame.index)
        raise OSError(28, "No space left on device", "rtsp://u:canary1@h")

    sink = CallbackSink(full, name="full")
    sink.patience_s = 0.2
    report = run(brightness, "fake:100", [sink, CallbackSink(lambda *_: None)])
    assert asked[:3] == [0, 1, 2]
    assert len(asked) <= 5  # the others were dropped while it was down
    assert [sink.delivered for sink in report.sinks] == [0, 100]
    assert report.sinks[0].failed + report.sinks[0].dropped["down"] == 100
    assert (report.sinks[0].state, report.sinks[1].state) == ("down", "up")
    assert "canary" not in str(report)
    assert report.exit_code == 4
    accounts_close(report)
    report = run(brightness, "fake:100000", [sink])
    assert (report.sources[0].ended, report.sources[0].detail) == ("error", "every sink failed")
    assert report.sources[0].read < 1000
    accounts_close(report)


def test_a_sink_that_fails_when_it_closes_is_a_loss():
    class Late(CallbackSink):
        def close(self):
            raise OSError("disk full")

    report = run(brightness, "fake:3", [Late(lambda *_: None)])
    assert report.sinks[0].error == "OSError: disk full"
    assert report.exit_code == 4


def test_cameras_drop_the_oldest_and_stay_young():
    def slow(image):
        time.sleep(0.05)
        return brightness(image)

    report = run(slow, "fake:fps=100,120")
    source = report.sources[0]
    assert (source.when_late, source.live, source.read) == ("drop-oldest", True, 120)
    assert source.dropped["late"] > 50
    assert source.age.p50_ms < 50 + 50  # the model, and at most the wait for it
    assert report.exit_code == 0  # by policy


def test_max_frames_is_exact():
    report = run(brightness, [BIKES, "fake:fps=200,100"], max_frames=20)
    file, camera = report.sources
    assert (file.read, file.inferred, file.dropped, file.ended) == (20, 20, {}, "max_frames")
    assert (camera.inferred, camera.ended) == (20, "max_frames")
    assert report.exit_code == 0


def test_what_happens_is_told_as_it_happens(tmp_path):
    seen, told = [], []

    class Listening(CallbackSink):
        def event(self, event):
            told.append(event)

    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((4, 4, 3), np.uint8))
    sources = ["fake:fps=200,5", "fake:3,fail", tmp_path]
    run(brightness, sources, [Listening(lambda *_: None)], on_event=seen.append)
    states = {name: [event.state for event in seen if event.name == name] for name in {event.name for event in seen}}
    assert states == {
        "fake:fps=200,5": ["connecting", "live", "ended"],
        "fake:3,fail": ["connecting", "live", "failed"],
        str(tmp_path): ["connecting", "live", "ended"],
    }
    assert [str(event) for event in seen if event.state == "failed"] == ["fake:3,fail: failed: unplugged"]
    for name in states:  # each source tells in its own thread
        times = [event.monotonic_ns for event in seen if event.name == name]
        assert times == sorted(times)
    assert abs(seen[0].unix_s - time.time()) < 60
    assert all(event.attempt == 1 for event in seen)
    assert sorted(told, key=id) == sorted(seen, key=id)


def test_progress_is_told_while_frames_come_and_while_none_do():
    seen = []
    run(brightness, "fake:fps=100,60,freeze=1,10", on_progress=seen.append)
    assert len(seen) >= 3
    assert all(report.sources[0].ended == "running" for report in seen)
    assert seen[0].sources[0].inferred < seen[-1].sources[0].inferred
    json.loads(records.encode(seen[0]))


def test_an_exception_in_the_callers_thread_closes_everything():
    closed = []

    class Watched(CallbackSink):
        def close(self):
            closed.append(True)

    def interrupt(_):
        raise KeyboardInterrupt

    before = threading.active_count()
    camera = FakeCamera([Frames(100)], fps=100)
    with pytest.raises(KeyboardInterrupt):
        run(interrupt, camera, [Watched(lambda *_: None)])
    assert closed == [True]
    assert list(camera) == []
    assert threading.active_count() == before


class Stuck(Sink):
    """A sink that hangs in its first write, until it is released."""

    name = "stuck"

    def __init__(self):
        self.release = threading.Event()

    def write(self, output):
        self.release.wait(20)

    def close(self):
        pass


def stopped_after(seconds, source, sinks=(), model=brightness, wants="stopped", isolate=True):
    """Run, set `stop` after some seconds; (report, how long it then took)."""
    stop = threading.Event()
    moment = []
    timer = threading.Timer(seconds, lambda: (moment.append(time.monotonic()), stop.set()))
    timer.start()
    report = run(model, source, sinks, stop=stop, isolate=isolate)
    took_s = time.monotonic() - moment[0]
    assert {source.ended for source in report.sources} == {wants}
    accounts_close(report)
    return report, took_s


def test_stop_while_a_camera_is_read(tmp_path):
    report, took_s = stopped_after(0.3, "fake:fps=50,10000", [JsonLinesSink(tmp_path / "o.jsonl")])
    assert took_s < 1
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert len(lines) == report.sinks[0].delivered == report.sources[0].inferred
    assert report.exit_code == 0


def test_stop_while_a_file_is_read(tmp_path):
    _, took_s = stopped_after(0.2, [BIKES] * 2, model=lambda image: time.sleep(0.01) or brightness(image))
    assert took_s < 1


def test_stop_while_a_source_is_frozen_or_opening():
    _, took_s = stopped_after(0.2, FakeCamera([Freeze(60)], timeout_s=100))
    assert took_s < 1
    _, took_s = stopped_after(0.2, FakeCamera([Frames(1)], open_s=60, timeout_s=100))
    assert took_s < 1


def test_stop_while_a_silent_peer_is_opened():
    with tcp_server() as port:
        source = open_source(f"rtsp://127.0.0.1:{port}/cam", timeout_s=2.5)
        report, took_s = stopped_after(0.3, source, isolate=False)
        assert took_s < 2
        assert report.sources[0].detail == "inside a read or an open, which ends by itself within 2.5 s"
        reader = next(thread for thread in threading.enumerate() if thread.name.startswith("edgecv-read rtsp"))
        reader.join(5)  # it lets go by itself
        assert not reader.is_alive()


def test_stop_while_a_silent_peer_is_opened_by_a_child():
    with tcp_server() as port:
        report, took_s = stopped_after(1.0, open_source(f"rtsp://127.0.0.1:{port}/cam", timeout_s=5))
    assert took_s < 1.5
    assert report.sources[0].detail == ""


def test_stop_while_a_real_camera_is_frozen(camera):
    import os

    stop = threading.Event()
    progress = []

    def freeze(report):
        if report.sources[0].inferred > 10 and not progress:
            progress.append(time.monotonic())
            os.kill(camera.process.pid, signal.SIGSTOP)
            threading.Timer(0.5, stop.set).start()

    try:
        report = run(brightness, open_source(camera.url, timeout_s=3), stop=stop, on_progress=freeze)
    finally:
        os.kill(camera.process.pid, signal.SIGCONT)
    assert time.monotonic() - progress[0] < 0.5 + 2
    assert report.sources[0].ended == "stopped"
    accounts_close(report)


def test_stop_while_a_sink_hangs():
    sink = Stuck()
    for source in ("fake:100000", "fake:fps=100,100000"):
        report, took_s = stopped_after(0.3, source, [sink, CallbackSink(lambda *_: None)])
        assert took_s < 2
        assert report.sinks[0].delivered == 0
        assert report.sinks[0].dropped["stopped"] > 0
        assert report.sinks[0].error == "did not finish within 1.5 s of the stop"
        assert report.sinks[1].error is None
    sink.release.set()


def test_stop_while_a_sink_closes():
    class Closing(Stuck):
        def write(self, output):
            pass

        def close(self):
            self.release.wait(20)

    sink = Closing()
    report, took_s = stopped_after(0.3, "fake:20", [sink], wants="end of file")
    assert took_s < 2
    assert report.sinks[0].delivered == 20
    assert report.sinks[0].error == "did not finish within 1.5 s of the stop"
    assert report.exit_code == 4  # the sink is not known to be whole
    sink.release.set()


class SeenLate(threading.Event):
    """An event that the main thread, on a busy machine, comes late to look at."""

    def is_set(self):
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.3)
        return super().is_set()


def test_stop_before_the_start():
    stop = SeenLate()
    stop.set()
    report = run(brightness, CARPHONE, stop=stop, isolate=False)
    assert report.sources[0].ended == "stopped"
    assert report.sources[0].inferred == 0


SIGTERM = """
import sys, time
from edgecv_runtime.stream import run, stop_on_signals, open_source, JsonLinesSink
from stream_lab import brightness
def model(image):
    print("first", file=sys.stderr, flush=True)
    return brightness(image)
with stop_on_signals() as stop:
    print("ready", file=sys.stderr, flush=True)
    report = run(model, open_source(sys.argv[1], timeout_s=20), [JsonLinesSink(sys.argv[2])], stop=stop)
print(report.sources[0].ended, report.sources[0].in_flight)
"""


@pytest.mark.parametrize("state", ["opening", "reading"])
def test_sigterm_ends_a_process_within_two_seconds(state, camera, tmp_path):
    with tcp_server() as silent:
        url = camera.url if state == "reading" else f"rtsp://admin:canary-77@127.0.0.1:{silent}/cam"
        process = run_python(SIGTERM, url, tmp_path / "o.jsonl")
        assert process.stderr.readline() == "ready\n"
        if state == "reading":
            assert process.stderr.readline() == "first\n"
        time.sleep(0.4)
        start_s = time.monotonic()
        process.send_signal(signal.SIGTERM)
        printed, errors = process.communicate(timeout=10)
    assert time.monotonic() - start_s < 2.3  # the stop, and the end of the interpreter
    assert process.returncode == 0
    assert printed == "stopped 0\n"
    assert set(errors.splitlines()) <= {"first"}  # no word from FFmpeg, no crash
    assert (tmp_path / "o.jsonl").exists() == (state == "reading")
    if state == "reading":
        for line in (tmp_path / "o.jsonl").read_text().splitlines():
            json.loads(line)


def test_the_password_appears_nowhere(guarded_camera, tmp_path):
    """Over every output of a process that meets each fault: streams, report, JSON lines, thread names, tracebacks."""
    code = """
import sys, threading, traceback
import av
from edgecv_runtime import records
from edgecv_runtime.stream import run, open_source, JsonLinesSink, Camera
from stream_lab import brightness
av.logging.set_level(av.logging.VERBOSE)  # PyAV's own messages then carry FFmpeg's log
for url in sys.argv[2:]:
    source = open_source(url, timeout_s=0.7)
    print(source, [thread.name for thread in threading.enumerate()])
    report = run(brightness, source, [JsonLinesSink(sys.argv[1])], max_frames=3, reconnect=False)
    sys.stdout.buffer.write(records.encode(report))
    try:
        with open_source(url, timeout_s=0.7) as source:
            print(next(source))
    except Exception:
        traceback.print_exc()
"""
    with tcp_server() as silent, tcp_server(lambda peer: peer.sendall(b"RTSP/1.0 500 Oops\r\n\r\n")) as broken:
        urls = [
            guarded_camera.with_login("admin:canary%407%2F%2541"),
            guarded_camera.with_login("admin:canary-wrong"),
            guarded_camera.with_login("admin:canary%407%2F%2541").replace("/cam", "/none"),
            f"rtsp://admin:canary-1@127.0.0.1:{silent}/x",
            f"rtsp://admin:canary-2@127.0.0.1:{broken}/x",
            f"http://admin:canary-3@127.0.0.1:{broken}/x?token=canary-4",
            "rtsp://admin:canary-5@no-such-host.invalid/x",
            "rtsp://admin:canary-6@127.0.0.1:1/x",
        ]
        process = run_python(code, tmp_path / "o.jsonl", *urls)
        printed, errors = process.communicate(timeout=40)
    assert process.returncode == 0, errors
    assert printed.count('"wall_s"') == len(urls)
    assert '"inferred": 3' in printed
    assert "401" in printed
    everything = printed + errors + (tmp_path / "o.jsonl").read_text()
    assert "canary" not in everything


def test_importing_streams_is_light():
    code = "import sys, edgecv_runtime.stream; print(sorted({'av', 'cv2', 'torch'} & set(sys.modules)))"
    assert run_python(code).communicate()[0] == "[]\n"


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=200))
def test_percentiles_are_within_one_percent(values_ms):
    percentiles = Percentiles()
    for value_ms in values_ms:
        percentiles.add(value_ms)
    spread = percentiles.spread()
    exact = np.percentile(values_ms, [50, 90, 99], method="inverted_cdf")
    got = np.array([spread.p50_ms, spread.p90_ms, spread.p99_ms])
    assert (np.abs(got - exact) <= 0.01 * exact + 0.0006).all()  # 1 %, and rounding to microseconds
    assert spread.max_ms == round(max(values_ms), 3)
    assert spread.runs == len(values_ms)


def test_no_percentiles_of_nothing():
    assert Percentiles().spread() is None
