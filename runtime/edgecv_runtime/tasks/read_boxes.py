"""Boxes as a deployment gives them: a row a box, x1, y1, x2, y2 in the picture's pixels, score and class position."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import geometry
from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import View
from edgecv_runtime.head import BOXES, SCORES
from edgecv_runtime.tasks.detections import Detections
from edgecv_runtime.tasks.reading import REORDERED, SHIFTED, Fault, Given, RawReading, Rows, Squares, text_order
from edgecv_runtime.tasks.scores import sigmoid

Table = NDArray[np.float64]  # (n, 6)
Tables = list[Table]


class Task(Squares, Protocol):
    """What of a detector's task is asked here."""

    labels: tuple[str, ...]
    thresholds: tuple[float, ...]

    def decode(self, outputs: Tensors, views: Sequence[View]) -> Sequence[Detections]: ...

    def at(self, thresholds: Sequence[float]) -> Task: ...

    def unsuppressed(self) -> Task: ...


FORM = Fault("another form of boxes", "boxes are x1, y1, x2, y2: left, top, right, bottom")
UNITS = Fault("boxes in another unit", "boxes are pixels of the picture: View.to_source gives them")
UNDONE = Fault("resize undone wrongly", "take off the border before you divide by the scale: View.to_source does")
SWAPPED = Fault("x and y exchanged", "boxes are x1, y1, x2, y2: x goes to the right")
GRID = Fault("strides or anchors of another size", "decode with the strides that the network was trained with")
KEPT = Fault("no suppression", "leave out boxes that overlap a better one of their class, as the head says")
TWICE = Fault("sigmoid twice", "take the scores as they are")

MARGIN = 0.05  # by which a score must exceed what was the lowest one shown, for its box to be missed fully
COMPARED = 100  # boxes of a picture, the most confident ones
SAME = 0.1  # a pair of boxes this near is one object


def reading(task: Task, given: Sequence[Given], outputs: Tensors, views: Sequence[View]) -> BoxReading | RawReading:
    """How these boxes are read; mappings of the network's outputs are compared as they are."""
    if any(isinstance(each, Mapping) for each in given):
        return RawReading(task, given, outputs)
    return BoxReading(task, [np.asarray(each, np.float64) for each in given], outputs, views)


class BoxReading:
    """Tables (n, 6) in any order: each box is compared with the one that is nearest to it."""

    def __init__(self, task: Task, given: Sequence[Table], outputs: Tensors, views: Sequence[View]) -> None:
        """Raises BadInput for other tables, and where there is nothing to be compared."""
        self.shape: tuple[Fault, str] | None = None
        tables = [each[0] if each.ndim == 3 and len(each) == 1 else each for each in given]
        tables = [each.reshape(0, 6) if not each.size else each for each in tables]
        wrong = [each.shape for each in tables if each.ndim != 2 or each.shape[1] != 6]
        if wrong:
            raise BadInput(f"boxes are rows (n, 6) of x1, y1, x2, y2, score, class, got {wrong[0]}")
        scores = np.concatenate([each[:, 4] for each in tables])
        if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
            raise BadInput(
                f"the fifth column of boxes is a score in 0..1, got {scores.min():.4g} to {scores.max():.4g}"
            )
        self._views = list(views)
        self._bounds = [np.array([*view.source[::-1]] * 2, np.float64) for view in views]
        least = max(float(scores.min()), 1e-3) if scores.size else 0.0
        most = [float(np.sort(each[:, 4])[-COMPARED]) for each in tables if len(each) > COMPARED]
        least = max([least, *most])
        tables = [each[each[:, 4] >= least] for each in tables]
        self._task = task.at((least,) * len(task.labels)) if least else task
        self._least = _least_of(tables, least)
        self.seen: Tables = tables
        self.signal = 1.0 if scores.size else 0.0  # many faults make a network see nothing
        if not scores.size:
            self._refuse_nothing(task, outputs)

    def of(self, outputs: Tensors, views: Sequence[View]) -> Tables:
        """The task's own boxes, down to the faintest that was seen."""
        return self._decoded(self._task, outputs, views)

    def misread(self, outputs: Tensors, views: Sequence[View]) -> Iterator[tuple[Fault, str, Tables]]:
        """Boxes in another form, unit or place, other class positions, too many of them."""
        right = self.of(outputs, views)
        for fault, detail, change in _FORMS:
            yield fault, f"{detail} are given", [_with(table, change(table[:, :4])) for table in right]
        for fault, detail, change in _READ:
            boxes = np.asarray(change(np.asarray(outputs[BOXES], np.float64)), np.float32)
            yield fault, detail, self.of({**outputs, BOXES: boxes}, views)
        yield from self._in_units(outputs, views, right)
        for detail, wrong in geometry.misplaced(views).items():
            yield UNDONE, detail, self.of(outputs, wrong)
        for detail, classes in _positions(len(self._task.labels)).items():
            fault = REORDERED if "sorted" in detail else SHIFTED
            yield fault, detail, [_with_classes(table, classes(table[:, 5])) for table in right]
        kept = self._decoded(self._task.unsuppressed(), outputs, views)
        yield KEPT, "boxes that overlap a better one are shown", kept
        scores = np.asarray(sigmoid(np.asarray(outputs[SCORES], np.float32)), np.float32)
        yield TWICE, "the scores went through a second sigmoid", self.of({**outputs, SCORES: scores}, views)

    def fitted(self, right: Tables) -> Iterator[tuple[Fault, str, Tables]]:
        """Each class is what the boxes in the places of its own are."""
        pairs = []
        for table, other in zip(right, self.seen, strict=True):
            if not len(table) or not len(other):
                continue
            costs = _costs(_with_classes(table, 0 * table[:, 5]), _with_classes(other, 0 * other[:, 5]))
            nearest = costs.argmin(axis=1)
            near = costs[np.arange(len(table)), nearest] < SAME
            pairs += list(zip(table[near, 5].astype(int), other[nearest[near], 5].astype(int), strict=True))
        classes = sorted({mine for mine, _ in pairs})
        most = [
            int(np.bincount([max(0, theirs) for mine, theirs in pairs if mine == each]).argmax()) for each in classes
        ]
        if len(set(most)) == len(most) and most != classes:
            table_of = dict(zip(classes, most, strict=True))
            moved = sum(a != b for a, b in table_of.items())
            changed = [
                _with_classes(table, np.array([table_of.get(int(each), int(each)) for each in table[:, 5]]))
                for table in right
            ]
            yield REORDERED, f"{moved} of {len(classes)} classes that occur stand in other places", changed

    def away(self, read: Tables, other: Tables) -> Rows:
        """What it costs to make one of the other, by box: 1 for one that is missing or of another class.

        A quarter of a box's side costs as much as half of the score: 1.
        """
        pairs = zip(read, other, self._bounds, strict=True)
        return np.array([self._apart(one, two, bounds) for one, two, bounds in pairs], np.float32)

    def _apart(self, one: Table, two: Table, bounds: NDArray[np.float64]) -> float:
        one, two = (_inside(each[each[:, 4] >= self._lowest(each) - 1e-9], bounds) for each in (one, two))
        if not len(one) or not len(two):
            return 0.0 if len(one) == len(two) else float(self._weights(one if len(one) else two).max(initial=0))
        costs = _costs(one, two)
        ways = []
        for each, nearest in ((one, costs.min(axis=1)), (two, costs.min(axis=0))):
            missed = nearest >= 1
            ways.append(float(np.where(missed, self._weights(each), nearest).mean()))
        return sum(ways) / 2

    def _weights(self, table: Table) -> NDArray[np.float64]:
        return np.asarray(np.clip((table[:, 4] - self._lowest(table)) / MARGIN, 0, 1))

    def _lowest(self, table: Table) -> NDArray[np.float64]:
        """The lowest score of each row's class that was shown; of one that was not shown, of all."""
        lowest = min(self._least.values())
        return np.array([self._least.get(int(kind), lowest) for kind in table[:, 5]], np.float64)

    def _decoded(self, task: Task, outputs: Tensors, views: Sequence[View]) -> Tables:
        return [
            np.column_stack([each.xyxy, each.confidence, each.class_id]).astype(np.float64)
            for each in task.decode(outputs, views)
        ]

    def _in_units(self, outputs: Tensors, views: Sequence[View], right: Tables) -> Iterator[tuple[Fault, str, Tables]]:
        inside = self.of(outputs, [geometry.whole(view.size) for view in views])
        input_sides = np.array([*views[0].size[::-1]] * 2, np.float64)
        yield UNITS, "pixels of the network's input are given", inside
        yield (
            UNITS,
            "shares of the network's input are given",
            [_with(table, table[:, :4] / input_sides) for table in inside],
        )
        pairs = list(zip(right, self._bounds, strict=True))
        yield UNITS, "shares of the picture are given", [_with(table, table[:, :4] / sides) for table, sides in pairs]
        yield (
            UNITS,
            "pixels are multiplied with the picture's size",
            [_with(table, table[:, :4] * sides) for table, sides in pairs],
        )
        late = []
        for table, view in zip(inside, views, strict=True):
            down, across = view.scales
            border = np.array([view.place.left, view.place.top] * 2)
            late.append(_with(table, table[:, :4] / np.array([across, down] * 2) - border))
        yield UNDONE, "the border is taken off after the scale is undone", late

    def _refuse_nothing(self, task: Task, outputs: Tensors) -> None:
        """Raise BadInput where no box was seen, and none would have been right: nothing was compared."""
        if any(len(each) for each in self.of(outputs, self._views)):
            return
        best = float(np.asarray(outputs[SCORES]).max())
        raise BadInput(
            f"no box was given, and the network finds none in these pictures from {min(task.thresholds):.2g} on: show "
            f"fainter ones (its best one has {best:.2g}), or give its outputs as they are, {{'{BOXES}': ..., "
            f"'{SCORES}': ...}}"
        )


def _least_of(tables: Sequence[Table], least: float) -> dict[int, float]:
    """The lowest score of each class that was shown."""
    whole = np.concatenate(tables)
    return {int(kind): float(whole[whole[:, 5] == kind, 4].min()) for kind in np.unique(whole[:, 5])} or {-1: least}


def _inside(table: Table, bounds: NDArray[np.float64]) -> Table:
    """Boxes cut off at the picture's edge, and none of those that lie beside it: not all programs do either."""
    cut = np.clip(table[:, :4], 0, bounds)
    flat, wide = ((boxes[:, 2:4] - boxes[:, :2]).min(axis=1, initial=np.inf) for boxes in (cut, table))
    near = np.abs(table[:, :4]).max(axis=1, initial=0) <= 2 * bounds.max()
    beside = (flat <= 0) & (wide > 0) & near
    return np.asarray(_with(table, cut)[~beside])


def _with(table: Table, boxes: NDArray[Any]) -> Table:
    return np.concatenate([boxes, table[:, 4:]], axis=1)


def _with_classes(table: Table, classes: NDArray[Any]) -> Table:
    return np.concatenate([table[:, :5], np.asarray(classes, np.float64)[:, None]], axis=1)


def _costs(one: Table, two: Table) -> NDArray[np.float64]:
    """Of every pair (n, m), 0 the same, 1 two things."""
    sides = [np.abs(table[:, 2:4] - table[:, :2]).mean(axis=1) for table in (one, two)]
    side = np.maximum((sides[0][:, None] + sides[1][None]) / 2, 1e-9)
    far = np.abs(one[:, None, :4] - two[None, :, :4]).mean(axis=2) / side
    scores = np.abs(one[:, None, 4] - two[None, :, 4])
    other = one[:, None, 5] != two[None, :, 5]
    return np.asarray(np.minimum(1, 4 * far + 2 * scores + other))


def _positions(classes: int) -> dict[str, Callable[[NDArray[Any]], NDArray[Any]]]:
    found: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
        "every class is 1 too high, as with a background class before them": lambda kinds: kinds + 1,
        "every class is 1 too low": lambda kinds: kinds - 1,
        "every class is 2 too high": lambda kinds: kinds + 2,
    }
    if classes > 2:
        found["every class is 1 too high, and the last one 0"] = lambda kinds: (kinds + 1) % classes
        found["every class is 1 too low, and the first one the last"] = lambda kinds: (kinds - 1) % classes
    if classes > 10:
        order = np.argsort(text_order(classes))
        found["sorted as text (1, 10, 100, 2)"] = lambda kinds: order[kinds.astype(int)]
    return found


Change = Callable[[NDArray[Any]], NDArray[Any]]


def _to_size(boxes: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def _to_centre(boxes: NDArray[Any]) -> NDArray[Any]:
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    return np.concatenate([middle, boxes[..., 2:] - boxes[..., :2]], axis=-1)


def _from_size(boxes: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def _from_centre(boxes: NDArray[Any]) -> NDArray[Any]:
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def _sized(factor: float) -> Change:
    def change(boxes: NDArray[Any]) -> NDArray[Any]:
        middle, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2 * factor
        return np.concatenate([middle - half, middle + half], axis=-1)

    return change


def _placed(factor: float) -> Change:
    def change(boxes: NDArray[Any]) -> NDArray[Any]:
        moved = (boxes[..., :2] + boxes[..., 2:]) / 2 * (factor - 1)
        return np.asarray(boxes + np.concatenate([moved, moved], axis=-1))

    return change


# What is done to right boxes at the end.
_FORMS: tuple[tuple[Fault, str, Change], ...] = (
    (FORM, "x, y, width, height", _to_size),
    (FORM, "centre, width, height", _to_centre),
    (SWAPPED, "y1, x1, y2, x2", lambda boxes: boxes[..., [1, 0, 3, 2]]),
)
# What is done to the network's own, before they are suppressed and brought back to the picture.
_READ: tuple[tuple[Fault, str, Change], ...] = (
    (FORM, "the network's boxes are read as x, y, width, height", _from_size),
    (FORM, "the network's boxes are read as centre, width, height", _from_centre),
    (SWAPPED, "the network's boxes are read as y1, x1, y2, x2", lambda boxes: boxes[..., [1, 0, 3, 2]]),
    (GRID, "places and sizes are doubled", lambda boxes: boxes * 2),
    (GRID, "places and sizes are halved", lambda boxes: boxes / 2),
    (GRID, "sizes are doubled", _sized(2)),
    (GRID, "sizes are halved", _sized(0.5)),
    (GRID, "places are doubled", _placed(2)),
    (GRID, "places are halved", _placed(0.5)),
)
