"""How other programs get a picture to the network's size: with Pillow's filters, or cropped after they resize."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.preprocess import Image, Preprocess, import_cv2

Resize = Callable[[Image, tuple[int, int]], Image]
Change = Callable[[Image], Image]


def _triangle(x: NDArray[Any]) -> NDArray[Any]:
    weights: NDArray[Any] = np.maximum(0.0, 1 - np.abs(x))
    return weights


def _keys(x: NDArray[Any]) -> NDArray[Any]:
    """Cubic convolution with a = -0.5 (Keys 1981)."""
    x = np.abs(x)
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0.0))


def _lanczos(x: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


# Name -> filter and its reach, in pixels of the result; enlarging, of the source.
FILTERS = {"bilinear": (_triangle, 1), "bicubic": (_keys, 2), "lanczos": (_lanczos, 3)}


def widened(name: str) -> Resize:
    """A resize whose filter widens with the scale ("antialias"): what Pillow does, and torchvision after it."""
    kernel, reach = FILTERS[name]

    def matrix(have: int, want: int) -> NDArray[Any]:
        scale = have / want
        wide = max(1.0, scale)
        centres = (np.arange(want) + 0.5) * scale
        away = (np.arange(have) + 0.5 - centres[:, np.newaxis]) / wide
        weights = np.where(np.abs(away) < reach, kernel(away), 0.0)
        shares: NDArray[Any] = weights / weights.sum(axis=1, keepdims=True)
        return shares

    def resize(image: Image, size: tuple[int, int]) -> Image:
        down, across = (matrix(have, want) for have, want in zip(image.shape[:2], size, strict=True))
        values = np.einsum("rh,hwc,qw->rqc", down, image, across, optimize=True)
        rounded: Image = np.clip(np.round(values), 0, 255).astype(np.uint8)
        return rounded

    return resize


def plain(kind: str) -> Resize:
    """OpenCV's resize with one of its filters, INTER_AREA say."""

    def resize(image: Image, size: tuple[int, int]) -> Image:
        cv2 = import_cv2()
        resized: Any = cv2.resize(image, size[::-1], interpolation=getattr(cv2, kind))
        return resized  # type: ignore[no-any-return]

    return resize


# What people resize with, by how it is called.
PILLOWS = {f"Pillow's {name}": widened(name) for name in FILTERS}
OPENCVS = {f"OpenCV's {name}": plain(f"INTER_{name.upper()}") for name in ("area", "linear", "cubic", "nearest")}
# How they round: the longer side, and where the crop begins when half a pixel is left over.
LONGER = {"": round, "; the longer side is cut to whole pixels": int}
BEGINS = {"": lambda rest: rest // 2, "; the crop begins at the even pixel": lambda rest: round(rest / 2)}


def stretched(own: Preprocess) -> dict[str, Change]:
    """Pillow's filters on the whole picture, by how it shows."""
    return {
        f"{name} where '{own.interpolation}' is right": partial(_to, own.size, way) for name, way in PILLOWS.items()
    }


def cropped_late(own: Preprocess, same: bool) -> dict[str, Change]:
    """The whole picture resized, then cropped: with the right filter, or (not `same`) with another one."""
    found: dict[str, Change] = {}
    for (name, way), (cut, longer), (even, begin) in itertools.product(
        {**PILLOWS, **OPENCVS}.items(), LONGER.items(), BEGINS.items()
    ):
        if (name == f"OpenCV's {own.interpolation}") == same:
            detail = (
                "the whole picture is resized, then cropped" if same else f"{name} on the whole picture, then cropped"
            )
            found[f"{detail}{cut}{even}"] = partial(_then_cropped, own, way, longer, begin)
    return found


def _to(size: tuple[int, int], resize: Resize, image: Image) -> Image:
    return resize(image, size)


def _then_cropped(
    own: Preprocess, resize: Resize, longer: Callable[[float], int], begin: Callable[[int], int], image: Image
) -> Image:
    scale = own.shorter_side / min(image.shape[:2])
    rows, columns = (
        own.shorter_side if side == min(image.shape[:2]) else longer(side * scale) for side in image.shape[:2]
    )
    whole = resize(image, (rows, columns))
    top, left = (begin(max(0, have - want)) for have, want in zip((rows, columns), own.size, strict=True))
    return whole[top : top + own.size[0], left : left + own.size[1]]
