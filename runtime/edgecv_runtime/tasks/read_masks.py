"""Masks as a deployment gives them: class positions, a mask a picture, in its own pixels or in the network's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import geometry
from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import View
from edgecv_runtime.tasks.reading import REORDERED, SHIFTED, Fault, Given, RawReading, Rows, Squares, text_order

Mask = NDArray[np.int64]
Masks = list[Mask]


class Decoded(Protocol):
    """A mask with the classes of a frame."""

    @property
    def mask(self) -> NDArray[np.uint8]: ...


class Task(Squares, Protocol):
    """What of a segmenter's task is asked here."""

    labels: tuple[str, ...]

    def decode(self, outputs: Tensors, views: Sequence[View]) -> Sequence[Decoded]: ...


UNDONE = Fault("resize undone wrongly", "put the mask where the frame lay in the network's input: View.place_mask does")
HALF = Fault("half-pixel mask shift", "take the class below each pixel's centre: View.place_mask does")
WHOLE = Fault("whole-pixel mask shift", "take the class below each pixel's centre: View.place_mask does")
BLURRED = Fault("mask resized as a picture", "class positions have nothing between them: resize to the nearest")
SWAPPED = Fault("rows and columns exchanged", "a mask is (H, W): rows first")
FLIPPED = Fault("turned or mirrored mask", "undo on the mask what was done to the frame")

COMPARED = 0.3  # of a mask, at least, must be known to both for the rest to be left out
_AROUND = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


def reading(
    task: Task, given: Sequence[Given], outputs: Tensors, views: Sequence[View], ignore: int
) -> MaskReading | RawReading:
    """How these masks are read; a mapping of the network's output is compared as it is, unless it is a class map."""
    arrays = [np.asarray(next(iter(each.values())) if isinstance(each, Mapping) else each) for each in given]
    if any(isinstance(each, Mapping) for each in given) and arrays[0].ndim == 3 and len(arrays[0]) > 1:
        return RawReading(task, given, outputs)
    return MaskReading(task, [each[0] if each.ndim == 3 and len(each) == 1 else each for each in arrays], views, ignore)


class MaskReading:
    """Masks (H, W), compared pixel by pixel."""

    def __init__(self, task: Task, given: Sequence[NDArray[Any]], views: Sequence[View], ignore: int) -> None:
        """Raises BadInput for what is no mask of these pictures."""
        self.shape: tuple[Fault, str] | None = None
        self.signal = 1.0
        self._task, self._ignore = task, ignore
        for each, view in zip(given, views, strict=True):
            sizes = {view.source, view.source[::-1], view.size}
            if each.shape not in sizes or (each != np.rint(each)).any():
                raise BadInput(
                    f"a mask is {view.source} of the picture, or {view.size} of the network, class positions, "
                    f"got {each.shape} {each.dtype}"
                )
        self._is_raw = [each.shape for each in given] == [view.size for view in views] != [v.source for v in views]
        self.seen: Masks = [each.astype(np.int64) for each in given]

    def of(self, outputs: Tensors, views: Sequence[View]) -> Masks:
        """The task's own masks."""
        if self._is_raw:
            views = [geometry.whole(view.size) for view in views]
        return [each.mask.astype(np.int64) for each in self._task.decode(outputs, views)]

    def misread(self, outputs: Tensors, views: Sequence[View]) -> Iterator[tuple[Fault, str, Masks]]:
        """Other class positions, another way back to the picture, other neighbours."""
        right = self.of(outputs, views)
        for detail, change in _positions(len(self._task.labels)).items():
            fault = REORDERED if "sorted" in detail else SHIFTED
            yield fault, detail, [self._where_known(mask, change(mask)) for mask in right]
        maps = [each.mask for each in self._task.decode(outputs, [geometry.whole(view.size) for view in views])]
        yield SWAPPED, "the mask is transposed", [mask.T for mask in right]
        if not self._is_raw:
            yield from self._placed(outputs, views, maps)
        for detail, turn in (("it is mirrored", np.fliplr), ("it is upside down", np.flipud)):
            yield FLIPPED, detail, [turn(mask) for mask in right]
        steps = {"the network's": 1.0} if self._is_raw else {"the network's": 1.0, "the picture's": 0.0}
        for whose, share in ((HALF, 0.5), (WHOLE, 1.0)):
            for pixels, own in steps.items():
                for down, across in _AROUND:
                    told = f"by {'half a pixel' if share < 1 else 'a pixel'} of {pixels}, {_direction(down, across)}"
                    yield (
                        whose,
                        told,
                        [
                            self._moved(each, view, down * share, across * share, own)
                            for each, view in zip(maps, views, strict=True)
                        ],
                    )

    def fitted(self, right: Masks) -> Iterator[tuple[Fault, str, Masks]]:
        """Each class is the one that most of its pixels are."""
        if [each.shape for each in right] != [each.shape for each in self.seen]:
            return
        one, other = (np.concatenate([mask.ravel() for mask in masks]) for masks in (right, self.seen))
        classes = [int(each) for each in np.unique(one) if each != self._ignore]
        most = [int(np.bincount(np.maximum(other[one == each], 0)).argmax()) for each in classes]
        if len(set(most)) == len(most) and most != classes:
            moved = sum(a != b for a, b in zip(classes, most, strict=True))
            table = dict(zip(classes, most, strict=True))
            table[self._ignore] = self._ignore
            changed = [np.vectorize(table.get, otypes=[np.int64])(mask) for mask in right]
            yield REORDERED, f"{moved} of {len(classes)} classes that occur stand in other places", changed

    def away(self, read: Masks, other: Masks) -> Rows:
        """Share of pixels that differ; where the network did not look nothing is compared."""
        return np.array([self._apart(one, two) for one, two in zip(read, other, strict=True)], np.float32)

    def _apart(self, one: Mask, two: Mask) -> float:
        if one.shape != two.shape:
            return 1.0
        known = one != self._ignore
        if known.mean() < COMPARED:
            known = np.ones_like(known)
        return float((one != two)[known].mean())

    def _where_known(self, mask: Mask, changed: Mask) -> Mask:
        return np.where(mask == self._ignore, mask, changed)

    def _placed(
        self, outputs: Tensors, views: Sequence[View], maps: Sequence[NDArray[np.uint8]]
    ) -> Iterator[tuple[Fault, str, Masks]]:
        for detail, wrong in geometry.misplaced(views).items():
            yield UNDONE, detail, self.of(outputs, wrong)
        if len({view.size[0] == view.size[1] for view in views}) == 1 and views[0].size[0] == views[0].size[1]:
            placed = [view.place_mask(each.T, self._ignore) for each, view in zip(maps, views, strict=True)]
            yield SWAPPED, "the network's mask is transposed", [each.astype(np.int64) for each in placed]
        for kind in ("linear", "cubic", "area"):
            blurred = [_resized(each, view, kind, self._ignore) for each, view in zip(maps, views, strict=True)]
            yield BLURRED, f"class positions are resized by '{kind}'", blurred

    def _moved(self, mask: NDArray[np.uint8], view: View, down: float, across: float, own: float) -> Mask:
        """A mask of the network in the picture, its classes taken some pixels beside the centres.

        own: 1 where these are the network's pixels, 0 where they are the picture's.
        """
        if self._is_raw:
            view = geometry.whole(view.size)
        scales = [1.0 if own else each for each in view.scales]
        found = np.full(view.source, self._ignore, np.int64)
        rows = _below(view.seen.rows, view.place.rows, -down * scales[0]) + view.place.top
        columns = _below(view.seen.columns, view.place.columns, -across * scales[1]) + view.place.left
        found[view.seen.slices] = mask[np.ix_(rows, columns)]
        return found


def _below(wanted: int, have: int, beside: float) -> NDArray[np.intp]:
    places = np.floor((np.arange(wanted) + 0.5) * have / wanted + beside + 1e-9)
    return np.asarray(np.clip(places, 0, have - 1), np.intp)


def _resized(mask: NDArray[np.uint8], view: View, kind: str, ignore: int) -> Mask:
    import cv2

    rows, columns = view.place.slices
    part = np.ascontiguousarray(mask[rows, columns])
    found = np.full(view.source, ignore, np.int64)
    whole = cv2.resize(part, view.seen.size[::-1], interpolation=getattr(cv2, f"INTER_{kind.upper()}"))
    found[view.seen.slices] = whole
    return found


def _positions(classes: int) -> dict[str, Callable[[Mask], Mask]]:
    found: dict[str, Callable[[Mask], Mask]] = {
        "every class is 1 too high, as with a background class before them": lambda mask: mask + 1,
        "every class is 1 too low, and the first one -1": lambda mask: mask - 1,
        "every class is 1 too low, and the first one 255": lambda mask: (mask - 1) % 256,
        "every class is 1 too low, and the first one 0": lambda mask: np.maximum(mask - 1, 0),
        "every class is 2 too high": lambda mask: mask + 2,
    }
    if classes > 2:
        found["every class is 1 too high, and the last one 0"] = lambda mask: (mask + 1) % classes
        found["every class is 1 too low, and the first one the last"] = lambda mask: (mask - 1) % classes
    if classes > 10:
        order = np.argsort(text_order(classes))
        found["sorted as text (1, 10, 100, 2)"] = lambda mask: order[np.minimum(mask, classes - 1)]
    return found


def _direction(down: int, across: int) -> str:
    """Where the mask went, in words."""
    words = [{-1: "up", 1: "down"}.get(down), {-1: "left", 1: "right"}.get(across)]
    return " and ".join(each for each in words if each)
