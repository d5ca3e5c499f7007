"""Files and folders: every frame exactly once, the right way up, and the truth about the end."""

from __future__ import annotations

import gc
import subprocess
import time

import av
import cv2
import numpy as np
import pytest
from stream_lab import BIKES, CARPHONE, CLIPS, encode, remux, tcp_server, truncate, with_display_matrix

from edgecv_runtime.errors import BadInput
from edgecv_runtime.stream import Camera, End, FakeCamera, Paced, open_source
from edgecv_runtime.stream.sources.fake import Frames


def frames_of(path):
    with open_source(path) as source:
        return list(source), source


def assert_same(image, expected):
    """As OpenCV decodes it, which leaves pixels that are not square (carphone's: 128:117) as they are."""
    if 176 not in expected.shape:
        assert np.array_equal(image, expected)
        return
    height, width = (192 if side == 176 else side for side in expected.shape[:2])
    square = cv2.resize(expected, (width, height), interpolation=cv2.INTER_CUBIC)
    assert image.shape == square.shape
    assert np.abs(image.astype(int) - square).mean() < 3


@pytest.mark.parametrize("clip", sorted(CLIPS))
def test_every_frame_once_as_opencv_decodes_it(clip):
    capture = cv2.VideoCapture(str(CLIPS[clip]), cv2.CAP_FFMPEG)
    with open_source(CLIPS[clip]) as source:
        times = []
        for frame in source:
            given, expected = capture.read()
            assert given
            assert frame.image.flags.c_contiguous
            assert_same(frame.image, expected)
            assert frame.index == len(times)
            times.append(frame.pts_s)
        assert not capture.read()[0]
        assert len(times) == source.declared_frames == capture.get(cv2.CAP_PROP_FRAME_COUNT)
        assert source.fps == pytest.approx(capture.get(cv2.CAP_PROP_FPS))
        assert (source.live, source.end) == (False, End("end of file"))
    assert np.allclose(np.diff(times), 1 / source.fps, atol=1e-4)
    assert next(source, None) is None


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)])
def test_turned_videos_stand_upright_as_in_opencv(tmp_path, matrix):
    path = with_display_matrix(remux(CARPHONE, tmp_path / "turned.mp4", count=3), matrix)
    frames, _ = frames_of(path)
    assert_same(frames[0].image, cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).read()[1])


def test_mirrored_videos_are_mirrored_back(tmp_path):
    plain, _ = frames_of(remux(CARPHONE, tmp_path / "plain.mp4", count=3))
    mirrored, _ = frames_of(with_display_matrix(remux(CARPHONE, tmp_path / "selfie.mp4", count=3), (-1, 0, 0, 1)))
    assert np.array_equal(mirrored[2].image, plain[2].image[:, ::-1])  # a selfie camera's; OpenCV 5.0 turns it by 180


def test_odd_sizes_are_contiguous(tmp_path):
    image = np.full((99, 101, 3), 90, np.uint8)
    frames, _ = frames_of(encode([image] * 2, tmp_path / "odd.avi", "mjpeg", pix_fmt="yuvj420p"))
    assert frames[0].image.shape == (99, 101, 3)
    assert frames[0].image.flags.c_contiguous
    assert abs(frames[0].image.astype(int) - image).max() <= 3  # full range is kept


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts"])
def test_complete_files_end_at_their_end(tmp_path, name):
    path = tmp_path / name
    if name == "clip.avi":
        encode([np.full((64, 64, 3), 5 * n, np.uint8) for n in range(50)], path, "mpeg4")
    else:
        remux(CARPHONE, path, count=50)
    frames, source = frames_of(path)
    assert len(frames) == 50
    assert source.end == End("end of file")


def test_truncated_mp4_says_how_much_is_missing(tmp_path):
    path = truncate(remux(BIKES, tmp_path / "cut.mp4", movflags="faststart"))
    frames, source = frames_of(path)
    assert 0 < len(frames) < 250
    assert source.end.detail == f"declared=250 read={len(frames)}"


def test_truncated_avi_and_mkv(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (100, 64, 64, 3), dtype=np.uint8)
    frames, source = frames_of(truncate(encode(list(noise), tmp_path / "cut.avi", "mpeg4")))
    assert source.end.detail == f"declared=100 read={len(frames)}"
    _, source = frames_of(truncate(remux(BIKES, tmp_path / "cut.mkv")))
    assert source.end.kind == "truncated"
    assert source.end.detail.startswith("declared=10.0s read=4.")


def ffprobe_count(path):
    """Frames that FFmpeg's own tool decodes; OpenCV loses two where a file is cut."""
    command = ["ffprobe", "-v", "quiet", "-count_frames", "-select_streams", "v"]
    command += ["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
    return int(subprocess.run([*command, str(path)], stdout=subprocess.PIPE, text=True, check=True).stdout)


def test_what_an_edit_list_hides_is_not_missing(tmp_path):
    ticks = round(3.2 * 30_000)  # of the clip's time base: what lies before zero is hidden
    path = remux(CARPHONE, tmp_path / "trimmed.mp4", earlier=ticks, avoid_negative_ts="disabled")
    frames, source = frames_of(path)
    assert len(frames) == source.declared_frames == ffprobe_count(path) == 24
    assert source.end == End("end of file")


def test_an_avi_with_gaps_is_whole(tmp_path):
    path = tmp_path / "gaps.avi"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("mpeg4", rate=25)
        stream.height = stream.width = 64
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 5 * number, np.uint8), format="bgr24")
            frame.pts = 5 * number  # the muxer fills the others with empty chunks
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    frames, source = frames_of(path)
    assert (len(frames), source.end) == (20, End("end of file"))
    assert source.declared_frames == 20
    assert frames[-1].pts_s == pytest.approx(19 / 5)
    _, cut = frames_of(truncate(path, 0.7))
    assert cut.end.kind == "truncated"


@pytest.mark.parametrize("part", [0.3, 0.6, 0.97])
@pytest.mark.parametrize("movflags", ["frag_keyframe+empty_moov", "faststart"])
def test_a_cut_mp4_gives_what_is_whole_of_it_and_says_that_it_is_cut(tmp_path, movflags, part):
    path = truncate(remux(BIKES, tmp_path / "cut.mp4", movflags=movflags), part)
    frames, source = frames_of(path)
    assert len(frames) == ffprobe_count(path)
    assert (source.end.kind, source.end.damaged) == ("truncated", 0)
    assert f"read={len(frames)}" in source.end.detail


def test_titles_in_other_encodings_are_no_error(tmp_path):
    path = tmp_path / "title.mkv"
    with av.open(str(path), "w") as made:
        made.metadata["title"] = "Hofeinfahrt"
        stream = made.add_stream("mjpeg", rate=25)
        stream.height = stream.width = 64
        stream.pix_fmt = "yuvj420p"
        made.mux(stream.encode(av.VideoFrame(64, 64, "yuvj420p")))
        made.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"Hofeinfahrt", b"Hofeinf\xfchrt"))
    assert len(frames_of(path)[0]) == 1


def test_frames_of_a_raw_stream_are_as_far_apart_as_its_rate_says(tmp_path):
    frames, source = frames_of(remux(BIKES, tmp_path / "raw.h264"))
    assert source.fps == 25
    assert [frame.pts_s for frame in frames] == pytest.approx([number / 25 for number in range(250)])


def test_a_hole_in_the_data_is_damage(tmp_path):
    path = remux(BIKES, tmp_path / "hole.mp4", movflags="faststart")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 60_000] = bytes(60_000)
    path.write_bytes(data)
    frames, source = frames_of(path)
    assert source.end.kind == "end of file"
    assert source.end.damaged > 0
    assert 250 - source.end.damaged <= len(frames) < 250


def test_what_is_no_video_is_refused_in_one_line(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    (tmp_path / "cut.mp4").write_bytes(BIKES.read_bytes()[:200_000])  # its index stood at its end
    (tmp_path / "folder").mkdir()
    cases = {
        "empty.mp4": "the file is empty",
        "text.mp4": r"not a video that can be decoded \(starts with b'hello hello",
        "cut.mp4": "its index is missing",
        "missing.mp4": "no such file",
        "folder": "no images in this folder",
    }
    for name, message in cases.items():
        with pytest.raises(BadInput, match=message) as caught, open_source(tmp_path / name):
            pass
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as made:
        stream = made.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.rate = 8000
        made.mux(stream.encode(sound))
        made.mux(stream.encode(None))
    with pytest.raises(BadInput, match="holds no video"), open_source(tmp_path / "sound.mkv"):
        pass


def test_a_playlist_in_disguise_opens_no_connection(tmp_path):
    calls = []
    with tcp_server(calls.append) as port:
        playlist = tmp_path / "list.m3u8"
        playlist.write_text(
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n"
        )
        with pytest.raises(BadInput), open_source(playlist):
            pass
    assert not calls


def test_names_that_look_like_other_things_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a:b.mp4", "7.mp4", "100%d.mp4"):
        remux(CARPHONE, tmp_path / "x.mp4", count=2).rename(tmp_path / name)
        assert len(frames_of(name)[0]) == 2
    assert len(frames_of(f"file:{tmp_path}/7.mp4")[0]) == 2
    assert len(frames_of(f"file://{tmp_path}/7.mp4")[0]) == 2


def test_a_folder_of_images_in_order_and_its_damage(tmp_path):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 30 + number, 3), 40 * number, np.uint8))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    frames, source = frames_of(tmp_path)
    assert [frame.path for frame in frames] == [str(tmp_path / f"{number}.png") for number in (0, 1, 3, 4)]
    assert [frame.image.shape[1] for frame in frames] == [30, 31, 33, 34]
    assert (source.declared_frames, source.end.damaged, frames[0].pts_s) == (5, 1, None)
    assert "2.png" in source.end.first_damaged
    assert len(frames_of(tmp_path / "3.png")[0]) == 1


def test_paced_files_behave_like_cameras(tmp_path):
    path = remux(BIKES, tmp_path / "short.mp4", count=15)
    start_s = time.monotonic()
    with open_source(path, pace=True) as source:
        assert isinstance(source, Paced)
        frames = list(source)
    assert source.live
    assert len(frames) == source.declared_frames == 15
    assert 14 / 25 - 0.02 < time.monotonic() - start_s < 1.5
    gaps = np.diff([frame.captured_ns for frame in frames]) / 1e9
    assert np.median(gaps) == pytest.approx(1 / 25, abs=0.015)


class Joined(FakeCamera):
    """Ten frames at 50 a second whose clock is set an hour on in the middle, and back."""

    def _shots(self):
        for number, shot in enumerate(super()._shots()):
            yield shot._replace(pts_s=number / 50 + (3600 if 4 <= number < 7 else 0 if number < 7 else -0.14))


def test_a_paced_recording_whose_clock_was_set_goes_on_at_its_speed():
    start_s = time.monotonic()
    with Paced(Joined([Frames(10, (24, 32))])) as source:
        frames = list(source)
    assert len(frames) == 10
    assert 9 / 50 - 0.01 < time.monotonic() - start_s < 2
    assert min(np.diff([frame.captured_ns for frame in frames])) > 0.005e9


def test_a_slow_consumer_of_a_paced_file_gets_young_frames_and_the_count_of_the_others():
    ages, indices = [], []
    with Camera(open_source(BIKES, pace=True)) as reader:
        for frame in reader:
            time.sleep(0.1)  # 10 of 25 frames a second
            ages.append((time.monotonic_ns() - frame.captured_ns) / 1e6 - 100)
            indices.append(frame.index)
            if len(indices) == 15:
                break
    assert reader.when_late == "drop-oldest"
    assert np.percentile(ages, 90) < 150  # one frame time and what a busy machine adds; a queue would hold seconds
    assert indices == sorted(set(indices))
    counts = reader.account.as_dict()
    assert counts["inferred"] == 15
    assert counts["dropped"]["late"] > 10
    assert counts["read"] == 15 + sum(counts["dropped"].values())
    reader.account.check(final=True)


def test_a_slow_consumer_of_a_file_loses_nothing(tmp_path):
    with Camera(open_source(remux(CARPHONE, tmp_path / "short.mp4", count=30))) as reader:
        indices = []
        for frame in reader:
            time.sleep(0.005)
            indices.append(frame.index)
    assert indices == list(range(30))
    assert (reader.when_late, reader.dropped, reader.ended) == ("wait", {}, "end of file")


def test_drop_newest_keeps_what_waits():
    with Camera(open_source("fake:fps=100,50"), when_late="drop-newest") as reader:
        time.sleep(0.3)
        frames = [frame.index for frame in reader]
    assert frames[0] == 0
    assert reader.dropped["late"] >= 10
    assert reader.account.as_dict()["read"] == 50


def test_decoded_frames_are_free_again_without_the_garbage_collector():
    """PyAV's `side_data` and its frame hold each other: a camera kept ninety frames, 40 MB of them."""
    gc.collect()
    gc.disable()
    try:
        with open_source(BIKES) as source:
            for _ in range(30):
                next(source)
            assert sum(type(each) is av.VideoFrame for each in gc.get_objects()) <= 3
    finally:
        gc.enable()
