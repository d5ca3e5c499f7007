"""A source in a process of its own: the same frames, and a crash or a hang there ends and revives only that."""

from __future__ import annotations

import os
import signal
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from crashing import InTurn, Trouble, broken
from stream_lab import BIKES, RtspServer, brightness, encode, run_python, with_display_matrix

from edgecv_runtime.errors import BadInput, SourceUnavailable
from edgecv_runtime.stream import CallbackSink, Camera, FakeCamera, Settings, Stream, Waits, open_source, run
from edgecv_runtime.stream.sources import ring, swscale
from edgecv_runtime.stream.sources.decoded import Decoded
from edgecv_runtime.stream.sources.fake import Frames, number_of
from edgecv_runtime.stream.sources.isolated import Isolated, isolated

IMAGE = Decoded.image
SOON = Waits(first_s=0.05, longest_s=0.2)


def alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{process_id}/status").read_text()


def gone_within(process_id, seconds):
    until_s = time.monotonic() + seconds
    while alive(process_id) and time.monotonic() < until_s:
        time.sleep(0.02)
    return not alive(process_id)


def test_the_frames_and_facts_are_those_of_the_source():
    with open_source(BIKES) as clip:
        expected = [frame.image for frame in clip][:25]
    with RtspServer(frames=25) as server, Isolated(open_source(server.url), lossless=True) as camera:
        assert (camera.facts.live, camera.facts.size, camera.facts.codec) == (True, (272, 640), "h264")
        frames = list(camera)
    assert all(np.array_equal(frame.image, clip) for frame, clip in zip(frames, expected, strict=True))
    assert camera.end.kind == "hung up"


def test_what_comes_with_the_answer_to_the_opening_is_not_lost(monkeypatch):
    """A parent that is late reads the facts, the memory and the first pictures at once."""
    receive = Isolated._receive

    def late(self):
        time.sleep(0.2)
        return receive(self)

    monkeypatch.setattr(Isolated, "_receive", late)
    with Isolated(open_source("fake:7"), lossless=True) as source:
        assert [number_of(frame.image) for frame in source] == list(range(7))


def test_pictures_that_are_kept_stay_as_they_are():
    """Also where only a part of one is kept, when more are kept than there are slots, and when pictures grow."""
    kept, parts = [], []
    with Isolated(Trouble(30, "grow")) as camera:
        for shot in camera.shots():
            kept.append(shot.image)
            parts.append(shot.image[:1, ::2])
            if len(kept) > 8:
                del kept[0]
    numbers = [number_of(part) for part in parts]
    assert numbers[-1] == 59  # while slots are missing, frames are dropped
    assert numbers == sorted(set(numbers))
    assert [number_of(image) for image in kept] == numbers[-8:]
    assert kept[-1].shape == (96, 128, 3)
    assert all(int(image[5, 7, 2]) == 4 * number_of(image) % 256 for image in kept)


def test_frames_that_nobody_takes_are_in_the_account():
    def slow(image):
        time.sleep(0.05)
        return brightness(image)

    report = run(slow, Trouble(60, "end"), [CallbackSink(lambda *_: None)])
    each = report.sources[0]
    assert (each.read, each.damaged, each.ended) == (60, 5, "end of file")
    assert each.inferred + each.dropped["late"] == 60


def crashed(then, act=None, stall_s=2.5, timeout_s=5.0):
    """Run two cameras of which one has trouble twice; (report, its events, the frames of the other)."""
    stop, events = threading.Event(), []
    other = FakeCamera([Frames(10**6)], fps=50, name="other")
    settings = Settings(waits=SOON, stall_s=stall_s)
    stream = Stream(brightness, [Trouble(20 if act is None else 10**6, then, timeout_s=timeout_s), other], (), settings)
    stream.journal.subscribe(events.append)

    def note(event):
        mine = [each.state for each in events if each.name == "cam"]
        if event.name == "cam" and event.state == "live" and mine.count("live") == 3:
            stop.set()
        elif event.name == "cam" and event.state == "live" and act is not None:
            child = stream.cameras[0].source.process_id
            threading.Timer(0.2, lambda: os.kill(child, act)).start()

    stream.journal.subscribe(note)
    threading.Timer(25, stop.set).start()
    report = stream.run(stop)
    return report, [event for event in events if event.name == "cam"]


@pytest.mark.parametrize(
    ("then", "act", "told"),
    [
        ("segfault", None, "died of SIGSEGV"),
        ("end", signal.SIGSEGV, "died of SIGSEGV"),
        ("end", signal.SIGKILL, "died of SIGKILL"),
    ],
)
def test_a_decoder_that_crashes_is_revived(then, act, told):
    report, events = crashed(then, act)
    mine, other = report.sources
    assert mine.connections == 3
    assert [event.state for event in events] == [
        *("connecting", "live", "backing off") * 2,
        "connecting",
        "live",
        "ended",
    ]
    assert all(told in event.reason for event in events if event.state == "backing off")
    assert (other.connections, other.attempts, other.ended) == (1, 1, "stopped")
    assert other.inferred > 30
    for each in report.sources:
        assert each.read == each.inferred + each.failed + sum(each.dropped.values())


@pytest.mark.parametrize(("then", "act"), [("hang", None), ("end", signal.SIGSTOP)])
def test_a_decoder_that_hangs_is_noticed_killed_and_revived(then, act):
    report, events = crashed(then, act, stall_s=0.4, timeout_s=0.5)
    assert report.sources[0].connections == 3
    states = [event.state for event in events]
    assert states == [*("connecting", "live", "stalled", "backing off") * 2, "connecting", "live", "ended"]
    assert all("and was killed" in event.reason for event in events if event.state == "backing off")
    lost = next(n for n, event in enumerate(events) if event.state == "backing off")
    assert events[lost].monotonic_ns - events[lost - 2].monotonic_ns < 3.5e9


def test_a_decoder_that_always_crashes_is_tried_less_and_less():
    stop, events = threading.Event(), []

    def note(event):
        events.append(event)
        if event.state == "failed":
            threading.Timer(0.3, stop.set).start()

    start_s = time.monotonic()
    run(brightness, Trouble(0, "segfault"), on_event=note, stop=stop, waits=Waits(first_s=0.01, longest_s=60))
    assert time.monotonic() - start_s < 20
    failed = next(event for event in events if event.state == "failed")
    assert (failed.attempt, failed.reason) == (5, "crashed 5 times in 60 s")
    after = events[events.index(failed) + 1]
    assert after.state == "backing off"
    assert float(after.reason.rsplit("in ", 1)[1].split()[0]) >= 48


def test_a_setting_that_cannot_work_does_not_loop():
    source = Trouble(1, "end")
    source.again = broken
    report = run(brightness, source)
    each = report.sources[0]
    assert (each.ended, each.attempts, report.exit_code) == ("error", 1, 3)
    assert "No module named 'camera_of_somebody'" in each.detail


def test_no_process_stays_and_no_password_is_in_its_command_line(guarded_camera):
    source = open_source(guarded_camera.with_login("admin:canary%407%2F%2541"))
    with Isolated(source) as camera:
        child = camera.process_id
        assert next(camera).image.shape == (272, 640, 3)
        words = Path(f"/proc/{child}/cmdline").read_bytes()
        assert b"canary" not in words
        assert b"canary" not in Path(f"/proc/{os.getpid()}/cmdline").read_bytes()
    assert gone_within(child, 2)


def test_a_network_camera_s_process_maps_only_what_it_needs():
    """NumPy and its OpenBLAS, OpenCV and the runtimes are a hundred megabytes, of which each process dirties some."""
    with RtspServer(BIKES) as server, Isolated(open_source(server.url)) as camera:
        next(camera)
        mapped = Path(f"/proc/{camera.process_id}/maps").read_text()
    assert "/libavcodec" in mapped
    assert [name for name in ("numpy", "cv2", "onnxruntime", "openvino", "torch") if f"/{name}" in mapped] == []


def test_images_use_the_memory_of_those_that_were_freed(tmp_path):
    """In a new process, whose allocator has not freed large blocks before: 1,500 page faults were each image's."""
    path = encode([np.full((1080, 1920, 3), 9 * n, np.uint8) for n in range(24)], tmp_path / "clip.mp4", "mpeg4")
    code = """
import resource, sys
from edgecv_runtime.stream import Isolated, open_source
faults = []
with Isolated(open_source(sys.argv[1]), lossless=True) as camera:
    for frame in camera:
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[-13])
"""
    process = run_python(code, path)
    assert int(process.communicate()[0]) < 12 * 200


def test_a_prepared_child_does_not_touch_the_camera_before_it_is_opened():
    camera = Isolated(Trouble(10**6, "end"))
    camera.prepare()
    time.sleep(1.5)
    with camera:
        frame = next(camera)
    assert number_of(frame.image) == 0
    assert time.monotonic_ns() - frame.captured_ns < 1e9


def test_a_child_that_waits_for_its_turn_is_ended_with_the_camera(monkeypatch):
    """The next child is started while the back-off lasts."""
    stop, children = threading.Event(), []
    prepare = Isolated.prepare

    def noted(source):
        prepare(source)
        children.append(source.process_id)
        if len(set(children)) == 2:
            stop.set()

    monkeypatch.setattr(Isolated, "prepare", noted)
    threading.Timer(20, stop.set).start()
    run(brightness, Trouble(5, "segfault"), stop=stop, waits=Waits(first_s=30, longest_s=60))
    assert len(set(children)) == 2
    assert not any(alive(child) for child in children)


def test_children_end_with_their_parent():
    code = """
import sys
from crashing import Trouble
from edgecv_runtime.stream.sources.isolated import Isolated
camera = Isolated(Trouble(10**6, "end"))
next(camera)
print(camera.process_id, flush=True)
sys.stdin.read()
"""
    process = run_python(code, stdin=-1)
    child = int(process.stdout.readline())
    assert alive(child)
    process.kill()
    process.wait()
    assert gone_within(child, 3)


def test_what_is_isolated_by_itself():
    assert isinstance(isolated(open_source("rtsp://127.0.0.1:1/x")), Isolated)
    assert isinstance(isolated(open_source(0)), Isolated)
    again = isolated(open_source(0), lossless=True).again()
    assert (type(again), again.name, again._lossless) == (Isolated, "camera:0", True)
    assert not isinstance(isolated(open_source(BIKES)), Isolated)
    assert not isinstance(isolated(open_source("fake:fps=5,5")), Isolated)
    with pytest.raises(BadInput, match="cannot be isolated"):
        Isolated(FakeCamera([]))
    with Camera(Isolated(open_source("fake:fps=50,10"))) as camera:  # also by hand
        assert len(list(camera)) + sum(camera.dropped.values()) == 10


def colours(count, size):
    """Pictures in which neighbours differ in colour, also of one chroma sample."""
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    return [
        np.stack([columns * 3 + 9 * n, rows * 5 + columns, (rows + columns) * 7 - 5 * n], axis=-1).astype(np.uint8)
        for n in range(count)
    ]


def as_it_is(path):
    return path


# Of each clip: how it is made, what is done to it then, and whether it is converted straight into shared memory.
CLIPS = {
    "bt601": ({"colorspace": 5}, as_it_is, True),
    "bt709": ({"colorspace": 1}, as_it_is, True),
    "full range": ({"color_range": 2, "colorspace": 1}, as_it_is, True),
    "jpeg": ({"codec": "mjpeg", "pix_fmt": "yuvj420p"}, as_it_is, True),
    "padded rows": ({"size": (84, 90)}, as_it_is, True),
    "turned": ({}, lambda path: with_display_matrix(path, (0, 1, -1, 0)), False),
    "a height that four does not divide": ({"size": (82, 96)}, as_it_is, True),
    "rows that swscale writes beyond": ({"size": (80, 100)}, as_it_is, False),
    "odd height": ({"size": (81, 96), "pix_fmt": "yuv420p", "codec": "mpeg4"}, as_it_is, False),
    "odd width": ({"size": (80, 97), "pix_fmt": "yuv420p", "codec": "mpeg4"}, as_it_is, False),
    "wide pixels": ({"aspect": Fraction(4, 3)}, as_it_is, False),
    "interlaced": ({"options": {"x264-params": "interlaced=1"}}, as_it_is, False),
    "ten bits": (
        {"pix_fmt": "yuv420p10le", "codec": "libx265", "options": {"x265-params": "log-level=0"}},
        as_it_is,
        False,
    ),
    "4:2:2": ({"pix_fmt": "yuv422p"}, as_it_is, False),
}


def made(path, size=(80, 96), codec="libx264", pix_fmt="yuv420p", aspect=None, options=None, **tags):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for image in colours(4, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return path


def is_direct(picture, monkeypatch):
    """Whether its image is made in the memory that is given, and nothing is written beyond what it may be."""
    with monkeypatch.context() as patch:
        made = []
        patch.setattr(Decoded, "image", lambda picture: made.append(picture) or IMAGE(picture))
        size = ring.nbytes(picture.size)
        memory = bytearray(b"\xa5" * (size + swscale.READ_BEYOND + 64))
        picture.write_to(memoryview(memory)[: size + swscale.READ_BEYOND])
    assert memory.endswith(b"\xa5" * 64)
    return not made


def test_pictures_are_bit_for_bit_those_without_isolation(tmp_path, monkeypatch):
    """Whether or not they are converted straight into the shared memory; PyAV alone says what is in the files."""
    paths = [then(made(tmp_path / f"{kind}.mp4", **how)) for kind, (how, then, _) in CLIPS.items()]
    with Isolated(InTurn(paths), lossless=True) as camera:
        images = [frame.image for frame in camera]
    for (kind, (_, _, direct)), path in zip(CLIPS.items(), paths, strict=True):
        with av.open(str(path)) as container:
            decoded = list(container.decode(video=0))
        assert [frame.interlaced_frame for frame in decoded] == [kind == "interlaced"] * 4
        with open_source(path) as source:
            shots = list(source.shots())
        assert [is_direct(shot.picture, monkeypatch) for shot in shots] == [direct] * 4, kind
        for shot, frame in zip(shots, decoded, strict=True):
            image = images.pop(0)
            np.testing.assert_array_equal(image, shot.image, kind)
            expected = frame.to_ndarray(format="bgr24", threads=1)
            if kind == "wide pixels":
                assert image.shape == (80, 128, 3)
            else:
                np.testing.assert_array_equal(image, np.rot90(expected, -1) if kind == "turned" else expected, kind)
    assert not images


@pytest.mark.parametrize("isolate", [True, False])
def test_colours_that_cannot_be_converted_are_told_in_one_line(tmp_path, isolate):
    """ICtCp (ITU-T H.273, table 4), as an HDR camera may send; swscale has no matrix for it."""
    path = made(tmp_path / "ictcp.mp4", colorspace=14)
    camera = Isolated(InTurn([path])) if isolate else open_source(path)
    with camera, pytest.raises(SourceUnavailable, match=r"ictcp.mp4: .* space 14 of .* BT.709") as caught:
        list(camera)
    assert caught.value.kind == "no video"
    assert "\n" not in str(caught.value)


def test_colours_of_a_reserved_number_are_those_of_none(monkeypatch):
    images = []
    for number in (2, 3):  # unspecified, reserved
        frame = av.VideoFrame.from_ndarray(colours(1, (80, 96))[0], format="bgr24").reformat(format="yuv420p")
        frame.colorspace = number
        picture = Decoded(frame, 96, "camera")
        assert is_direct(picture, monkeypatch)
        images.append(picture.image())
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("curve", [0, 3, 9])
def test_curves_that_are_not_converted_are_not_refused(curve):
    """Reserved ones and the logarithmic, as PyAV 17 did."""
    frame = av.VideoFrame.from_ndarray(colours(1, (80, 96))[0], format="bgr24").reformat(format="yuv420p")
    expected = frame.to_ndarray(format="bgr24")
    frame.color_trc = frame.color_primaries = curve
    np.testing.assert_array_equal(Decoded(frame, 96, "camera").image(), expected)


def test_an_image_that_could_not_be_written_is_none():
    """What was in the slot before would be given as the next frame."""
    conversion = swscale.conversion(swscale.Kind("yuv420p", 80, 96, 1, 1))
    gone = SimpleNamespace(planes=[SimpleNamespace(buffer_ptr=0, line_size=96)] * 3)
    memory = memoryview(bytearray(80 * 96 * 3 + swscale.READ_BEYOND))
    assert not conversion.into(memory, gone)
    assert conversion.into(memory, av.VideoFrame(96, 80, "yuv420p"))


@pytest.mark.parametrize(
    ("slot", "size"), [(3, (64, 64)), (-1, (64, 64)), (2, (99, 64)), (2, (64, 1 << 40)), (2, (0, 64)), (2, (-64, -64))]
)
def test_images_that_cannot_be_are_not_read(slot, size):
    """What a process whose memory is damaged may say of its images ends it, and not this one."""
    slots, descriptor = ring.Slots.make((64, 64))
    os.close(descriptor)
    assert slots.image(2, (64, 64), lambda: None).shape == (64, 64, 3)
    with pytest.raises(ValueError, match="an image of"):
        slots.image(slot, size, lambda: None)


def test_a_conversion_that_differs_is_not_used(tmp_path, monkeypatch):
    """As of another FFmpeg, whose own defaults may be others."""
    kind = swscale.Kind("yuv420p", 80, 96, 1, 1)
    assert swscale.conversion(kind) is not None
    swscale.conversion.cache_clear()
    into = swscale.Conversion.into

    def one_bit_off(conversion, memory, frame):
        written = into(conversion, memory, frame)
        memory[80 * 96 * 3 - 1] ^= 1
        return written

    monkeypatch.setattr(swscale.Conversion, "into", one_bit_off)
    assert swscale.conversion(kind) is None
    swscale.conversion.cache_clear()
