"""Sinks: what was written can be read again by others, and what could not be written is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from datetime import datetime, timedelta, timezone

import av
import cv2
import numpy as np
import pytest
from stream_lab import BIKES, CARPHONE, Brightness, brightness, run_python

from edgecv_runtime.errors import BadInput, Closed, Unavailable
from edgecv_runtime.stream import (
    CallbackSink,
    FakeCamera,
    Frame,
    JsonLinesSink,
    Output,
    StopStream,
    VideoSink,
    WindowSink,
    open_sink,
    open_source,
    run,
)
from edgecv_runtime.stream.sinks import video
from edgecv_runtime.stream.sources.fake import Frames
from edgecv_runtime.stream.sources.file import _boxes


def output(image, *, index=0, pts_s=None, source="cam", mean=100.0):
    return Output(Frame(image, index * 40_000_000, index, pts_s, source), Brightness(mean), 1.25, 0.0, "test")


def probe(path):
    """(frames, (height, width), mean frame rate, seconds) as PyAV decodes it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.pts * frame.time_base for frame in container.decode(stream)]
        assert frames == sorted(set(frames))
        return len(frames), (stream.height, stream.width), stream.average_rate, container.duration / av.time_base


@pytest.mark.parametrize(("clip", "frames", "rate"), [(BIKES, 250, 25), (CARPHONE, 120, 30000 / 1001)])
def test_annotated_video_plays_in_pyav_and_opencv(tmp_path, clip, frames, rate):
    path = tmp_path / "out.mp4"
    report = run(brightness, clip, [VideoSink(path)])
    assert report.sinks[0].delivered == report.sources[0].read == frames
    assert [item.name for item in tmp_path.iterdir()] == ["out.mp4"]
    with open_source(clip) as source:
        first = next(source)
    count, size, average, seconds = probe(path)
    assert (count, size) == (frames, first.image.shape[:2])
    assert float(average) == pytest.approx(rate)
    assert seconds == pytest.approx(frames / rate, abs=0.002)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == frames
    given, image = capture.read()
    assert given
    difference = np.abs(image.astype(int) - brightness(first.image).draw(first.image)).mean()
    assert difference < 5  # the annotation is in it, the colours are right
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == frames - 1
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_colours_survive(tmp_path):
    colours = [(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255), (30, 120, 200)]
    with VideoSink(tmp_path / "c.mp4") as sink:
        for index, colour in enumerate(colours):
            sink.write(output(np.full((720, 1280, 3), colour, np.uint8), index=index))
    capture = cv2.VideoCapture(str(tmp_path / "c.mp4"))
    for colour in colours:
        image = capture.read()[1]
        assert np.abs(image[100:].mean((0, 1)) - colour).max() < 6


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_odd_sizes_and_both_encoders(tmp_path, monkeypatch, suffix, encoder):
    monkeypatch.setattr(video, "_ENCODERS", {encoder: video._ENCODERS[encoder]})
    path = tmp_path / f"odd{suffix}"
    image = np.random.default_rng(0).integers(0, 255, (33, 47, 3), dtype=np.uint8)
    with VideoSink(path) as sink:
        for index in range(12):
            sink.write(output(np.roll(image, index, 1), index=index, pts_s=index / 25))
    count, size, average, _ = probe(path)
    assert (count, size) == (12, (34, 48))
    assert float(average) == pytest.approx(25, rel=0.01)


def test_one_frame_is_a_video(tmp_path):
    with VideoSink(tmp_path / "one.mp4") as sink:
        sink.write(output(np.zeros((32, 32, 3), np.uint8)))
    assert probe(tmp_path / "one.mp4")[0] == 1
    with VideoSink(tmp_path / "none.mp4"):
        pass
    assert not (tmp_path / "none.mp4").exists()


def test_pictures_of_a_folder_are_fitted_in_with_their_aspect(tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(10):
        picture = np.zeros((48, 64, 3)) if index < 5 else np.full((20, 64, 3), 255)
        cv2.imwrite(str(tmp_path / f"in/{index}.png"), picture)
    report = run(brightness, tmp_path / "in", [VideoSink(tmp_path / "r.mp4")])
    assert report.exit_code == 0
    assert probe(tmp_path / "r.mp4") == (10, (48, 64), 25, pytest.approx(0.4, abs=0.001))
    with av.open(str(tmp_path / "r.mp4")) as container:
        last = list(container.decode(video=0))[-1].to_ndarray(format="gray").astype(int)
    assert abs(last[4].mean() - 114) < 8  # the border
    assert last[30].mean() > 240


def test_several_sources_want_several_files(tmp_path):
    cameras = [FakeCamera([Frames(3)], name="rtsp://u:***@10.0.0.1/front"), FakeCamera([Frames(4)], name="b c")]
    cameras.append(FakeCamera([Frames(5)], name="b:c"))
    with pytest.raises(BadInput, match=r"use out-\{source\}\.mp4"):
        run(brightness, cameras, [VideoSink(tmp_path / "out.mp4")])
    report = run(brightness, cameras, [VideoSink(tmp_path / "out-{source}.mp4")])
    assert report.sinks[0].delivered == 12
    assert sorted(probe(path)[0] for path in tmp_path.iterdir()) == [3, 4, 5]
    assert len([path for path in tmp_path.iterdir() if path.name.startswith("out-b-c-")]) == 2  # and a mark each
    assert "***" not in "".join(path.name for path in tmp_path.iterdir())


def test_no_half_file_has_the_final_name_and_a_crash_leaves_a_playable_part(tmp_path):
    code = """
import sys, time
import numpy as np
from edgecv_runtime.stream import VideoSink
from test_stream_sinks import output
sink = VideoSink(sys.argv[1])
for index in range(160):
    sink.write(output(np.full((64, 64, 3), index, np.uint8), index=index))
print("written", flush=True)
time.sleep(60)
"""
    (tmp_path / "out.mp4").write_bytes(b"the one before")
    process = run_python(code, tmp_path / "out.mp4")
    assert process.stdout.readline() == "written\n"
    process.kill()
    process.wait()
    assert (tmp_path / "out.mp4").read_bytes() == b"the one before"
    assert 100 <= probe(tmp_path / "out-2.part.mp4")[0] <= 160
    with VideoSink(tmp_path / "out.mp4") as sink:  # the next start names what is left, and goes on in a third file
        sink.write(output(np.zeros((64, 64, 3), np.uint8)))
    assert (tmp_path / "out.mp4").read_bytes() == b"the one before"
    assert 100 <= probe(tmp_path / "out-2.mp4")[0] <= 160
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-2.mp4", "out-3.mp4", "out.mp4"]


def test_a_full_disk_is_counted_and_what_was_written_can_be_read(tmp_path):
    code = """
import resource, signal, sys
import numpy as np
from edgecv_runtime import records
from edgecv_runtime.stream import CallbackSink, FakeCamera, JsonLinesSink, VideoSink, run
from edgecv_runtime.stream.sources.fake import Frames
from stream_lab import Brightness
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
seen = []
class Growing(Brightness):  # each line is longer than the one before: after one that does not fit, none does
    def as_dict(self):
        return {"more": "x" * 40 * int(self.mean)}
def growing(image):
    seen.append(image)
    return Growing(len(seen))
noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
script = [Frames(1, image=np.roll(noise, 7 * n, 0)) for n in range(400)]
well = CallbackSink(lambda *_: None)
report = run(growing, FakeCamera(script), [VideoSink(sys.argv[1]), JsonLinesSink(sys.argv[2]), well])
sys.stdout.buffer.write(records.encode(report))
sys.exit(report.exit_code)
"""
    process = run_python(code, tmp_path / "out.mp4", tmp_path / "out.jsonl")
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 4, errors
    report = json.loads(printed)
    movie, lines, well = report["sinks"]
    assert report["sources"][0]["inferred"] == well["delivered"] == 400  # the others go on
    for sink in (movie, lines):
        assert sink["delivered"] + sink["failed"] + sum(sink["dropped"].values()) == 400
    assert movie["failed"] > 0
    assert lines["failed"] > 0
    assert "File too large" in lines["error"]
    assert all(probe(path)[0] > 0 for path in tmp_path.glob("*.mp4"))
    written = (tmp_path / "out.jsonl").read_text()
    assert written.endswith("\n")
    assert [json.loads(line)["index"] for line in written.splitlines()] == list(range(lines["delivered"]))


def test_json_lines_parse_and_count(tmp_path):
    report = run(brightness, BIKES, [JsonLinesSink(tmp_path / "out.jsonl")])
    documents = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(documents) == report.sinks[0].delivered == 250
    assert [document["index"] for document in documents] == list(range(250))
    assert set(documents[7]) == {
        *("source", "index", "connection", "pts_s", "captured_ns", "time", "age_ms", "model", "result")
    }
    told = datetime.fromisoformat(documents[7]["time"].replace("Z", "+00:00"))
    assert abs(datetime.now(timezone.utc) - told) < timedelta(seconds=60)
    assert documents[7]["model"] == "brightness"
    assert documents[7]["source"] == str(BIKES)
    assert documents[7]["pts_s"] == pytest.approx(7 / 25)
    with open_source(BIKES) as source:
        assert documents[0]["result"]["mean"] == pytest.approx(brightness(next(source).image).mean, rel=1e-6)


def test_json_lines_name_the_image(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    run(brightness, tmp_path, [JsonLinesSink(tmp_path / "out.jsonl")])
    assert json.loads((tmp_path / "out.jsonl").read_text())["path"] == str(tmp_path / "a.png")


def test_json_lines_on_standard_output_are_complete_at_once():
    code = """
import time
from edgecv_runtime.stream import FakeCamera, JsonLinesSink, run
from edgecv_runtime.stream.sources.fake import Frames, Freeze
from stream_lab import brightness
run(brightness, FakeCamera([Frames(3), Freeze(1.0), Frames(2)]), [JsonLinesSink("-")])
"""
    process = run_python(code)
    assert [json.loads(process.stdout.readline())["index"] for _ in range(3)] == [0, 1, 2]
    assert process.poll() is None  # lines come while it runs
    rest, errors = process.communicate(timeout=10)
    assert len(rest.splitlines()) == 2
    assert errors == ""


def test_a_reader_that_leaves_ends_the_run(tmp_path):
    code = """
import sys
from edgecv_runtime.stream import FakeCamera, JsonLinesSink, run
from edgecv_runtime.stream.sources.fake import Frames
from stream_lab import brightness
report = run(brightness, FakeCamera([Frames(100_000)]), [JsonLinesSink("-")])
print(report.sources[0].ended, report.sources[0].detail, report.losses[0], file=sys.stderr)
sys.exit(report.exit_code)
"""
    process = run_python(code)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=10) == 4
    assert errors.startswith("error every sink failed stdout: ")
    assert "BrokenPipeError" in errors


def test_a_disk_that_is_full_from_the_start():
    report = run(brightness, FakeCamera([Frames(10)]), [JsonLinesSink("/dev/full")])
    sink = report.sinks[0]
    assert (sink.delivered, sink.failed + sink.dropped["down"]) == (0, 10)
    assert report.sinks[0].error == "OSError: [Errno 28] No space left on device"
    assert report.exit_code == 4


@pytest.mark.parametrize("uri", ["rtsp://127.0.0.1:1/x", "missing.mp4"])
def test_a_source_that_cannot_be_opened_leaves_all_as_it_was(tmp_path, uri):
    """No empty file stays, and what was there is not lost; also behind a link to a file that is still to come."""
    (tmp_path / "before.jsonl").write_text("kept\n")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "target.jsonl")
    names = ["new.jsonl", "before.jsonl", "link.jsonl", "new.mp4"]
    try:
        report = run(brightness, uri, [open_sink(tmp_path / name) for name in names], reconnect=False)
        assert report.exit_code == 3
    except BadInput as exc:
        assert "missing.mp4: no such file" in str(exc)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before.jsonl", "link.jsonl"]
    assert (tmp_path / "before.jsonl").read_text() == "kept\n"
    run(brightness, FakeCamera([Frames(2)]), [open_sink(tmp_path / name) for name in names])
    assert [len((tmp_path / name).read_text().splitlines()) for name in names[:3]] == [2, 3, 2]


def test_json_lines_into_a_named_pipe(tmp_path):
    """It is opened once: a reader takes the end of the first writer for the end of all."""
    os.mkfifo(tmp_path / "pipe.jsonl")
    reader = subprocess.Popen(["cat", tmp_path / "pipe.jsonl"], stdout=subprocess.PIPE)
    report = run(brightness, FakeCamera([Frames(3)]), [JsonLinesSink(tmp_path / "pipe.jsonl")])
    assert report.sinks[0].delivered == 3
    assert len(reader.communicate(timeout=10)[0].splitlines()) == 3


def test_a_result_that_is_no_json_is_counted(tmp_path):
    class Odd(Brightness):
        def as_dict(self):
            return {"x": object()}

    report = run(lambda image: Odd(1), FakeCamera([Frames(2)]), [JsonLinesSink(tmp_path / "o.jsonl")])
    assert report.sinks[0].failed == 2
    assert "as_dict() gives plain types, got object" in report.sinks[0].error


def test_sinks_after_close(tmp_path):
    for sink in (JsonLinesSink(tmp_path / "a.jsonl"), VideoSink(tmp_path / "a.mp4")):
        sink.close()
        sink.close()
        with pytest.raises(Closed):
            sink.write(output(np.zeros((8, 8, 3), np.uint8)))


def test_looking_whether_a_file_can_be_written_makes_none(tmp_path):
    """Another process that found it, and wrote into it, would lose that when it is removed again."""
    folder = tmp_path / "results"
    folder.mkdir()
    before = folder.stat().st_mtime_ns
    (tmp_path / "link.jsonl").symlink_to(folder / "b.jsonl")
    for path in (folder / "a.jsonl", tmp_path / "link.jsonl"):
        JsonLinesSink(path).close()
    assert folder.stat().st_mtime_ns == before
    (tmp_path / "nowhere.jsonl").symlink_to(folder / "none" / "c.jsonl")
    for name, why in (("nowhere.jsonl", "No such file"), ("a" * 300 + ".jsonl", "File name too long")):
        with pytest.raises(BadInput, match=rf"cannot be written: {why}"):
            JsonLinesSink(tmp_path / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        with pytest.raises(BadInput, match="cannot be written: Permission denied"):
            JsonLinesSink(folder / "a.jsonl")


def test_the_table_of_sinks(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    assert isinstance(open_sink(tmp_path / "a.mp4"), VideoSink)
    assert isinstance(open_sink(str(tmp_path / "a.jsonl")), JsonLinesSink)
    assert open_sink("-").name == "stdout"
    for name, message in {
        "out.gif": "out.gif: not a sink; expected -, window, a file .jsonl",
        "/no/such/folder/a.mp4": "there is no folder /no/such/folder",
        "/no/such/folder/a.jsonl": "there is no folder /no/such/folder",
        f"{tmp_path}/folder.jsonl": "folder.jsonl: cannot be written: Is a directory",
    }.items():
        with pytest.raises(BadInput, match=message):
            open_sink(name)
    with pytest.raises(BadInput, match=r"a video is \.mp4, \.mov, \.mkv"):
        VideoSink("out.avi")


def test_a_window_without_gui_or_display_names_the_cure(monkeypatch):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    with pytest.raises(Unavailable, match=r"headless build.*pip install .*\[gui\]"):
        open_sink("window")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(Unavailable, match="DISPLAY is not set"):
        open_sink("window")


def test_a_window_shows_and_ends_with_q(monkeypatch):
    shown, keys = [], iter([-1, -1, ord("q")])
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append((title, image.shape)))
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: shown.append(title))
    report = run(brightness, FakeCamera([Frames(50)], name="door"), [WindowSink()])
    assert shown == [("edgecv: door", (240, 320, 3))] * 3 + ["edgecv: door"]
    assert (report.sinks[0].delivered, report.sources[0].ended, report.exit_code) == (3, "stopped", 0)


def test_a_callback_sees_frames_and_results_and_may_end_the_run():
    seen = []

    def look(frame, result):
        seen.append((frame.index, result.mean))
        if len(seen) == 5:
            raise StopStream

    report = run(brightness, FakeCamera([Frames(1000)]), [CallbackSink(look)])
    assert [index for index, _ in seen[:5]] == [0, 1, 2, 3, 4]
    assert report.sources[0].ended == "stopped"
    assert report.sinks[0].failed == 0
    assert report.sinks[0].error is None
    assert report.exit_code == 0


def test_slow_sinks_hold_up_files_and_lose_frames_of_cameras():
    def slow(*_):
        time.sleep(0.03)

    report = run(brightness, FakeCamera([Frames(20)]), [CallbackSink(slow)])
    assert report.sinks[0].delivered == 20
    report = run(brightness, FakeCamera([Frames(60)], fps=100), [CallbackSink(slow), CallbackSink(lambda *_: None)])
    late, quick = report.sinks
    assert late.name == "callback"
    assert quick.name == "callback#2"
    assert late.dropped["late"] > 5
    assert late.delivered + late.dropped["late"] == quick.delivered == report.sources[0].inferred
    assert report.exit_code == 0  # dropped by policy


def test_interrupting_a_recording_finishes_the_file(tmp_path):
    code = """
import sys
from edgecv_runtime.stream import VideoSink, run, stop_on_signals
from stream_lab import BIKES, brightness
from edgecv_runtime.stream import open_source
with stop_on_signals() as stop:
    report = run(brightness, open_source(BIKES, pace=True), [VideoSink(sys.argv[1])], stop=stop,
                 on_progress=lambda report: print(report.sources[0].inferred, flush=True))
print(report.sources[0].ended, report.sources[0].inferred)
"""
    process = run_python(code, tmp_path / "out.mp4")
    assert int(process.stdout.readline()) > 5
    process.send_signal(signal.SIGINT)
    start_s = time.monotonic()
    printed, errors = process.communicate(timeout=5)
    assert time.monotonic() - start_s < 2
    assert process.returncode == 0
    assert errors == ""
    ended, inferred = printed.split()[-2:]
    assert ended == "stopped"
    assert probe(tmp_path / "out.mp4")[0] == int(inferred)


def test_the_file_is_a_plain_mp4_for_other_players(tmp_path):
    run(brightness, CARPHONE, [VideoSink(tmp_path / "out.mp4")])
    assert set(_boxes(tmp_path / "out.mp4")) == {b"ftyp", b"free", b"mdat", b"moov"}  # no fragments
