"""One preprocessing record, one implementation: training evaluation, calibration, verification and device call this.

The host does decode, crop, resize and colour order, in uint8; the graph does the cast, the transposition and the
normalization, so that no floating-point preprocessing can differ between training and device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import geometry
from edgecv_runtime.errors import BadInput, ShapeError, Unavailable, nearest
from edgecv_runtime.geometry import View
from edgecv_runtime.records import Record

Image = NDArray[np.uint8]

Mode = Literal["crop", "stretch", "letterbox"]
Interpolation = Literal["area", "pyramid", "linear", "cubic", "nearest"]
Color = Literal["RGB", "BGR", "GRAY"]


class Preprocess(Record, frozen=True):
    """From a BGR image of any size to the network's uint8 input.

    size: (height, width) of the network's input in pixels.
    mode: "crop" scales the shorter side to `resize` and takes the centre (of another shape than a square: the largest
        window of its shape that fits, less the same margin); "stretch" ignores the aspect ratio;
        "letterbox" keeps it and fills the rest with `fill`.
    resize: length of the shorter side in pixels before the centre crop, "crop" only; by default 256/224 of `size`.
    interpolation: "area" averages when it shrinks and is linear when it enlarges. "pyramid" is a tenth of its cost: it
        averages 2x2 pixels for as long as the picture is at least twice too large, then is linear (Williams 1983); of a
        side that cannot be halved so often without a rest, less than one pixel of the result is cut off.
    color: the channel order that the network was trained with.
    fill: grey level of the letterbox's border, 0 to 255.
    """

    size: tuple[int, int]
    mode: Mode = "crop"
    resize: int | None = None
    interpolation: Interpolation = "area"
    color: Color = "RGB"
    fill: int = 114

    def __post_init__(self) -> None:
        for name, known in (("mode", Mode), ("interpolation", Interpolation), ("color", Color)):
            if getattr(self, name) not in get_args(known):
                raise BadInput(f"no {name} {getattr(self, name)!r}{nearest(str(getattr(self, name)), get_args(known))}")
        given: Any = self.size
        if isinstance(given, list):  # views are remembered by this record
            msgspec.structs.force_setattr(self, "size", tuple(given))
        is_pair = isinstance(self.size, tuple) and len(self.size) == 2
        if not is_pair or not all(isinstance(side, int) for side in self.size):
            raise BadInput(f"size is (height, width) in pixels, got {self.size!r}")
        if min(self.size) < 1:
            raise BadInput(f"size must be at least 1x1, got {self.size}")
        if not 0 <= self.fill <= 255:
            raise BadInput(f"fill must lie in 0..255, got {self.fill}")
        if self.resize is not None and self.mode != "crop":
            raise BadInput(f"resize belongs to mode 'crop', not to '{self.mode}'")
        if self.resize is not None and self.resize < min(self.size):
            raise BadInput(f"resize {self.resize} is smaller than the crop {self.size}")

    @property
    def channels(self) -> int:
        """Number of channels that the network sees: 1 for GRAY, else 3."""
        return 1 if self.color == "GRAY" else 3

    @property
    def shorter_side(self) -> int:
        """Length in pixels to which "crop" scales the shorter side."""
        return self.resize if self.resize is not None else round(min(self.size) * 256 / 224)

    def __call__(self, image: Image) -> Image:
        """Preprocess one image: (H, W, 3) uint8 BGR, as OpenCV gives it -> (height, width, C) uint8.

        Raises ShapeError for another dtype or rank.
        """
        check_frame(image)
        view = self.view(image.shape[:2])
        found = self._resize(image[view.seen.slices], view.place.size)
        if view.place.size != self.size:
            canvas = np.full((*self.size, 3), self.fill, np.uint8)
            canvas[view.place.slices] = found
            found = canvas
        return self._color(found)

    def view(self, source: tuple[int, int]) -> View:
        """How the network sees a frame of that (height, width)."""
        return _view(self, source)

    def batch(self, images: Sequence[Image]) -> Image:
        """Preprocess several images of any sizes -> (N, height, width, C) uint8, contiguous."""
        if not images:
            raise BadInput("no images: a batch wants at least one")
        return self(images[0])[np.newaxis] if len(images) == 1 else np.stack([self(image) for image in images])

    def _resize(self, image: Image, size: tuple[int, int]) -> Image:
        if image.shape[:2] == size:
            return image
        cv2 = import_cv2()
        shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
        if self.interpolation == "pyramid":
            image = _halved(image, size)
            if image.shape[:2] == size:
                return image
        kinds = {
            "area": cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
            "pyramid": cv2.INTER_LINEAR,
            "linear": cv2.INTER_LINEAR,
            "cubic": cv2.INTER_CUBIC,
            "nearest": cv2.INTER_NEAREST,
        }
        resized: Any = cv2.resize(image, size[::-1], interpolation=kinds[self.interpolation])
        return resized  # type: ignore[no-any-return]

    def _color(self, image: Image) -> Image:
        if self.color == "BGR":
            return np.ascontiguousarray(image)
        cv2 = import_cv2()
        if self.color == "GRAY":
            grey: Any = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            return grey[:, :, np.newaxis]  # type: ignore[no-any-return]
        rgb: Any = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return rgb  # type: ignore[no-any-return]


@lru_cache(64)  # a camera's frames have one size
def _view(preprocess: Preprocess, source: tuple[int, int]) -> View:
    if preprocess.mode == "letterbox":
        view = geometry.letterboxed(source, preprocess.size)
    elif preprocess.mode == "crop":
        view = geometry.cropped(source, preprocess.size, preprocess.shorter_side)
    else:
        view = geometry.stretched(source, preprocess.size)
    return geometry.halvable(view) if preprocess.interpolation == "pyramid" else view


def _halved(image: Image, size: tuple[int, int]) -> Image:
    """Average 2x2 pixels (2x1, 1x2) for as long as a side is at least twice the wanted one: see `geometry.halvable`."""
    cv2 = import_cv2()
    rows, columns = image.shape[:2]
    down, across = geometry.halvings(rows, size[0]), geometry.halvings(columns, size[1])
    for _ in range(max(down, across)):
        rows, columns = rows >> (down > 0), columns >> (across > 0)
        down, across = down - 1, across - 1
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    return image


class Normalization(Record, frozen=True):
    """What the graph does to pixels: `(x / 255 - mean) / std`, per channel in the order of `Preprocess.color`.

    The device never computes this; the record tells training and export what to put into the graph.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise BadInput(f"mean has {len(self.mean)} channels, std has {len(self.std)}")
        if not all(0 < each < math.inf for each in self.std):
            raise BadInput(f"std must be positive, got {self.std}")
        if not all(map(math.isfinite, self.mean)):
            raise BadInput(f"mean must be finite, got {self.mean}")

    def of(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Pixels 0..255, channels last, as the network's first layer gets them: what a graph without it is fed."""
        mean, std = (np.array(each, np.float32) for each in (self.mean, self.std))
        values: NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return values


def import_cv2() -> ModuleType:
    """Import OpenCV, or raise Unavailable with the cure."""
    try:
        import cv2
    except ImportError as exc:
        raise Unavailable(f"images and cameras need OpenCV ({exc})", extra="cpu") from exc
    return cv2


def check_frame(image: Any) -> None:
    """Refuse what is not a (H, W, 3) uint8 BGR image; raises ShapeError that says what it is and how to make one."""
    is_frame = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not is_frame or not image.size:
        from edgecv_runtime import advice

        raise ShapeError(advice.on(image))
