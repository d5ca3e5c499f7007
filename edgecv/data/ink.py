"""scikit-learn's handwritten digits written on its two photographs, every pixel of ink known: a small set of masks that
any machine can make, the same on each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgecv.data import digits
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images, from_arrays
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.preprocess import Image, import_cv2

COUNT = 400  # images; as many of them are for validation as the share says
SIDE = 64  # of an image, in pixels
CLASSES = ("background", "ink")
_WRITTEN = 1, 4  # digits that are written on an image, at least and at most
_SIZES = 18, 32  # of a digit, in pixels, at least and at most
_INK = 0.5  # how much of a pixel is covered, from which on it is ink
_TRIES = 20  # places that are tried for a digit until it lies on no other
_CONTRAST = 90  # grey levels between ink and what it lies on, at least


def load(config: DataConfig) -> Dataset:
    """Make the images; `truths` are masks (SIDE, SIDE) uint8, 1 where there is ink.

    Digits and photographs are divided first: what is validated on shows no digit that was trained on, on other parts of
    the photographs. Raises Unavailable without scikit-learn.
    """
    written = digits.load(config)
    photos = _photographs()
    cut = round(photos[0].shape[1] * (1 - config.share))
    val = min(max(1, round(COUNT * config.share)), COUNT - 1)
    train = _images("train", written.train, [photo[:, :cut] for photo in photos], COUNT - val, config.seed)
    return Dataset(
        CLASSES,
        train,
        _images("val", written.val, [photo[:, cut:] for photo in photos], val, config.seed),
        task="segmentation",
    )


def _photographs() -> list[Image]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as exc:
        raise Unavailable("the digits and photographs come with scikit-learn", extra="pretrained") from exc
    return [np.ascontiguousarray(photo[:, :, ::-1]) for photo in load_sample_images().images]


def _images(part: str, written: Images, grounds: Sequence[Image], count: int, seed: int) -> Images:
    """Some images of one part; each follows from the seed, the part and its own number."""
    made = [_drawn(np.random.default_rng([seed, part == "val", index]), written, grounds) for index in range(count)]
    found = from_arrays([f"ink/{part}/{index:04d}" for index in range(count)], [image for image, _ in made])
    return Images(found.names, found.stamps, found.read, [mask for _, mask in made])


def _drawn(rng: np.random.Generator, written: Images, grounds: Sequence[Image]) -> tuple[Image, NDArray[np.uint8]]:
    """A cut-out of a photograph with digits on it, and its mask."""
    cv2 = import_cv2()
    image = _ground(rng, grounds).astype(np.float32)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(int(rng.integers(_WRITTEN[0], _WRITTEN[1] + 1))):
        which, size = int(rng.integers(len(written))), int(rng.integers(_SIZES[0], _SIZES[1] + 1))
        cover = cv2.resize(
            written[which][:, :, 0].astype(np.float32) / 255, (size, size), interpolation=cv2.INTER_CUBIC
        )
        cover = cover.clip(0, 1)[..., None]
        place = _place(rng, mask, size)
        if place is None:
            continue
        ground = image[place]
        image[place] = ground + cover * (_ink(rng, float(ground.mean())) - ground)
        mask[place][cover[..., 0] > _INK] = 1
    return image.round().astype(np.uint8), mask


def _ground(rng: np.random.Generator, grounds: Sequence[Image]) -> Image:
    """A square of a photograph, up to twice as large as an image, mirrored or not."""
    cv2 = import_cv2()
    photo = grounds[int(rng.integers(len(grounds)))]
    height, width = photo.shape[:2]
    side = int(rng.integers(min(SIDE, height, width) // 2, min(2 * SIDE, height, width) + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    cut: Image = cv2.resize(photo[top : top + side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return cut[:, ::-1] if rng.random() < 0.5 else cut


def _place(rng: np.random.Generator, mask: NDArray[np.uint8], size: int) -> tuple[slice, slice] | None:
    """Where a digit touches no other; None when none was found."""
    for _ in range(_TRIES):
        top, left = (int(each) for each in rng.integers(SIDE - size + 1, size=2))
        place = slice(top, top + size), slice(left, left + size)
        if not mask[place].any():
            return place
    return None


def _ink(rng: np.random.Generator, ground: float) -> NDArray[np.float32]:
    """A colour, BGR, that is far from the grey level of what it lies on."""
    grey = rng.uniform(0, ground - _CONTRAST) if ground > 128 else rng.uniform(ground + _CONTRAST, 255)
    return (grey + rng.uniform(-40, 40, 3)).clip(0, 255).astype(np.float32)
