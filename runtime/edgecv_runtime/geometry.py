"""Where a frame lies in the network's input: preprocessing, and the way back of boxes and masks, in one record.

Coordinates are continuous: x in pixels from the left edge, y from the upper one, so that the pixel of column i covers
i to i + 1 and a picture of W columns reaches from 0 to W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.records import Record

Size = tuple[int, int]  # height, width in pixels


class Window(Record, frozen=True):
    """A rectangle of whole pixels."""

    top: int
    left: int
    rows: int
    columns: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """It as an index of a picture."""
        return slice(self.top, self.top + self.rows), slice(self.left, self.left + self.columns)

    @property
    def size(self) -> Size:
        """Its (height, width)."""
        return self.rows, self.columns


class View(Record, frozen=True):
    """How the network sees a frame: the window `seen` of the frame is resized to the window `place` of its input.

    source: (height, width) of the frame. size: (height, width) of the input. Beyond `place` the input holds the
    letterbox's border; beyond `seen` nobody looks.
    """

    source: Size
    size: Size
    seen: Window
    place: Window

    @property
    def scales(self) -> tuple[float, float]:
        """Pixels of the input per pixel of the frame, (down, across)."""
        return self.place.rows / self.seen.rows, self.place.columns / self.seen.columns

    def to_network(self, points: NDArray[Any]) -> NDArray[np.float32]:
        """Points or boxes of the frame, (..., 2k) as x, y, x, y, in the input."""
        down, across = self.scales
        scale, shift = self._pairs(points, across, down), self._offset(points)
        return ((np.asarray(points, np.float64) * scale) + shift).astype(np.float32)

    def to_source(self, points: NDArray[Any]) -> NDArray[np.float32]:
        """Points or boxes of the input, (..., 2k) as x, y, x, y, in the frame."""
        down, across = self.scales
        scale, shift = self._pairs(points, across, down), self._offset(points)
        return ((np.asarray(points, np.float64) - shift) / scale).astype(np.float32)

    def place_mask(self, mask: NDArray[np.uint8], unseen: int) -> NDArray[np.uint8]:
        """A class map of the input (height, width) in the frame's geometry: each pixel takes that below its centre.

        unseen: the value of what the network did not see of the frame.
        """
        return _resampled(mask, self.place, self.seen, self.source, unseen)

    def project_mask(self, mask: NDArray[np.uint8], border: int) -> NDArray[np.uint8]:
        """A class map of the frame in the input's geometry; border: the value where no frame lies."""
        return _resampled(mask, self.seen, self.place, self.size, border)

    def _offset(self, points: NDArray[Any]) -> NDArray[np.float64]:
        down, across = self.scales
        left, top = self.place.left - self.seen.left * across, self.place.top - self.seen.top * down
        return self._pairs(points, left, top)

    @staticmethod
    def _pairs(points: NDArray[Any], across: float, down: float) -> NDArray[np.float64]:
        return np.array([across, down] * (points.shape[-1] // 2), np.float64)


def whole(size: Size) -> View:
    """The view of a frame that is the network's input already."""
    window = Window(0, 0, *size)
    return View(size, size, window, window)


def stretched(source: Size, size: Size) -> View:
    """All of the frame on all of the input."""
    return View(source, size, Window(0, 0, *source), Window(0, 0, *size))


def cropped(source: Size, size: Size, shorter_side: int) -> View:
    """The centre that survives when the shorter side is scaled to `shorter_side` and (height, width) is cut out."""
    height, width = source
    fits = min(height / size[0], width / size[1])  # source pixels per network pixel, at most
    scale = fits * min(size) / shorter_side
    rows = min(height, max(1, round(size[0] * scale)))
    columns = min(width, max(1, round(size[1] * scale)))
    seen = Window((height - rows) // 2, (width - columns) // 2, rows, columns)
    return View(source, size, seen, Window(0, 0, *size))


def letterboxed(source: Size, size: Size) -> View:
    """All of the frame in the middle of the input, as large as its shape allows."""
    height, width = source
    scale = min(size[0] / height, size[1] / width)
    rows = min(size[0], max(1, round(height * scale)))
    columns = min(size[1], max(1, round(width * scale)))
    place = Window((size[0] - rows) // 2, (size[1] - columns) // 2, rows, columns)
    return View(source, size, Window(0, 0, *source), place)


def misplaced(views: Sequence[View]) -> dict[str, list[View]]:
    """Other ways back from the input to the frames than the right ones, by what is done."""
    ways: dict[str, Callable[[View], View]] = {
        "as if the frame were stretched over the input": lambda view: stretched(view.source, view.size),
        "as if the frame were letterboxed": lambda view: letterboxed(view.source, view.size),
        "as if the whole centre were cropped": lambda view: cropped(view.source, view.size, min(view.size)),
        "as if the border lay only right and below": lambda view: _with(view, place=(0, 0)),
        "as if the border lay only left and above": lambda view: _with(view, place=(1, 1)),
        "as if the crop began in the corner": lambda view: _with(view, seen=(0, 0)),
    }
    made = {told: [way(view) for view in views] for told, way in ways.items()}
    return {told: each for told, each in made.items() if each != list(views)}


def _with(view: View, *, place: Size | None = None, seen: Size | None = None) -> View:
    """The same with a window in a corner: (0, 0) the upper left one, (1, 1) the lower right one."""

    def moved(window: Window, corner: Size | None, whole: Size) -> Window:
        if corner is None:
            return window
        top, left = (side * (size - have) for side, size, have in zip(corner, whole, window.size, strict=True))
        return Window(top, left, *window.size)

    return View(view.source, view.size, moved(view.seen, seen, view.source), moved(view.place, place, view.size))


def halvable(view: View) -> View:
    """The same without the rest of rows and columns that cannot be halved for as long as `halvings` wants to.

    Averages of whole pixels are exact; what is cut off, around the centre, is less than one pixel of the input.
    """
    seen, place = view.seen, view.place
    below, beside = (1 << halvings(*lengths) for lengths in zip(seen.size, place.size, strict=True))
    rows, columns = seen.rows // below * below, seen.columns // beside * beside
    window = Window(seen.top + (seen.rows - rows) // 2, seen.left + (seen.columns - columns) // 2, rows, columns)
    return View(view.source, view.size, window, place)


def halvings(have: int, wanted: int) -> int:
    """How often a length can be halved and still be at least the wanted one."""
    return max(0, (have // wanted).bit_length() - 1)


def _resampled(mask: NDArray[np.uint8], before: Window, after: Window, size: Size, rest: int) -> NDArray[np.uint8]:
    """A window of a mask as another window of a picture of that size, whose other pixels are `rest`."""
    rows = _nearest(after.rows, before.rows) + before.top
    columns = _nearest(after.columns, before.columns) + before.left
    found = mask.take(rows, 0).take(columns, 1)  # one axis after the other: a tenth of what both at once cost
    if after.size == size:
        return found
    whole = np.full(size, rest, np.uint8)
    whole[after.slices] = found
    return whole


def _nearest(wanted: int, have: int) -> NDArray[np.intp]:
    """Of each of `wanted` cells over `have` others, which one lies below its centre."""
    return np.asarray((2 * np.arange(wanted) + 1) * have // (2 * wanted), np.intp)
