"""Cameras that come, go and come back in one run, and what a frame may meet between two moments."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter

import numpy as np
import pytest
from stream_lab import Brightness, brightness

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream import CallbackSink, FakeCamera, Settings, Sink, Stream, Waits, open_source, run
from edgecv_runtime.stream.sources import Shot, ring
from edgecv_runtime.stream.sources.base import Facts
from edgecv_runtime.stream.sources.child import Child
from edgecv_runtime.stream.sources.fake import Frames, number_of, numbered
from edgecv_runtime.stream.sources.isolated import Isolated


def during(stream, act):
    """The report of a run in which `act` is called in a thread of its own, and which ends when that has returned."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: (act(), stop.set()))
    thread.start()
    try:
        return stream.run(stop)
    finally:
        thread.join()


def camera(name, fps=50, count=10**6):
    return FakeCamera([Frames(count, (24, 32))], fps=fps, name=name)


def test_a_picture_is_read_in_the_memory_that_it_lies_in():
    """Oracle: the pictures hold their number. A busy reader finds pictures of two sizes and two memories at once."""
    source = Isolated(open_source("test://?size=320x240&3&size=640x480&6"), lossless=True)
    with source:
        time.sleep(0.5)
        for number in range(9):
            shot = source.next_shot()
            np.testing.assert_array_equal(shot.image, numbered(number, (240, 320) if number < 3 else (480, 640)))
            del shot
    spoilt = []

    def model(image):
        time.sleep(0.02)
        if not np.array_equal(image, numbered(number_of(image), image.shape[:2])):
            spoilt.append(image.shape)
        return Brightness(0.0)

    source = Isolated(open_source("test://?size=320x240&10&size=640x480&10&size=1280x720&10"))
    assert run(model, source, when_late="wait").sources[0].inferred == 30
    assert spoilt == []


def test_what_a_source_left_out_is_counted_also_where_its_frame_is_left_out_too():
    ours, theirs = socket.socketpair()
    child, inbox = Child(theirs), ring.Inbox(ours)
    picture = np.zeros((8, 8, 3), np.uint8)
    for _ in range(5):
        child._hand_over(Shot(picture, skipped={"undecoded": 10}), wait=False)
    child._free.add(0)
    child._hand_over(Shot(picture, skipped={"undecoded": 10}), wait=False)
    told = Counter()
    while told["pictures"] < ring.SLOTS + 1:
        for message in inbox.receive():
            if isinstance(message, ring.Picture):
                told.update({"pictures": 1, **message.skipped})
    assert told == {"pictures": ring.SLOTS + 1, "late": 5 - ring.SLOTS, "undecoded": 60}
    ours.close()
    theirs.close()


def test_sources_of_one_name_are_told_apart_however_many_there_are():
    stream = Stream(brightness, [camera("cam"), camera("cam"), camera("cam#2")])
    assert [each.name for each in stream.cameras] == ["cam", "cam#2", "cam#2#2"]
    report = during(stream, lambda: [stream.add(camera("cam")) for _ in range(2)] and time.sleep(0.3))
    assert [each.name for each in report.sources] == ["cam", "cam#2", "cam#2#2", "cam#3", "cam#4"]
    assert all(each.inferred for each in report.sources)
    with pytest.raises(BadInput, match="the stream has ended"):
        stream.add(camera("late"))


@pytest.mark.parametrize("most", [10, 11])
def test_frames_that_a_rate_leaves_out_are_none_of_max_frames(most):
    recording = FakeCamera([Frames(200, (24, 32))], fps=25, name="recording")
    recording._open = lambda: Facts(live=False, fps=25)
    stream = Stream(brightness, [], settings=Settings(max_frames=most))
    stream.add(recording, max_fps=5)
    assert stream.run().sources[0].inferred == most


def test_a_camera_that_comes_back_goes_on_in_its_account_and_its_figures():
    got = []
    sink = CallbackSink(lambda frame, _: got.append((frame.connection, frame.index)) if frame.source == "cam" else None)
    stream = Stream(brightness, [camera("cam"), camera("other", fps=5)], [sink])

    def again():
        time.sleep(0.6)
        stream.remove("cam")
        stream.add(camera("cam"))
        time.sleep(0.6)

    sources = during(stream, again).sources
    assert [each.name for each in sources] == ["cam", "other"]  # the page asks for pictures by these numbers
    source = sources[0]
    assert sorted({connection for connection, _ in got}) == [1, 2]
    assert [index for _, index in got] == sorted({index for _, index in got})
    assert source.inferred == len(got)
    assert 30 < source.fps < 60


class Stuck(FakeCamera):
    """Its read does not come back for a while, as one inside a driver."""

    def _shots(self):
        yield from super()._shots()
        time.sleep(0.8)


def test_a_camera_that_is_stuck_when_it_is_removed_says_nothing_into_its_next_life():
    """A broker that keeps the last state of each camera showed the new one as ended, for ever."""
    stuck = Stuck([Frames(5, (24, 32))], fps=50, name="cam")
    stream = Stream(brightness, [stuck, camera("other", fps=5)])
    told = []
    stream.journal.subscribe(lambda event: told.append(event.state) if event.name == "cam" else None)

    def again():
        time.sleep(0.4)
        stream.remove("cam")
        stream.add(camera("cam"))
        time.sleep(1.2)
        told.append(stream.journal.latest("source", "cam").state)

    during(stream, again)
    assert told.pop(-2) == "live"
    assert told == ["connecting", "live", "ended", "connecting", "live", "ended"]


def test_a_model_that_gave_up_on_a_camera_is_not_forgotten_when_that_comes_back():
    fails = [True]

    def model(image):
        if fails[0]:
            raise ArithmeticError("no")
        return Brightness(0.0)

    stream = Stream(model, [camera("cam"), camera("other", fps=5)], settings=Settings(max_failures=5))

    def again():
        time.sleep(0.4)
        fails[0] = False
        stream.add(camera("cam"))
        time.sleep(0.3)

    assert during(stream, again).exit_code == 5


class Slow(Sink):
    """Takes its time to choose."""

    name = "slow"

    def __init__(self):
        self.got = []

    def select(self, output):
        time.sleep(0.15)
        return output

    def write(self, output):
        self.got.append(output.frame.index)

    def close(self):
        pass


def test_the_last_result_reaches_a_sink_that_takes_its_time():
    sink = Slow()
    report = run(brightness, FakeCamera([Frames(5, (24, 32))]), [sink])
    assert sink.got == [0, 1, 2, 3, 4]
    assert report.sinks[0].dropped == {}


class Hanging(Sink):
    """Fails three times, and then hangs in the try to come back."""

    name = "hanging"
    patience_s = 0.1

    def __init__(self):
        self.tries = 0

    def write(self, output):
        self.tries += 1
        if self.tries > 3:
            time.sleep(1.2)
        raise OSError("away")

    def close(self):
        pass


def test_what_waits_for_a_sink_that_hangs_is_bounded():
    sink, well = Hanging(), CallbackSink(lambda *_: None)  # with none that is well a recording would end
    frames = FakeCamera([Frames(10**6, (24, 32))])
    stream = Stream(brightness, [frames], [sink, well], Settings(waits=Waits(first_s=0.2)))
    waiting = []

    def look():
        end = time.monotonic() + 20
        while sink.tries <= 3 and time.monotonic() < end:  # until it hangs
            time.sleep(0.02)
        for _ in range(10):
            time.sleep(0.1)
            waiting.append(len(stream._deliveries[0]._outputs))

    during(stream, look)
    assert 0 < max(waiting) <= 16


def test_an_answer_of_another_length_is_a_failure_of_its_frames_and_ends_nothing():
    def model(given):
        return [Brightness(0.0)] if isinstance(given, list) else Brightness(0.0)

    report = run(model, [FakeCamera([Frames(5, (24, 32))], name=name) for name in "ab"], batch=2)
    assert [(each.inferred, each.failed) for each in report.sources] == [(5, 0), (5, 0)]  # one by one, then
