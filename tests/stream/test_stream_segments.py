"""Files of sinks: what exists is never overwritten, times are right, a failure ends no recording."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
from stream_lab import BIKES, Brightness, brightness, run_python

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream import FakeCamera, Frame, JsonLinesSink, Output, VideoSink, open_source, run
from edgecv_runtime.stream.sinks.segments import Limits, Part, Segments, Slugs
from edgecv_runtime.stream.sources.fake import Frames

NIGHT = 1_795_824_000.0  # 2026-11-28T00:00:00Z


def output(index, *, pts_s=None, captured_s=None, unix_s=None, size=(32, 48), live=True, connection=1, source="cam"):
    captured_s = index * 0.04 if captured_s is None else captured_s
    image = np.full((*size, 3), index % 256, np.uint8)
    frame = Frame(image, round(captured_s * 1e9), index, pts_s, source, None, connection, live)
    return Output(frame, Brightness(100.0), 1.25, NIGHT + captured_s if unix_s is None else unix_s, "test")


def times(path):
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def seconds(path):
    """As ffprobe, which is not ours, says it."""
    asked = ["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(path)]
    return float(subprocess.run(["ffprobe", *asked], capture_output=True, text=True, check=True).stdout)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("texts", "limits"),
    [
        ([], Limits()),
        (["10 min"], Limits(seconds=600)),
        (["1h", "500 MB"], Limits(3600, 5e8)),
        (["2 GiB"], Limits(size=2 * 2**30)),
        (["0.5 s"], Limits(seconds=0.5)),
    ],
)
def test_limits_are_read(texts, limits):
    assert Limits.parse(texts) == limits


@pytest.mark.parametrize("texts", [["10"], ["10 min", "1 h"], ["0 s"], ["5 mb"], ["-1 s"], ["1e3 s"], [""]])
def test_no_limit(texts):
    with pytest.raises(BadInput, match="limit"):
        Limits.parse(texts)


def test_a_restart_keeps_what_was_recorded(tmp_path):
    """Killed and started again, twice, as a supervisor does; the first lines and pictures are still there."""
    code = """
import sys
from edgecv_runtime.stream import FakeCamera, JsonLinesSink, VideoSink, run
from edgecv_runtime.stream.sources.fake import Frames, Freeze
from stream_lab import brightness
script = [Frames(60), Freeze(60)]
run(brightness, FakeCamera(script, fps=300, timeout_s=100), [VideoSink(sys.argv[1]), JsonLinesSink(sys.argv[2])],
    when_late="wait")
"""
    lines = tmp_path / "o.jsonl"
    for start in (1, 2):
        process = run_python(code, tmp_path / "o.mp4", lines)
        while not lines.exists() or len(lines.read_text().splitlines()) < 60 * start:
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.3)  # for the video
        process.kill()
        process.communicate()
        assert len(lines.read_text().splitlines()) == 60 * start
    assert names(tmp_path) == ["o-2.part.mp4", "o.jsonl", "o.mp4"]
    assert len(times(tmp_path / "o.mp4")) >= 50


def test_two_processes_do_not_take_each_others_file(tmp_path):
    segments = Segments(tmp_path / "o.mp4")
    mine = segments.begin("cam", 0.0, parts=True)
    code = """
import sys
from pathlib import Path
from edgecv_runtime.stream.sinks.segments import Segments
segments = Segments(sys.argv[1])
print(segments.left_over(), segments.begin("cam", 0.0, parts=True).path.name)
"""
    printed, errors = run_python(code, tmp_path / "o.mp4").communicate(timeout=30)
    assert printed == "[] o-2.part.mp4\n", errors
    (tmp_path / "o.mp4").write_bytes(b"somebody else's")
    assert mine.finish().name == "o-2.mp4"
    assert (tmp_path / "o.mp4").read_bytes() == b"somebody else's"
    assert [part.path.name for part in segments.left_over()] == ["o-2.part.mp4"]


def test_names_without_hard_links(tmp_path, monkeypatch):
    """As on the FAT of an SD card."""

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a.mp4").write_bytes(b"kept")
    part = Part(tmp_path / "a.mp4", tmp_path / "a.part.mp4")
    assert part.finish() == tmp_path / "a-2.mp4"
    assert names(tmp_path) == ["a-2.mp4", "a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"kept"


def test_names_say_source_and_time(tmp_path):
    segments = Segments(tmp_path / "{source}_{time}.mp4")
    assert segments.name("rtsp://h/a b", NIGHT).name == "rtsp-h-a-b_20261128T000000Z.mp4"
    assert segments.name("rtsp://h/a:b", NIGHT).name == "rtsp-h-a-b-44ec2e_20261128T000000Z.mp4"
    for path, message in {"x/{sorce}.mp4": "'{sorce}' means nothing", "no/o.mp4": "there is no folder"}.items():
        with pytest.raises(BadInput, match=message):
            Segments(tmp_path / path)


def test_cameras_with_long_addresses_have_files_too(tmp_path):
    sources = [f"rtsp://h/{'axis-media/' * 30}{number}" for number in range(2)]
    with JsonLinesSink(tmp_path / "{source}-{time}.jsonl", limits=Limits(seconds=60)) as sink:
        sink.start(sources)
        for each in sources:
            sink.write(output(0, source=each))
    assert [json.loads(path.read_text())["source"] in sources for path in tmp_path.iterdir()] == [True] * 2


def test_lines_are_whole_in_a_pipe_that_does_not_block(monkeypatch):
    """As a parent leaves it behind that shares its standard output with an event loop."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with os.fdopen(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        count = 800  # more than the 64 KiB that a pipe holds
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(os.fdopen(read, "rb").read()))
        threading.Timer(0.3, reader.start).start()  # long after it is full
        with JsonLinesSink("-") as sink:
            for index in range(count):
                sink.write(output(index))
    reader.join(10)
    assert [json.loads(line)["index"] for line in got[0].splitlines()] == list(range(count))


def test_a_recording_is_named_by_its_source_and_not_by_who_comes_first(tmp_path):
    """Appended lines of two cameras would change places at a restart."""
    sources = ["/a/cam.mp4", "/b/CAM.mp4", "rtsp://h/door"]

    def written(order):
        slugs = Slugs()
        slugs.expect(sources)
        return {each: slugs.of(each) for each in order}

    first = written(sources)
    assert first == written(sources[::-1])
    assert len({each.casefold() for each in first.values()}) == 3
    assert first["rtsp://h/door"] == "rtsp-h-door"
    late = Slugs()
    late.expect(sources[:1])
    assert late.of("/a/cam.mp4") == "cam.mp4"
    assert late.of("/b/CAM.mp4") == first["/b/CAM.mp4"]  # one that comes later takes no name from it
    for order in (1, -1):
        with JsonLinesSink(tmp_path / "{source}.jsonl") as sink:
            sink.start(sources)
            for source in sources[::order]:
                sink.write(output(0, source=source))
    lines = [[json.loads(line)["source"] for line in path.read_text().splitlines()] for path in tmp_path.iterdir()]
    assert sorted(lines) == [[each] * 2 for each in sorted(sources)]


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ({"connection": 2}, 2),
        ({"size": (24, 48)}, 2),
        ({"pts_s": 500.0}, 2),  # the camera's clock was set
        ({"unix_s": NIGHT + 3600}, 2),  # ours was
        ({"captured_s": 3700.0, "pts_s": 3700.0}, 2),  # the hour is over
        ({"captured_s": 9.0, "pts_s": 9.0}, 1),  # a pause
        ({}, 1),
    ],
)
def test_a_camera_begins_a_new_file(tmp_path, change, files):
    with VideoSink(tmp_path / "o.mp4") as sink:
        for index in range(3):
            sink.write(output(index, pts_s=index * 0.04))
        sink.write(output(3, **{"pts_s": 0.12, **change}))
    found = [tmp_path / "o.mp4", tmp_path / "o-2.mp4"][:files]
    assert names(tmp_path) == sorted(path.name for path in found)
    assert sum(len(times(path)) for path in found) == 4


def test_files_end_by_time_and_size(tmp_path):
    with VideoSink(tmp_path / "t.mp4", limits=Limits(seconds=1.0)) as sink:
        for index in range(60):
            sink.write(output(index))
    assert [len(times(tmp_path / f"t{number}.mp4")) for number in ("", "-2", "-3")] == [25, 25, 10]
    with JsonLinesSink(tmp_path / "o.jsonl", limits=Limits(size=1000)) as sink:
        for index in range(20):
            sink.write(output(index))
    found = sorted(tmp_path.glob("o*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    assert all(1000 <= path.stat().st_size < 1300 for path in found[:-1])
    assert [json.loads(line)["index"] for path in found for line in path.read_text().splitlines()] == [*range(20)]
    with JsonLinesSink(tmp_path / "{source}.jsonl") as sink:
        for index, source in enumerate("abab"):
            sink.write(output(index, source=source))
    assert [json.loads(line)["index"] for line in (tmp_path / "b.jsonl").read_text().splitlines()] == [1, 3]


def test_half_a_line_of_a_crash_does_not_spoil_the_next(tmp_path):
    (tmp_path / "o.jsonl").write_text('{"whole": 1}\n{"hal')
    with JsonLinesSink(tmp_path / "o.jsonl") as sink:
        sink.write(output(0))
    lines = (tmp_path / "o.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"whole": 1}', '{"hal']
    assert json.loads(lines[2])["time"] == "2026-11-28T00:00:00.000Z"


def test_lines_on_standard_output_that_a_shell_appends(tmp_path):
    """`>>` opens for writing alone, so that what is there cannot be looked at."""
    (tmp_path / "log").write_text("before\n")
    code = "from edgecv_runtime.stream import JsonLinesSink; from test_stream_segments import output\n"
    code += "with JsonLinesSink('-') as sink:\n    sink.write(output(0))"
    with (tmp_path / "log").open("a") as log:
        process = subprocess.run([sys.executable, "-c", code], stdout=log, cwd=Path(__file__).parent, check=True)
    before, line = (tmp_path / "log").read_text().splitlines()
    assert (before, json.loads(line)["index"], process.returncode) == ("before", 0, 0)


def test_a_second_source_does_not_spoil_the_file_of_the_first(tmp_path):
    with VideoSink(tmp_path / "o.mp4") as sink:
        for index in range(6):
            if index % 2:
                with pytest.raises(BadInput, match="one video holds one source"):
                    sink.write(output(index, source="late"))
            else:
                sink.write(output(index))
    assert len(times(tmp_path / "o.mp4")) == 3


def test_a_file_that_somebody_removes_is_missed_once(tmp_path):
    with VideoSink(tmp_path / "o.mp4") as sink:
        sink.write(output(0))
        (tmp_path / "o.part.mp4").unlink()
        sink.write(output(1))
        with pytest.raises(OSError):
            sink.write(output(2, connection=2))
        sink.write(output(3, connection=2))
        sink.write(output(4, connection=2))
    assert len(times(tmp_path / "o.mp4")) == 2


def test_times_of_recordings(tmp_path):
    """A gap, a repeat, a step back, a step of a clock: the length is what a viewer would have seen."""
    pts = [0.0, 0.04, 0.08, 0.5, 0.5, 0.2, 0.24, 1000.0, 1000.04, 3.0]
    with VideoSink(tmp_path / "t.mp4") as sink:
        for index, pts_s in enumerate(pts):
            sink.write(output(index, pts_s=pts_s, live=False))
    got = times(tmp_path / "t.mp4")
    assert got[:4] == pytest.approx([0, 0.04, 0.08, 0.5], abs=1e-3)
    assert np.diff(got).min() > 0
    assert got[6] - got[5] == pytest.approx(0.04, abs=1e-3)
    assert got[-1] < 1.0


def test_lengths_of_strangers_recordings(tmp_path):
    """Clips one behind the other in one stream, one picture in 15 seconds, and television's pixels; ffprobe judges."""
    subprocess.run(["ffmpeg", "-v", "error", "-i", BIKES, "-t", "2", "-c", "copy", tmp_path / "a.ts"], check=True)
    (tmp_path / "concat.ts").write_bytes(3 * (tmp_path / "a.ts").read_bytes())
    asked = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=1/15:duration=90", "-c:v", "libx264"]
    subprocess.run(["ffmpeg", "-v", "error", *asked, tmp_path / "lapse.mp4"], check=True)
    asked = ["-f", "lavfi", "-i", "testsrc2=size=720x576:duration=0.2", "-vf", "setsar=64/45", "-c:v", "libx264"]
    subprocess.run(["ffmpeg", "-v", "error", *asked, tmp_path / "sar.mp4"], check=True)
    for name, length in {"concat.ts": 3 * seconds(tmp_path / "a.ts"), "lapse.mp4": 90.0, "sar.mp4": 0.2}.items():
        run(brightness, tmp_path / name, [VideoSink(tmp_path / f"{name}.out.mp4")])
        assert seconds(tmp_path / f"{name}.out.mp4") == pytest.approx(length, abs=0.2), name
    with av.open(str(tmp_path / "sar.mp4.out.mp4")) as container:
        shown = container.streams.video[0]
        assert (shown.width, shown.height, shown.sample_aspect_ratio) in ((1024, 576, None), (1024, 576, 1))
    with open_source(tmp_path / "sar.mp4") as source:
        assert next(source).image.shape == (576, 1024, 3)  # what the model sees
        assert source.facts.size == (576, 1024)


def test_times_of_cameras_are_those_of_capture_where_stamps_are_wrong(tmp_path):
    """Stamps that stand still, step back within a second or are missing: 2 s stay 2 s, in one file."""
    wrong = itertools.cycle([lambda s: s, lambda s: None, lambda s: s - 0.5, lambda s: 1.0, lambda s: s])
    with VideoSink(tmp_path / "c.mp4") as sink:
        for index in range(51):
            s = index * 0.04
            stamp = next(wrong)(s) if 10 < index < 40 and 0.6 < s < 1.4 else s
            sink.write(output(index, pts_s=stamp))
    got = times(tmp_path / "c.mp4")
    assert names(tmp_path) == ["c.mp4"]
    assert got[-1] == pytest.approx(2.0, abs=0.6)
    assert np.diff(got).min() > 0


def test_an_hour_of_frames_does_not_grow_the_memory_without_end(tmp_path, monkeypatch):
    """A file ends after so many frames, since its index waits in memory; the promise, at a smaller number."""
    from edgecv_runtime.stream.sinks import video

    assert video._MOST_FRAMES * 69 < 50e6
    monkeypatch.setattr(video, "_MOST_FRAMES", 20)
    run(brightness, FakeCamera([Frames(50)]), [VideoSink(tmp_path / "m.mp4")])
    assert sorted(len(times(path)) for path in tmp_path.iterdir()) == [10, 20, 20]


def test_a_disk_that_is_full_for_a_moment_ends_no_recording(tmp_path):
    """A file-size limit that comes and goes, as a full disk does: what came after is there, and all can be read."""
    code = """
import resource, signal, sys
import numpy as np
from edgecv_runtime.stream import JsonLinesSink, VideoSink
from test_stream_segments import output
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sinks = VideoSink(sys.argv[1] + "/v.mp4"), JsonLinesSink(sys.argv[1] + "/j.jsonl")
failed = [0, 0]
noise = np.random.default_rng(0)
for index in range(240):
    limit = 100_000 if index < 80 else 4_000 if index < 110 else 10_000_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    one = output(index)
    one.frame.image[:] = noise.integers(0, 255, one.frame.image.shape)
    for number, sink in enumerate(sinks):
        try:
            sink.write(one)
        except OSError:
            failed[number] += 1
for sink in sinks:
    sink.close()
print(*failed)
"""
    process = run_python(code, tmp_path)
    printed, errors = process.communicate(timeout=60)
    movie, lines = map(int, printed.split())
    assert lines == 30, errors
    assert 0 < movie <= 30
    told = [json.loads(line)["index"] for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    assert told == [*range(80), *range(110, 240)]
    counts = [len(times(path)) for path in tmp_path.glob("*.mp4")]
    assert 180 <= sum(counts) <= 240 - movie
    assert not list(tmp_path.glob("*.part.mp4"))
