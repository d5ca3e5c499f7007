"""A bundle that changes while it runs: exchanged between two frames, none lost; a broken one changes nothing."""

from __future__ import annotations

import shutil
import threading
import time

import numpy as np
import pytest
from stream_lab import Brightness

from edgecv_runtime.stream import CallbackSink, FakeCamera, Latest, Stream
from edgecv_runtime.stream.sources.fake import Frames


class Fake:
    """A model that says which it is; it raises from its `fails_at`-th frame on."""

    bundle = None

    class Info:
        variant, batch, streams = "float32", 1, 1

    def __init__(self, name, fails_at=None):
        self.info = self.Info()
        self.info.name = name
        self.closed, self.count, self.fails_at = False, 0, fails_at

    def __call__(self, image):
        assert not self.closed
        self.count += 1
        if self.fails_at is not None and self.count >= self.fails_at:
            raise RuntimeError("no such operator")
        return Brightness(1.0)

    def close(self):
        self.closed = True


class Watch(CallbackSink):
    """Which model made each frame's result."""

    def __init__(self):
        super().__init__(lambda *_: None)
        self.made = []

    def write(self, output):
        self.made.append((output.frame.index, output.model))


def exchanged(tmp_path, made, replace, until):
    """Run a camera on a bundle that `replace` changes after a while; (sink, events, report)."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "bundle.json").write_text("1")
    rest = iter(made)

    def load():
        model = next(rest)
        if isinstance(model, Exception):
            raise model
        return model

    sink, stop, events = Watch(), threading.Event(), []
    with Latest(path, load, check_s=0.05) as latest:
        stream = Stream(latest, [FakeCamera([Frames(10**6)], fps=100)], [sink])
        stream.journal.subscribe(events.append)

        def change():
            time.sleep(0.3)
            replace(path)
            end_s = time.monotonic() + 10
            while not until(sink, [event for event in events if event.about == "model"]):
                assert time.monotonic() < end_s
                time.sleep(0.02)
            stop.set()

        changer = threading.Thread(target=change)
        changer.start()
        report = stream.run(stop)
        changer.join()
    assert report.sources[0].failed == 0
    indices = [index for index, _ in sink.made]
    assert indices == sorted(set(indices))
    return sink, [str(event) for event in events if event.about == "model"], report


def write_new(path):
    (path / "bundle.json").write_text("2")


def test_a_new_bundle_takes_over_and_the_old_one_is_let_go(tmp_path):
    old, new = Fake("old"), Fake("new")
    closed = []
    sink, events, _ = exchanged(
        tmp_path,
        [old, new],
        write_new,
        lambda sink, _: closed.append(old.closed) or [name for _, name in sink.made].count("new float32") > 40,
    )
    names = [name for _, name in sink.made]
    assert names == ["old float32"] * names.count("old float32") + ["new float32"] * names.count("new float32")
    assert events == [f"{tmp_path / 'bundle'}: exchanged: now new float32"]
    assert (closed[0], closed[-1]) == (False, True)  # kept until the new one had proven itself


def test_a_bundle_that_is_refused_changes_nothing_and_is_not_tried_again(tmp_path):
    sink, events, _ = exchanged(
        tmp_path, [Fake("old"), ValueError("failed its self-test")], write_new, lambda sink, events: len(events) > 0
    )
    assert {name for _, name in sink.made} == {"old float32"}
    assert events == [f"{tmp_path / 'bundle'}: kept: the new bundle is refused: ValueError: failed its self-test"]


def test_a_new_model_that_fails_on_frames_goes_back_and_no_frame_is_lost(tmp_path):
    old, new = Fake("old"), Fake("new", fails_at=6)
    sink, events, report = exchanged(
        tmp_path, [old, new], write_new, lambda sink, events: len(events) > 1 and len(sink.made) > 60
    )
    names = [name for _, name in sink.made]
    assert names.count("new float32") == 5
    assert names[0] == names[-1] == "old float32"
    assert events[1].endswith("kept: new float32 failed: RuntimeError: no such operator; back to old float32")
    assert new.closed
    assert report.exit_code == 0


def test_a_real_bundle_is_followed_through_a_link(exported, tmp_path):
    first, second = tmp_path / "v1", tmp_path / "v2"
    for copy in (first, second):
        shutil.copytree(exported, copy)
    link = tmp_path / "current"
    link.symlink_to(first)
    frame = np.zeros((32, 32, 3), np.uint8)
    with Latest(link, check_s=0.05) as latest:
        before = latest.current()
        assert latest(frame).label
        assert latest.info.name == before.info.name
        other = tmp_path / "next"
        other.symlink_to(second)
        other.replace(link)
        end_s = time.monotonic() + 20
        while latest.current() is before and time.monotonic() < end_s:
            time.sleep(0.05)
        assert latest.current() is not before
        assert latest.current().bundle.path == link
    with pytest.raises(Exception, match="no such|not a bundle|missing"):
        Latest(tmp_path / "nothing")
