"""Decoded images are cached: the right pixels in the right order, whole or not at all."""

import logging
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from edgecv.data import DataConfig, Images, bytes_to_write, cached, cached_masks, load
from edgecv.data.checked import UnreadableFiles
from edgecv_runtime.errors import BadInput, ImageError
from edgecv_runtime.preprocess import Preprocess

PREPROCESS = Preprocess(size=(24, 20), mode="letterbox", interpolation="cubic")


@pytest.fixture(scope="module")
def val():
    return load(DataConfig(source="digits")).val


def forgetful(images):
    """The same images, but reading one is an error."""

    def read(index):
        raise AssertionError(f"image {index} was read again")

    return Images(images.names, images.stamps, read, images.labels)


@pytest.mark.parametrize("color", ["RGB", "GRAY"])
def test_the_cache_holds_what_preprocessing_gives(val, tmp_path, color):
    preprocess = Preprocess(size=(24, 20), color=color)
    array = cached(val, preprocess, tmp_path)
    assert array.dtype == np.uint8
    assert isinstance(array, np.memmap)
    assert np.array_equal(array, preprocess.batch(list(val)))
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_order_is_kept_though_threads_finish_in_another(val, tmp_path):
    def slowly(index):
        time.sleep(0.02 if index % 7 == 0 else 0)
        return val[index]

    some = Images(val.names[:60], val.stamps[:60], slowly, val.labels[:60])
    assert np.array_equal(cached(some, PREPROCESS, tmp_path), PREPROCESS.batch([val[index] for index in range(60)]))


def test_images_are_decoded_once(val, tmp_path):
    before = cached(val, PREPROCESS, tmp_path)
    assert np.array_equal(cached(forgetful(val), PREPROCESS, tmp_path), before)
    assert len(list(tmp_path.iterdir())) == 1


def test_other_images_or_preprocessing_are_another_cache(val, tmp_path):
    cached(val, PREPROCESS, tmp_path)
    with pytest.raises(AssertionError, match="read again"):
        cached(forgetful(val), Preprocess(size=(24, 20), mode="letterbox"), tmp_path)
    with pytest.raises(AssertionError, match="read again"):
        cached(forgetful(val.take(300)), PREPROCESS, tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "other shape"])
def test_a_damaged_cache_is_made_again_and_said(val, tmp_path, caplog, damage):
    before = np.array(cached(val, PREPROCESS, tmp_path))
    path = next(tmp_path.iterdir())
    if damage == "other shape":
        np.save(path, before[:5])
    else:
        path.write_bytes(path.read_bytes()[:5000] if damage == "truncated" else b"")
    with caplog.at_level(logging.WARNING, "edgecv.data"):
        assert np.array_equal(cached(val, PREPROCESS, tmp_path), before)
    assert "is damaged and is made again" in caplog.text


def test_every_image_that_cannot_be_decoded_is_named_and_nothing_is_left(val, tmp_path):
    def read(index):
        if index % 30 == 0:
            raise ImageError(f"{val.name(index)}: the file is empty")
        return val[index]

    with pytest.raises(UnreadableFiles, match=r"12 images cannot be decoded: .* and 2 more") as caught:
        cached(Images(val.names, val.stamps, read, val.labels), PREPROCESS, tmp_path)
    assert len(caught.value.unreadable) == 12
    assert list(tmp_path.iterdir()) == []


def test_the_room_that_is_wanted_is_what_is_written(tmp_path):
    found = load(DataConfig(source="ink")).val.pick(range(4))
    preprocess = Preprocess((32, 48))
    wanted = bytes_to_write(found, preprocess, tmp_path)
    cached(found, preprocess, tmp_path)
    assert 0 < bytes_to_write(found, preprocess, tmp_path) < wanted
    cached_masks(found, preprocess, tmp_path, border=255)
    held = sum(np.load(file).nbytes for file in tmp_path.glob("*.npy"))
    assert (wanted, bytes_to_write(found, preprocess, tmp_path)) == (held, 0)


def test_no_images_are_refused(val, tmp_path):
    with pytest.raises(BadInput, match="no images"):
        cached(val.pick([]), PREPROCESS, tmp_path)


def test_what_killed_writers_left_is_removed(val, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".images-0123.npy.{dead.pid}.tmp"
    left.write_bytes(b"half")
    cached(val, PREPROCESS, tmp_path)
    assert not left.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    code = """
import sys
from edgecv.data import DataConfig, cached, load
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.preprocess import Preprocess
try:
    cached(load(DataConfig(source="digits")).val, Preprocess(size=(32, 32)), sys.argv[1])
except Unavailable as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert done.stdout.startswith(str(tmp_path / "cache"))
    assert done.stdout.endswith("cannot be written: File too large (1 MB are needed)\n")
    assert list((tmp_path / "cache").iterdir()) == []
