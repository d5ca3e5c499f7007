"""What a picture's result is by name, task by task: tensors of the protocol that is served, and columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime import jsontext
from edgecv_runtime.manifest import TensorSpec

Columns = dict[str, NDArray[Any]]


class Field(NamedTuple):
    """One of what a task answers: as a tensor of all pictures of a request, and what a picture's result has of it."""

    spec: TensorSpec
    of: Callable[[Any], Any]
    is_bytes: bool = False  # no text

    @property
    def name(self) -> str:
        """How it is called, the same everywhere."""
        return self.spec.name

    @property
    def by_picture(self) -> bool:
        """Whether every picture has one; else as many as there are boxes in it."""
        return self.spec.shape[0] == "N"

    def tensor(self, results: Sequence[Any]) -> NDArray[Any]:
        """Of one or more results, one below the other; text as UTF-8."""
        own = [self.of(result) for result in results]
        if self.name == _PICTURE:
            return np.repeat(np.arange(len(own)), own).astype(np.int64)
        if self.spec.dtype == "object":
            values = own if self.by_picture else chain.from_iterable(own)
            return _objects([each.encode() if isinstance(each, str) else each for each in values])
        return (np.stack if self.by_picture else np.concatenate)(own).astype(self.spec.dtype, copy=False)

    def column(self, results: Sequence[Any | None], labels: int) -> NDArray[Any]:
        """A row a picture; of one without a result None, or NaN in columns of numbers. labels: how many there are."""
        if self.spec.dtype == "object" or not self.by_picture:
            return _objects([None if result is None else self._cell(result) for result in results])
        made = np.full((len(results), *(labels for _ in self.spec.shape[1:])), np.nan, self.spec.dtype)
        for row, result in enumerate(results):
            if result is not None:
                made[row] = self.of(result)
        return made

    def _cell(self, result: Any) -> Any:
        own = self.of(result)
        return own if self.spec.dtype == "object" else np.asarray(own, self.spec.dtype)


class Answer(NamedTuple):
    """All that a task answers."""

    fields: tuple[Field, ...]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors."""
        return tuple(field.spec for field in self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of a table, in their order."""
        return tuple(field.name for field in self.fields if field.name != _PICTURE)

    def chosen(self, names: Sequence[str]) -> tuple[Field, ...]:
        """The fields of columns, in that order."""
        by_name = {field.name: field for field in self.fields}
        return tuple(by_name[name] for name in names)

    def tensors(self, results: Sequence[Any], names: Sequence[str] = ()) -> Columns:
        """Results of a request as its outputs, all or those that are named; `picture`: which picture each box is in."""
        return {field.name: field.tensor(results) for field in (self.chosen(names) if names else self.fields)}

    def columns(self, results: Sequence[Any | None], labels: int, names: Sequence[str]) -> Columns:
        """Results as columns with a row a picture, those that are named; None: a picture that has none.

        Boxes of a picture, their scores and labels lie in one cell.
        """
        return {field.name: field.column(results, labels) for field in self.chosen(names)}


def of_task(task: str) -> Answer:
    """What a task answers; `result`, the JSON that `edgecv predict --json` shows of it, is there for every task."""
    return Answer((_RESULT, *_TASKS.get(task, ())))


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    made = np.empty(len(values), object)
    for at, value in enumerate(values):  # a list of arrays of one size would become one array
        made[at] = value
    return made


_PICTURE = "picture"
_RESULT = Field(TensorSpec("result", "object", ("N",)), lambda each: jsontext.encode(each.as_dict()).decode())
_TASKS: dict[str, tuple[Field, ...]] = {
    "classification": (
        Field(TensorSpec("label", "object", ("N",)), lambda each: each.label),
        Field(TensorSpec("score", "float32", ("N",)), lambda each: each.score),
        Field(TensorSpec("scores", "float32", ("N", "classes")), lambda each: each.scores),
    ),
    "detection": (
        Field(TensorSpec(_PICTURE, "int64", ("boxes",)), len),
        Field(TensorSpec("box", "float32", ("boxes", 4)), lambda each: each.xyxy),
        Field(TensorSpec("score", "float32", ("boxes",)), lambda each: each.confidence),
        Field(
            TensorSpec("label", "object", ("boxes",)), lambda each: [each.labels[int(kind)] for kind in each.class_id]
        ),
    ),
    # a PNG each, for pictures differ in size
    "segmentation": (Field(TensorSpec("mask", "object", ("N",)), lambda each: each.png(), is_bytes=True),),
}
