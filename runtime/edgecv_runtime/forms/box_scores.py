"""Where detectors' scores stand: in which columns or outputs, as what, and how a class is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from edgecv_runtime.errors import BadInput
from edgecv_runtime.forms.base import named
from edgecv_runtime.forms.columns import chosen, rows_of, swapped, width_of
from edgecv_runtime.forms.single import Layout
from edgecv_runtime.forms.ways import T, Ways
from edgecv_runtime.inputs import readable
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.onnxfile import ANY_SHAPE
from edgecv_runtime.records import Record

_SEEN = 0.05  # a box with less is none


class ScoreColumns(Record, frozen=True):
    """Where the scores stand. output, layout: as those of the boxes.

    first: the column where the classes begin, one a label; of the background none is a label. rest: how many columns
    behind them are something else, a mask's coefficients say. of: what they are; a softmax is over all classes.
    objectness: the column that all are multiplied with. background: the class that is none, from 0, or -1 for the last.
    class_id: of boxes that have one score, in column `first`, the column, or the output, with the number of their
    class; first_id: the number of the first label. count: the output that says how many boxes of a frame there are.
    """

    of: Literal["probabilities", "logits", "softmax"]
    output: str | tuple[str, ...] | None = None
    layout: Layout = "channels last"
    first: int = 0
    rest: int = 0
    objectness: int | None = None
    background: int | None = None
    class_id: int | str | None = None
    first_id: int = 0
    count: str | None = None

    def __post_init__(self) -> None:
        if self.class_id is not None and (self.background is not None or self.of == "softmax"):
            raise BadInput("class_id: boxes with one score and the number of their class have no background")
        places = (self.first, self.rest, self.objectness, self.class_id)
        if any(isinstance(each, int) and each < 0 for each in places):
            raise BadInput("first, rest, objectness and class_id are columns, from 0 on")

    def check(self, outputs: Sequence[TensorSpec], labels: int) -> None:
        """Raise BadInput where they cannot stand there, or there are not as many as labels."""
        columns = labels + (self.background is not None)
        self._check_classes(labels)
        if self.count is not None:
            _check_one(named(outputs, self.count, "scores: count"), "count", "the number of boxes of a frame")
        if isinstance(self.class_id, str):
            spec = named(outputs, self.class_id, "scores: class_id")
            if spec.name in {each.name for each in chosen(outputs, self.output, "scores")}:
                raise BadInput(f"scores: class_id: '{spec.name}' holds the scores: name the output with the classes")
            if width_of(spec, "channels last", "scores: class_id", flat=True) not in (1, "?"):
                raise BadInput(f"scores: class_id: output '{spec.name}' is {readable(spec)}: wanted is a number a box")
        for spec in chosen(outputs, self.output, "scores"):
            width = width_of(spec, self.layout, "scores", flat=self.class_id is not None or columns == 1)
            if not isinstance(width, int):
                continue
            if self.class_id is not None:
                last = max(self.first, self.class_id if isinstance(self.class_id, int) else 0)
                fits = last < width
                told = f"columns {self.first} and {self.class_id}"
            else:
                fits = self.first + columns + self.rest == width and (self.objectness or 0) < width
                told = f"{labels} labels{' and the background' if self.background is not None else ''} from column "
                told += f"{self.first} on" + (f" and {self.rest} behind them" if self.rest else "")
                there = width - self.first - self.rest - (self.background is not None)
                told += f", but there is room for {there}" if there > 0 else ""
            if not fits:
                raise BadInput(
                    f"scores: {told}; output '{spec.name}' is {readable(spec)}, {self.layout}"
                    f"{swapped(spec, self.layout, self.first + columns + self.rest)}"
                )

    def used(self, labels: int) -> dict[str, set[int]]:
        """The columns that are read, by what they are."""
        columns = 1 if self.class_id is not None else labels + (self.background is not None)
        found = {"the classes' scores": set(range(self.first, self.first + columns))}
        found |= {} if self.objectness is None else {"objectness": {self.objectness}}
        return found | ({"class_id": {self.class_id}} if isinstance(self.class_id, int) else {})

    def _check_classes(self, labels: int) -> None:
        columns = labels + (self.background is not None)
        if self.background is not None and not -1 <= self.background <= labels:
            raise BadInput(
                f"scores: background: {self.background}, but {labels} labels and the background are {columns} "
                f"columns: it is one of 0 to {labels}, or -1 for the last"
            )
        if self.of == "softmax" and columns == 1:
            raise BadInput("scores: of: a softmax over one class is always 1: name the background, or say logits")

    def make(self, ways: Ways[T], given: Mapping[str, T], labels: int) -> T:
        """A score for each label, 0..1 -> (N, A, labels) float32."""
        x = rows_of(ways, given, self.output, self.layout)
        ids = None if self.class_id is None else self._ids(ways, x, given)
        scores = self._classes(ways, x, labels) if ids is None else self._one_hot(ways, x, ids, labels)
        beyond = None if ids is None else self._beyond(ways, x, ids, labels)
        if self.objectness is not None:
            scores = ways.multiply(scores, self._share(ways, ways.columns(x, self.objectness, self.objectness + 1)))
        if self.count is not None:
            (boxes, _) = ways.shape(scores)
            count = ways.reshape(ways.cast(given[self.count], "float32"), (1, 1))
            there = ways.above(count, np.arange(boxes, dtype=np.float32)[None, :, None])
            scores = ways.multiply(scores, there)
            beyond = None if beyond is None else ways.multiply(beyond, there)
        if beyond is None:
            return scores
        known = f"{labels} labels, {self.first_id} to {self.first_id + labels - 1}"
        return ways.refused(scores, beyond, f"a box has a class that is none of the {known}: name all, or say first_id")

    def _classes(self, ways: Ways[T], x: T, labels: int) -> T:
        columns = labels + (self.background is not None)
        whole = ways.columns(x, self.first, self.first + columns)
        whole = ways.softmax(whole) if self.of == "softmax" else self._share(ways, whole)
        if self.background is None:
            return whole
        at = self.background % columns
        if at in (0, labels):
            return ways.columns(whole, *((1, columns) if at == 0 else (0, labels)))
        return ways.join([ways.columns(whole, 0, at), ways.columns(whole, at + 1, columns)], 2)

    def _ids(self, ways: Ways[T], x: T, given: Mapping[str, T]) -> T:
        """The number of each box's class -> (N, A, 1)."""
        if isinstance(self.class_id, int):
            return ways.columns(x, self.class_id, self.class_id + 1)
        return rows_of(ways, given, self.class_id, "channels last")

    def _one_hot(self, ways: Ways[T], x: T, ids: T, labels: int) -> T:
        numbers = np.arange(self.first_id, self.first_id + labels, dtype=np.float32)[None, None]
        return ways.multiply(ways.equal(ids, numbers), self._share(ways, ways.columns(x, self.first, self.first + 1)))

    def _beyond(self, ways: Ways[T], x: T, ids: T, labels: int) -> T:
        """1 for boxes that are there and of no label, else 0; rows that pad have no score, or a number below 0."""
        strange = ways.above(ids, np.array(self.first_id + labels - 0.5, np.float32))
        if self.first_id > 0:
            counted, named = (ways.above(ids, np.array(least - 0.5, np.float32)) for least in (0, self.first_id))
            strange = ways.add(strange, ways.subtract(counted, named))
        share = self._share(ways, ways.columns(x, self.first, self.first + 1))
        return ways.multiply(strange, ways.above(share, np.array(_SEEN, np.float32)))

    def _share(self, ways: Ways[T], x: T) -> T:
        return ways.sigmoid(x) if self.of == "logits" else x


def _check_one(spec: TensorSpec, key: str, told: str) -> None:
    sizes = [size for size in spec.shape[1:] if size != 1]
    if spec.shape != ANY_SHAPE and any(isinstance(size, int) for size in sizes):
        raise BadInput(f"scores: {key}: output '{spec.name}' is {readable(spec)}: {told} is wanted, one number")
