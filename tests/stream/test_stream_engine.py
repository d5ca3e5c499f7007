"""Model and sinks: a failing camera, a hanging model, a sink that is away: the others go on, the account closes."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
from stream_lab import Brightness, brightness, run_python

import edgecv_runtime as rt
from edgecv_runtime import cores
from edgecv_runtime.errors import ComputationError
from edgecv_runtime.stream import CallbackSink, FakeCamera, Settings, Sink, Stream, Waits, run
from edgecv_runtime.stream.engine import Engine
from edgecv_runtime.stream.frame import Frame
from edgecv_runtime.stream.sources.fake import Frames, number_of, numbered

SOON = Waits(first_s=0.1, longest_s=0.2)


def accounts_close(report):
    for source in report.sources:
        assert source.read == source.inferred + source.failed + sum(source.dropped.values())
    inferred = sum(source.inferred for source in report.sources)
    for sink in report.sinks:
        assert inferred == sink.delivered + sink.failed + sum(sink.dropped.values())


class Away(Sink):
    """A sink that does not work for a while after its first frames, as a disk that is full."""

    name = "away"
    patience_s = 5.0

    def __init__(self, away_s, works=5):
        self.away_s, self.works = away_s, works
        self.got = []
        self.until_s = 0.0

    def write(self, output):
        if len(self.got) == self.works and not self.until_s:
            self.until_s = time.monotonic() + self.away_s
        if time.monotonic() < self.until_s:
            raise OSError(28, "No space left on device")
        self.got.append(output.frame.index)

    def close(self):
        pass


def test_a_recording_waits_for_a_sink_that_is_away_for_a_moment():
    sink, events = Away(0.3), []
    report = run(brightness, "fake:60", [sink], waits=SOON, on_event=events.append)
    failed = report.sinks[0].failed
    assert 3 <= failed <= 8  # three make it "down", each try after that is one more
    assert sink.got == [*range(5), *range(5 + failed, 60)]
    assert report.sinks[0].dropped == {}
    assert (report.sinks[0].state, report.exit_code) == ("up", 4)
    states = [(event.state, event.reason) for event in events if event.about == "sink"]
    assert states[0][0] == "down"
    assert states[0][1].startswith("OSError: [Errno 28] No space left on device; next try in 0.1")
    assert states[-1] == ("up", "works again")
    accounts_close(report)


def test_a_camera_does_not_wait_for_a_sink_that_is_away_and_a_sink_that_is_back_gets_frames_again():
    sink = Away(0.4)
    report = run(brightness, FakeCamera([Frames(200)], fps=200), [sink], waits=SOON)
    assert report.sources[0].inferred + sum(report.sources[0].dropped.values()) == 200
    assert report.sinks[0].dropped["down"] > 40
    assert sink.got[-1] > 150
    assert report.sinks[0].state == "up"
    accounts_close(report)


def test_a_recording_with_a_slow_sink_does_not_throttle_a_camera():
    slow = CallbackSink(lambda *_: time.sleep(0.05))
    camera = FakeCamera([Frames(150)], fps=100, name="camera")
    report = run(brightness, [camera, FakeCamera([Frames(15)], name="recording")], [slow])
    live, recording = report.sources
    assert live.inferred > 100  # it was 20 of 205 while the model waited for the recording's sink
    assert recording.inferred == 15
    assert recording.dropped == {}
    sink = report.sinks[0]
    assert sink.failed == 0
    assert sink.dropped["late"] <= live.inferred  # nothing of the recording
    accounts_close(report)


def test_a_sink_gets_every_frame_of_a_recording_even_beside_a_camera():
    got = []

    def slow(frame, _):
        time.sleep(0.01)
        got.append((frame.source, frame.index))

    camera = FakeCamera([Frames(100)], fps=200, name="camera")
    run(brightness, [camera, FakeCamera([Frames(40)], name="recording")], [CallbackSink(slow)])
    assert [index for source, index in got if source == "recording"] == list(range(40))


def test_one_camera_whose_frames_always_fail_ends_alone():
    def model(image):
        if image.shape[0] == 13:
            raise ValueError("thirteen rows")
        return brightness(image)

    cameras = [FakeCamera([Frames(100, size=(13, 8))], name="odd"), FakeCamera([Frames(100)], name="even")]
    report = run(model, cameras, max_failures=10)
    odd, even = report.sources
    assert (odd.ended, odd.failed, odd.detail) == ("error", 10, "the model failed for 10 frames in a row")
    assert (even.ended, even.inferred) == ("end of file", 100)
    assert report.exit_code == 5
    accounts_close(report)


class Batched:
    """A model that says it was tuned for batches, and notes how it is called."""

    class Tuned:
        name, variant = "net", "int8"

        def __init__(self, batch, streams=1):
            self.batch, self.streams = batch, streams

    def __init__(self, batch, fails=(), pause_s=0.0, streams=1):
        self.info = self.Tuned(batch, streams)
        self.sizes, self.fails, self.pause_s = [], fails, pause_s

    def __call__(self, given):
        frames = given if isinstance(given, list) else [given]
        self.sizes.append(len(frames))
        time.sleep(self.pause_s)
        if any(number_of(frame) in self.fails for frame in frames):
            raise ArithmeticError("one of them")
        results = [Brightness(float(number_of(frame))) for frame in frames]
        return results if isinstance(given, list) else results[0]


def test_batches_hold_frames_of_several_sources_and_one_bad_frame_spoils_only_itself():
    model, got = Batched(4, fails={7}, pause_s=0.002), []
    cameras = [FakeCamera([Frames(20)], name=name) for name in "abc"]
    sink = CallbackSink(lambda frame, result: got.append((frame.source, frame.index, result.mean)))
    report = run(model, cameras, [sink])
    assert max(model.sizes) == 4
    assert [each.failed for each in report.sources] == [1, 1, 1]
    assert sorted(got) == [(name, n, float(n)) for name in "abc" for n in range(20) if n != 7]
    accounts_close(report)


def test_a_batch_of_cameras_is_gathered_without_making_them_old():
    model = Batched(4, pause_s=0.004)
    cameras = [FakeCamera([Frames(40)], fps=40, name=name) for name in "abcd"]
    report = run(model, cameras)
    assert np.mean(model.sizes[10:]) > 1.5
    assert all(each.age.p50_ms < 25 + 15 for each in report.sources)  # within a frame time
    one = run(Batched(4), FakeCamera([Frames(80)], fps=100))
    assert one.sources[0].age.p50_ms < 8  # nobody to wait for


@pytest.mark.parametrize("goal", ["latency", "throughput"])
def test_calls_at_once_are_as_many_as_the_model_has_streams(goal, exported):
    """Oracle: the model itself, called with one frame at a time."""
    got, busy, most = [], [], []
    sink = CallbackSink(lambda frame, result: got.append((frame.source, frame.index, result.scores)))
    with rt.load(exported, backend="onnxruntime", precision="float32", goal=goal) as model:
        expected = [model(numbered(n, (240, 320))).scores for n in range(20)]
        call = model._backend.run

        def counted(feeds):
            busy.append(0)
            most.append(len(busy))
            time.sleep(0.005)
            try:
                return call(feeds)
            finally:
                busy.pop()

        model._backend.run = counted
        report = run(model, [FakeCamera([Frames(20)], name=name) for name in "ab"], [sink])
        assert max(most) == model.streams == (1 if goal == "latency" else cores.usable())
    assert sorted((name, n) for name, n, _ in got) == [(name, n) for name in "ab" for n in range(20)]
    for _, n, scores in got:
        np.testing.assert_allclose(scores, expected[n], atol=1e-6)
    accounts_close(report)


def test_a_batch_is_a_setting_too():
    model = Batched(1, pause_s=0.003)
    Stream(model, [FakeCamera([Frames(20)])], settings=Settings(batch=8)).run()
    assert max(model.sizes) > 1


def test_a_model_is_exchanged_between_two_frames_and_none_is_lost():
    def frame(number):
        return Frame(np.zeros((2, 2, 3), np.uint8), 0, number, None, "cam")

    engine = Engine(lambda image: "old")
    assert [done.result for done in engine.infer([frame(0)])] == ["old"]
    new = Batched(2)
    engine.swap(new)
    assert (engine.model_name, engine.batch) == ("<lambda>", 1)
    done = engine.infer([frame(1), frame(2)])
    assert [(each.frame.index, each.model) for each in done] == [(1, "net int8"), (2, "net int8")]
    assert (engine.batch, new.sizes) == (2, [2])

    models, stream = [], None

    def slow(image):
        if number_of(image) == 20:
            stream.swap(new)
        return brightness(image)

    class Watch(CallbackSink):
        def write(self, output):
            models.append((output.frame.index, output.model))

    stream = Stream(slow, [FakeCamera([Frames(60)])], [Watch(lambda *_: None)])
    report = stream.run()
    assert [index for index, _ in models] == list(range(60))
    assert [name for _, name in models] == ["slow"] * 21 + ["net int8"] * 39
    accounts_close(report)


def test_a_model_that_hangs_is_noticed_and_the_rest_is_finished(capfd):
    release, written = threading.Event(), []

    class Closing(CallbackSink):
        def close(self):
            written.append("closed")

    def model(image):
        if number_of(image) == 5:
            release.wait(20)
        return brightness(image)

    events = []
    start_s = time.monotonic()
    source = FakeCamera([Frames(1000)], fps=100)
    report = run(model, source, [Closing(lambda *_: None)], hang_s=0.3, on_event=events.append)
    assert time.monotonic() - start_s < 3
    assert (report.hung, report.exit_code, report.sources[0].detail) == (True, 6, "the model hangs")
    assert report.sources[0].inferred == report.sinks[0].delivered == 5
    assert report.sources[0].dropped["stopped"] >= 1
    assert written == ["closed"]
    accounts_close(report)
    assert [(event.about, event.state) for event in events if event.about == "model"] == [("model", "hanging")]
    assert "in model" in capfd.readouterr().err  # the stacks
    with pytest.raises(ComputationError, match="did not come back"):
        report.check()
    release.set()
    time.sleep(0.1)  # what comes back late is not counted
    accounts_close(report)


HANGING = """
import sys, time
from edgecv_runtime.stream import run, stop_on_signals, JsonLinesSink
def model(image):
    print("first", flush=True)
    time.sleep(60)
with stop_on_signals() as stop:
    report = run(model, "fake:fps=100,1000", [JsonLinesSink(sys.argv[1])], stop=stop)
print(report.sources[0].ended, report.sources[0].in_flight, report.sources[0].dropped["stopped"] > 0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_process_whose_model_hangs(number, tmp_path):
    process = run_python(HANGING, tmp_path / "o.jsonl")
    assert process.stdout.readline() == "first\n"
    start_s = time.monotonic()
    process.send_signal(number)
    printed, errors = process.communicate(timeout=10)
    assert time.monotonic() - start_s < 2.3
    assert (process.returncode, printed, errors) == (0, "stopped 0 True\n", "")
