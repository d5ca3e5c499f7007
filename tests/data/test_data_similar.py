"""Copies that are not equal byte for byte are found and named; what only looks alike is not."""

from importlib.resources import files

import cv2
import numpy as np
import pytest

from edgecv.data import DataConfig, load
from edgecv.data.dataset import from_arrays
from edgecv.data.similar import is_copy, near_copies, perceptual_hash

PHOTOS = {name: (files("sklearn.datasets.images") / f"{name}.jpg").read_bytes() for name in ("china", "flower")}


def decoded(name):
    return cv2.imdecode(np.frombuffer(PHOTOS[name], np.uint8), cv2.IMREAD_COLOR)


def saved(image, quality, suffix=".jpg"):
    return cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


@pytest.fixture
def divided(photos):
    """train/ and val/ of photographs' quarters (real pictures, all different), and where more can be put."""
    root = photos({})
    for half, picture in (("train", "china"), ("val", "flower")):
        whole = decoded(picture)
        for number, (row, column) in enumerate(((0, 0), (0, 320), (213, 0), (213, 320))):
            path = root / half / ("cat" if number % 2 else "dog") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), whole[row : row + 213, column : column + 320])
    return root


def notes(root):
    return load(DataConfig(source="folder", path=str(root))).notes


def test_thumbnails_and_photos_that_were_saved_again_are_counted_and_named(divided):
    assert notes(divided) == ()
    for number, made in enumerate(
        (
            saved(cv2.imread(str(divided / "train/dog/0.png")), 40),
            saved(cv2.resize(cv2.imread(str(divided / "train/cat/1.png")), (96, 64), interpolation=cv2.INTER_AREA), 75),
        )
    ):
        (divided / f"val/dog/copy{number}.jpg").write_bytes(made)
    assert notes(divided) == (
        "2 of the validation images are resized or re-encoded copies of images in train, so that its accuracy is too "
        "high: val/dog/copy0.jpg ~ train/dog/0.png, val/dog/copy1.jpg ~ train/cat/1.png",
    )
    assert len(notes(divided)) == 1  # from what is remembered of the files, too


@pytest.mark.parametrize("share", [0.3, 0.7, 1.6])
@pytest.mark.parametrize("name", PHOTOS)
def test_a_photograph_is_known_again_in_another_size(name, share):
    small = cv2.resize(decoded(name), None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    again = cv2.imdecode(np.frombuffer(saved(small, 60), np.uint8), cv2.IMREAD_COLOR)
    assert is_copy(decoded(name), again)
    assert not is_copy(decoded(name), decoded("flower" if name == "china" else "china"))
    assert not is_copy(decoded(name), np.ascontiguousarray(small[:, ::-1]))  # a mirrored photo is another picture


def pattern(color):
    """A lamp on a housing, by day: only its colour tells the classes apart."""
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 1), np.uint8).repeat(3, axis=2)
    picture = cv2.resize(picture, (240, 240), interpolation=cv2.INTER_CUBIC)
    return cv2.circle(picture, (120, 120), 40, color, -1)


def test_a_red_light_is_no_copy_of_a_green_one():
    red, green = pattern((40, 40, 200)), pattern((40, 121, 40))
    grey = [cv2.cvtColor(each, cv2.COLOR_BGR2GRAY).astype(int) for each in (red, green)]
    assert np.abs(grey[0] - grey[1]).max() <= 3
    assert not is_copy(red, green)
    assert is_copy(red, red[::2, ::2])


@pytest.mark.parametrize("levels", [(255, 235), (128, 140), (60, 50)])
def test_plain_backgrounds_are_not_known_again(levels):
    ramps = [np.linspace(0, level, 640).astype(np.uint8)[None, :, None].repeat(480, 0).repeat(3, 2) for level in levels]
    assert np.corrcoef(ramps[0].ravel(), ramps[1].ravel())[0, 1] > 0.99
    assert not is_copy(*ramps)
    flat = [np.full((480, 640, 3), level, np.uint8) for level in levels]
    assert not is_copy(*flat)


@pytest.mark.parametrize("side", [8, 32])
def test_digits_that_look_alike_are_different_images(digits, side):
    pictures = [cv2.resize(image, (side, side)) for image in digits[0]]
    names = [str(number) for number in range(len(pictures))]
    hashes = {name: perceptual_hash(picture) for name, picture in zip(names, pictures, strict=True)}
    judged, seen = from_arrays(names[:300], pictures[:300]), from_arrays(names[300:], pictures[300:])
    rows = [np.frombuffer(hashes[name], np.uint8).astype(float) for name in names]
    likest = np.corrcoef(rows[:300], rows[300:])[:300, 300:].max(axis=1)
    assert (likest > 0.97).sum() > 20  # a hash alone would call these copies
    assert near_copies(judged, seen, hashes) == []


def test_nothing_to_compare_is_no_copy(digits):
    one = from_arrays(["a"], digits[0][:1])
    hashes = {"a": perceptual_hash(digits[0][0])}
    assert near_copies(one, one.pick([]), hashes) == near_copies(one.pick([]), one, hashes) == []
    assert near_copies(one, one, hashes) == []  # equal ones are counted as such, elsewhere
