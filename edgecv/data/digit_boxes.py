"""Many handwritten digits in one picture: scikit-learn's real digits on its real photographs, with exact boxes.

Every machine that has scikit-learn has these pictures, so that a detector can be trained where nothing is downloaded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from edgecv.data import digits
from edgecv.data.checked import decoder_version
from edgecv.data.config import DataConfig
from edgecv.data.dataset import Dataset, Images
from edgecv_runtime import images
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.preprocess import Image, import_cv2
from edgecv_runtime.tasks.detections import Boxes

COUNT = 400  # pictures in all
SIZE = 240, 320  # height, width
_DIGITS = 3, 10  # in a picture, from and to
_SIDES = 24, 80  # pixels of a digit's cell of 8 x 8
_PHOTOGRAPHS = "china.jpg", "flower.jpg"  # by danielbuechele and dany13, CC BY; 427 x 640
_INK = 0.5  # share of ink from which on a pixel belongs to a digit
_LEFT = 0.7  # of a photograph lies behind the pictures to train on, the rest behind those to validate on
_TRIES = 40  # places that are tried for a digit where others lie already


@dataclass(frozen=True)
class _Pasted:
    """A digit in a picture: its ink, (h, w) float32 in 0..1, where its upper left corner lies, and its class."""

    ink: NDArray[np.float32]
    top: int
    left: int
    kind: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The smallest box around its ink."""
        rows, columns = (np.flatnonzero((self.ink >= _INK).any(axis=axis)) for axis in (1, 0))
        return (
            self.left + float(columns[0]),
            self.top + float(rows[0]),
            self.left + float(columns[-1]) + 1,
            self.top + float(rows[-1]) + 1,
        )


def load(config: DataConfig) -> Dataset:
    """Load COUNT pictures of 240 x 320, each with 3 to 10 digits; truths are `Boxes` of their ink.

    No digit and no part of a photograph is in both training and validation. The same seed gives the same pictures.
    """
    single = digits.load(config)
    held = round(COUNT * config.share)
    return Dataset(
        single.classes,
        _pictures(single.train, COUNT - held, config.seed, validates=False),
        _pictures(single.val, held, config.seed, validates=True),
        task="detection",
    )


def _pictures(source: Images, count: int, seed: int, *, validates: bool) -> Images:
    photographs = _photographs()
    name = "val" if validates else "train"
    key = f"{decoder_version()} {source.fingerprint()} {seed} {name}"
    drawn = [_draw(source, np.random.default_rng([seed, validates, index])) for index in range(count)]
    return Images(
        names=tuple(f"digit-boxes/{name}/{index:04d}" for index in range(count)),
        stamps=tuple(hashlib.sha256(f"{key} {index}".encode()).hexdigest() for index in range(count)),
        read=lambda index: _render(
            drawn[index], photographs, np.random.default_rng([seed, validates, index, 1]), validates
        ),
        truths=[
            Boxes(
                np.array([each.box for each in pasted], np.float32), np.array([each.kind for each in pasted], np.int64)
            )
            for pasted in drawn
        ],
    )


def _photographs() -> list[Image]:
    try:
        folder = resources.files("sklearn.datasets.images")
    except ImportError as exc:
        raise Unavailable("the photographs come with scikit-learn", extra="pretrained") from exc
    return [images.decode((folder / name).read_bytes(), name) for name in _PHOTOGRAPHS]


def _draw(source: Images, random: np.random.Generator) -> list[_Pasted]:
    """Choose digits, their sizes and their places; their boxes do not touch."""
    cv2 = import_cv2()
    assert source.labels is not None
    pasted: list[_Pasted] = []
    taken = np.zeros(SIZE, bool)
    for _ in range(int(random.integers(_DIGITS[0], _DIGITS[1] + 1))):
        index, side = int(random.integers(len(source))), int(random.integers(_SIDES[0], _SIDES[1] + 1))
        ink = cv2.resize(source[index][:, :, 0].astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_CUBIC)
        for _ in range(_TRIES):
            top, left = int(random.integers(SIZE[0] - side + 1)), int(random.integers(SIZE[1] - side + 1))
            window = taken[top : top + side, left : left + side]
            if not window.any():
                window[:] = True
                pasted.append(_Pasted(np.clip(ink, 0, 1), top, left, int(source.labels[index])))
                break
    return pasted


def _render(pasted: list[_Pasted], photographs: list[Image], random: np.random.Generator, validates: bool) -> Image:
    """A part of a photograph with the digits on it, each in a colour that stands out."""
    cv2 = import_cv2()
    photograph = photographs[int(random.integers(len(photographs)))]
    edge = int(_LEFT * photograph.shape[1])
    region = photograph[:, edge:] if validates else photograph[:, :edge]
    rows = int(random.integers(90, region.shape[1] * SIZE[0] // SIZE[1]))
    columns = rows * SIZE[1] // SIZE[0]
    top, left = (
        int(random.integers(whole - part + 1)) for whole, part in zip(region.shape, (rows, columns), strict=False)
    )
    seen = region[top : top + rows, left : left + columns]
    picture = np.asarray(cv2.resize(seen, SIZE[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
    for each in pasted:
        side = len(each.ink)
        window = picture[each.top : each.top + side, each.left : each.left + side]
        dark = window.mean() > 127
        color = random.uniform(0, 70, 3) if dark else random.uniform(185, 255, 3)
        window += each.ink[..., None] * (color.astype(np.float32) - window)
    return np.rint(picture).astype(np.uint8)
