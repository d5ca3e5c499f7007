"""A camera with many lives: states as events, one continuing account, and the others undisturbed."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from stream_lab import brightness

from edgecv_runtime.errors import SourceUnavailable
from edgecv_runtime.stream import Camera, FakeCamera, Settings, Stream, Waits, run
from edgecv_runtime.stream.sinks import CallbackSink
from edgecv_runtime.stream.sources.base import Facts, Shot, Source
from edgecv_runtime.stream.sources.fake import Fail, Frames, Freeze, HangUp

SOON = Waits(first_s=0.02, longest_s=0.1, slow_first_s=0.1, slow_longest_s=0.2)


def lives(*scripts, fps=200.0, name="cam", timeout_s=5.0):
    """A camera that plays one script after the other, and then does not answer."""
    rest = iter(scripts)

    def make():
        camera = FakeCamera(next(rest, [Fail("no answer")]), fps=fps, name=name, timeout_s=timeout_s)
        camera.again = make
        return camera

    return make()


def told(events, name="cam"):
    return [(event.state, event.reason) for event in events if event.name == name]


def test_a_camera_that_comes_back_goes_on_with_its_numbers():
    events, frames = [], []
    source = lives([Frames(5), Fail()], [Fail("refused")], [Frames(5, size=(6, 8)), HangUp()], [Frames(5)])
    report = run(
        brightness,
        source,
        [CallbackSink(lambda frame, _: frames.append(frame))],
        when_late="wait",
        on_event=events.append,
        waits=SOON,
    )
    assert [frame.index for frame in frames] == list(range(15))
    assert [frame.connection for frame in frames] == [1] * 5 + [2] * 5 + [3] * 5
    assert [state for state, _ in told(events)] == [
        *("connecting", "live", "backing off"),
        *("connecting", "backing off"),
        *("connecting", "live", "backing off"),
        *("connecting", "live", "ended"),
    ]
    reasons = [reason.partition(";")[0] for state, reason in told(events) if state == "backing off"]
    assert reasons == ["unplugged", "refused", "the camera ended the stream after 5 frames"]
    assert [event.attempt for event in events] == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]
    each = report.sources[0]
    assert (each.read, each.connections, each.attempts, each.ended) == (15, 3, 4, "end of file")
    assert (each.state, report.exit_code) == ("ended", 0)


def test_without_reconnecting_the_first_loss_is_the_end():
    report = run(brightness, lives([Frames(5), Fail()], [Frames(5)]), reconnect=False)
    assert (report.sources[0].ended, report.sources[0].read, report.exit_code) == ("error", 5, 3)
    report = run(brightness, FakeCamera([Frames(5), Fail()], fps=200))  # nobody knows how to make it again
    assert (report.sources[0].ended, report.sources[0].read) == ("error", 5)


def test_a_camera_that_is_absent_at_the_start_is_no_error_for_the_others():
    stop = threading.Event()
    absent = lives(name="absent")
    present = lives([Frames(40)], name="present")
    events = []

    def note(event):
        events.append(event)
        if event.name == "present" and event.state == "ended":
            stop.set()

    report = run(brightness, [absent, present], stop=stop, on_event=note, waits=SOON)
    assert report.sources[1].inferred + sum(report.sources[1].dropped.values()) == 40
    assert report.sources[0].attempts >= 2
    assert (report.sources[0].ended, report.sources[0].detail) == ("stopped", "absent: no answer")
    assert report.exit_code == 3  # it was never there
    assert {state for state, _ in told(events, "absent")} == {"connecting", "backing off", "ended"}


def test_waits_follow_the_kind():
    camera = lives()
    camera._script = (Fail("x", kind="wrong password"),)
    events, stop = [], threading.Event()
    threading.Timer(0.3, stop.set).start()
    run(brightness, camera, stop=stop, on_event=events.append)
    waits_s = [float(reason.rsplit("in ", 1)[1].split()[0]) for state, reason in told(events) if state == "backing off"]
    assert 10 <= waits_s[0] <= 12.5


def test_a_stall_is_told_before_the_source_gives_up_and_so_is_its_end():
    source = lives([Frames(30), Freeze(0.9), Frames(20), Freeze(99)], [Frames(3)], timeout_s=1.2)
    stream = Stream(brightness, [source], settings=Settings(stall_s=0.3, waits=SOON))
    stream.run()
    states = told(stream.journal.events)
    assert [state for state, _ in states] == [
        *("connecting", "live", "stalled", "live", "stalled", "backing off"),
        *("connecting", "live", "ended"),
    ]
    assert states[2][1].startswith("no frame for 0.")
    assert states[3][1] == "frames come again"
    moments_s = [event.monotonic_ns / 1e9 for event in stream.journal.events]
    assert moments_s[4] - moments_s[3] < 20 / 200 + 0.3 + 0.35


def test_a_changed_size_is_told_and_no_picture_is_squeezed():
    sizes, events = [], []
    source = lives([Frames(5, size=(20, 30)), Frames(5, size=(40, 50))])
    sink = CallbackSink(lambda frame, _: sizes.append(frame.image.shape[:2]))
    run(brightness, source, [sink], when_late="wait", on_event=events.append)
    assert sizes == [(20, 30)] * 5 + [(40, 50)] * 5
    assert ("live", "the size changed from 30x20 to 50x40") in told(events)


class Damaged(Source):
    """Gives frames of which some are damaged after a while."""

    def __init__(self):
        super().__init__("cam", live=True)

    def _open(self):
        return Facts(live=True, codec="h264", size=(4, 6), fps=100)

    def _shots(self):
        start_s = time.monotonic()
        for number in range(140):
            time.sleep(0.01)
            damaged = 3 + (number > 20) + 2 * (time.monotonic() - start_s > 1.2)
            yield Shot(np.zeros((4, 6, 3), np.uint8), damaged=damaged, skipped={"undecoded": number % 2})

    def _release(self):
        pass


def test_damage_is_a_state_and_what_the_source_left_out_is_in_the_account():
    events = []
    report = run(brightness, Damaged(), on_event=events.append)
    assert told(events)[1:3] == [("live", "h264 6x4 100 fps"), ("degraded", "2 damaged frames or packets")]
    each = report.sources[0]
    assert (each.read, each.dropped["undecoded"], each.damaged) == (210, 70, 6)
    assert each.inferred + sum(each.dropped.values()) == 210


def test_a_camera_alone_connects_again_and_raises_how_it_ended():
    with Camera(lives([Frames(3), Fail()], [Frames(3)]), when_late="wait", waits=SOON) as camera:
        assert [frame.index for frame in camera] == list(range(6))
    with (
        pytest.raises(SourceUnavailable, match="cam: unplugged") as caught,
        Camera(lives([Fail()]), reconnect=False) as camera,
    ):
        list(camera)
    assert caught.value.kind == "lost"


def test_a_source_that_cannot_be_made_for_a_while_comes_when_it_can():
    events, tries = [], []

    def make():
        tries.append(time.monotonic())
        if len(tries) < 4:
            raise OSError(24, "Too many open files")
        return FakeCamera([Frames(3)], fps=200, name="cam")

    source = FakeCamera([Frames(3), Fail()], fps=200, name="cam")
    source.again = make
    report = run(brightness, source, when_late="wait", on_event=events.append, waits=SOON)
    assert (report.sources[0].read, report.sources[0].ended) == (6, "end of file")
    assert len(tries) == 4
    assert any("Too many open files; next try" in reason for _, reason in told(events))


@pytest.mark.parametrize("script", [[Fail()], [Frames(5), Fail()]], ids=["never there", "lost"])
def test_a_stop_while_it_backs_off_is_quick(script):
    stop, moment = threading.Event(), []

    def note(event):
        if event.state == "backing off":
            threading.Timer(0.1, lambda: (moment.append(time.monotonic()), stop.set())).start()

    report = run(brightness, lives(script), stop=stop, on_event=note, waits=Waits(first_s=60, longest_s=90))
    assert time.monotonic() - moment[0] < 0.5
    assert report.sources[0].ended == "stopped"
    assert report.exit_code == (3 if len(script) == 1 else 0)


def test_sources_come_and_go_while_the_others_run():
    stop, events = threading.Event(), []
    stream = Stream(brightness, [lives([Frames(10**6)], name="a")], [CallbackSink(lambda *_: None)])
    stream.journal.subscribe(events.append)

    def change():
        time.sleep(0.2)
        assert stream.add(lives([Frames(10**6)], name="b")) == "b"
        time.sleep(0.2)
        stream.remove("b")
        time.sleep(0.2)
        assert stream.add(lives([Frames(10)], name="b")) == "b"
        time.sleep(0.3)
        stop.set()

    changer = threading.Thread(target=change)
    changer.start()
    report = stream.run(stop)
    changer.join()
    names = {each.name: each for each in report.sources}
    assert names["a"].connections == 1
    assert names["b"].read > 20  # of both times
    assert [state for state, _ in told(events, "b")] == ["connecting", "live", "ended"] * 2
    assert [state for state, _ in told(events, "a")] == ["connecting", "live", "ended"]
