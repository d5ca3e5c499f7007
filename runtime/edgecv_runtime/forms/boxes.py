"""The form of detectors' outputs: where boxes and scores stand, in which columns, units and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput
from edgecv_runtime.forms.base import Form, Size, named
from edgecv_runtime.forms.box_scores import ScoreColumns
from edgecv_runtime.forms.columns import chosen, count_of, rows_of, swapped, width_of
from edgecv_runtime.forms.single import Layout
from edgecv_runtime.forms.ways import T, Ways
from edgecv_runtime.head import BOXES, SCORES, Head
from edgecv_runtime.inputs import readable
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.records import Record

Places = NDArray[np.float32]
Column = Literal["x1", "y1", "x2", "y2", "cx", "cy", "w", "h", "left", "top", "right", "bottom"]
_AXES: tuple[dict[str, str], dict[str, str]] = (
    {"x1": "first", "x2": "last", "cx": "centre", "w": "length", "left": "before", "right": "behind"},
    {"y1": "first", "y2": "last", "cy": "centre", "h": "length", "top": "before", "bottom": "behind"},
)
_PAIRS = ({"first", "last"}, {"centre", "length"}, {"first", "length"}, {"before", "behind"})


class Grid(Record, frozen=True):
    """Of boxes that are told from the cell of a grid that they belong to, in its steps: grids one after the other.

    strides: pixels of the input a cell, the grids in their order, each row by row. offset: where in its cell the place
    lies that positions and distances count from, 0 for the corner, 0.5 for the middle. sizes: whether widths and
    heights are exponents.
    """

    strides: tuple[int, ...]
    offset: float = 0.0
    sizes: Literal["exp", "linear"] = "exp"

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1:
            raise BadInput(f"strides are pixels a cell, such as [8, 16, 32], got {list(self.strides)}")
        if not -1 <= self.offset <= 1:
            raise BadInput(f"offset is a share of a cell, -1 to 1, got {self.offset:g}")

    def places(self, size: Size) -> tuple[Places, Places, Places]:
        """The places that boxes count from, x and y in pixels of the input, and the pixels a step, each (1, A, 1)."""
        return _places(tuple(self.strides), self.offset, size)

    def check(self, size: Size, count: int | str) -> None:
        """Raise BadInput where the strides do not divide the input, or there are not as many boxes as cells."""
        odd = [stride for stride in self.strides if size[0] % stride or size[1] % stride]
        if odd:
            raise BadInput(f"boxes: grid: strides: {odd[0]} does not divide the input, {size[0]}x{size[1]}")
        cells = sum(size[0] // stride * (size[1] // stride) for stride in self.strides)
        if isinstance(count, int) and count != cells:
            raise BadInput(
                f"boxes: grid: strides {list(self.strides)} of an input of {size[0]}x{size[1]} make {cells} cells, but "
                f"the model gives {count} boxes"
            )


class BoxColumns(Record, frozen=True):
    """Where the boxes stand. output: its name, or those of several that are joined box after box.

    layout: "channels last" for (N, boxes, columns), "channels first" for (N, columns, boxes) and (N, columns, H, W).
    first: the column where they begin, columns: what that and the next three are; corners, the middle, width and
    height, or distances from the place in the grid. unit: pixels of the input, or shares of it, 0..1. grid: of boxes
    in its steps.
    """

    columns: tuple[Column, Column, Column, Column]
    unit: Literal["pixels", "normalized"]
    output: str | tuple[str, ...] | None = None
    layout: Layout = "channels last"
    first: int = 0
    grid: Grid | None = None

    def __post_init__(self) -> None:
        for axis, roles in zip("xy", _AXES, strict=True):
            found = {roles[name] for name in self.columns if name in roles}
            if found not in _PAIRS or len(set(self.columns)) != 4:
                raise BadInput(
                    f"columns: along {axis} two are wanted that make a side: {axis}1 and {axis}2, c{axis} and "
                    f"{'wh'[axis == 'y']}, {axis}1 and {'wh'[axis == 'y']}, or distances; got "
                    f"{[name for name in self.columns if name in roles]}"
                )
            if found == {"before", "behind"} and self.grid is None:
                raise BadInput("columns: distances count from places of a grid: say grid: {strides: [...]}")
        if self.grid is not None and self.unit != "pixels":
            raise BadInput("unit: the grid makes pixels of its steps: say pixels")
        if self.first < 0:
            raise BadInput(f"first is a column, from 0 on, got {self.first}")

    def check(self, outputs: Sequence[TensorSpec], size: Size) -> None:
        """Raise BadInput where they cannot stand there."""
        specs = chosen(outputs, self.output, "boxes")
        for spec in specs:
            width = width_of(spec, self.layout, "boxes")
            if isinstance(width, int) and width < self.first + 4:
                raise BadInput(
                    f"boxes: columns {self.first} to {self.first + 3} of output '{spec.name}', which is "
                    f"{readable(spec)}, {self.layout}{swapped(spec, self.layout, self.first + 4)}"
                )
        if self.grid is not None:
            self.grid.check(size, count_of(specs, self.layout))

    def make(self, ways: Ways[T], given: Mapping[str, T], size: Size) -> T:
        """x1, y1, x2, y2 in pixels of the input -> (N, A, 4) float32."""
        x = rows_of(ways, given, self.output, self.layout)
        places = None if self.grid is None else self.grid.places(size)
        ends: list[tuple[T, T]] = []
        for axis, roles in enumerate(_AXES):
            parts = {
                roles[name]: ways.columns(x, self.first + place, self.first + place + 1)
                for place, name in enumerate(self.columns)
                if name in roles
            }
            if self.grid is not None and places is not None:
                parts = self._pixels(ways, parts, places[axis], places[2])
            first, last = _ends(ways, parts)
            if self.unit == "normalized":
                scale = np.array(size[1 - axis], np.float32)
                first, last = ways.multiply(first, scale), ways.multiply(last, scale)
            ends.append((first, last))
        (x1, x2), (y1, y2) = ends
        return ways.join([x1, y1, x2, y2], 2)

    def _pixels(
        self, ways: Ways[T], parts: dict[str, T], place: NDArray[np.float32], step: NDArray[np.float32]
    ) -> dict[str, T]:
        """The same along one axis in pixels of the input."""
        assert self.grid is not None
        found: dict[str, T] = {}
        for role, x in parts.items():
            if role == "length" and self.grid.sizes == "exp":
                x = ways.exp(x)
            x = ways.multiply(x, step)
            if role == "before":
                x = ways.subtract(place, x)
            elif role != "length":
                x = ways.add(x, place)
            found[{"before": "first", "behind": "last"}.get(role, role)] = x
        return found


class Detected(Record, Form, frozen=True):
    """Where boxes and scores stand; left out, both, of outputs "boxes" (N, A, 4) and "scores" as a head wants them."""

    boxes: BoxColumns | None = None
    scores: ScoreColumns | None = None

    def __post_init__(self) -> None:
        if (self.boxes is None) != (self.scores is None):
            there, missing = ("boxes", "scores") if self.scores is None else ("scores", "boxes")
            raise BadInput(f"{there} are described, {missing} are not: say where they stand, too ({missing}: ...)")

    def made(self, head: Head, size: Size) -> tuple[TensorSpec, ...]:
        """Boxes in pixels of the input, and a score for each label."""
        del size
        return (
            TensorSpec(BOXES, "float32", ("N", "A", 4)),
            TensorSpec(SCORES, "float32", ("N", "A", len(head.labels))),
        )

    def check(self, outputs: Sequence[TensorSpec], head: Head, size: Size) -> None:
        """Raise BadInput where boxes or scores cannot stand where the form says, or it says nothing."""
        if self.boxes is not None and self.scores is not None:
            self.boxes.check(outputs, size)
            self.scores.check(outputs, len(head.labels))
            _check_together(self.boxes, self.scores, outputs, len(head.labels))
            return
        if {spec.name for spec in outputs} != {BOXES, SCORES}:
            listed = ", ".join(f"'{spec.name}' {readable(spec)}" for spec in outputs)
            raise BadInput(
                f"where boxes and scores stand is not said, and the model's outputs are {listed}: say boxes: "
                "{columns: [cx, cy, w, h], unit: pixels, ...} and scores: {of: probabilities, first: 4, ...}"
            )

    def make(self, ways: Ways[T], given: Mapping[str, T], head: Head, size: Size) -> dict[str, T]:
        """Boxes and scores as a head wants them."""
        if self.boxes is None or self.scores is None:
            return {name: ways.cast(given[name], "float32") for name in (BOXES, SCORES)}
        return {
            BOXES: self.boxes.make(ways, given, size),
            SCORES: self.scores.make(ways, given, len(head.labels)),
        }

    def doubt(self, made: Tensors, size: Size) -> str:
        """Of the boxes of real images: they reach further than any input, or all of them lie within a pixel or two."""
        boxes = np.asarray(made[BOXES])
        if self.boxes is None or not boxes.size:
            return ""
        far = float(np.median(np.abs(boxes).max(axis=(1, 2))))
        reach = f"boxes reach to {far:.3g} pixels of an input of {size[0]}x{size[1]}"
        if self.boxes.unit == "pixels" and far <= 2 <= min(size) / 8:
            return f"boxes: unit: pixels was said, but {reach}: say unit: normalized"
        if self.boxes.unit == "normalized" and far > 20 * max(size):
            return f"boxes: unit: normalized was said, but {reach}: say unit: pixels"
        best = np.take_along_axis(boxes, made[SCORES].max(axis=2).argmax(axis=1)[:, None, None], 1)[:, 0]
        turned = int(((best[:, 2] < best[:, 0]) | (best[:, 3] < best[:, 1])).sum())
        if 2 * turned > len(best):
            return (
                f"boxes: columns: {', '.join(self.boxes.columns)} was said, but the best box of {turned} of "
                f"{len(best)} images ends before it begins: are they [cx, cy, w, h] or another order?"
            )
        return ""


def _check_together(boxes: BoxColumns, scores: ScoreColumns, outputs: Sequence[TensorSpec], labels: int) -> None:
    """Raise BadInput where a column is two things, or boxes, scores and classes are not as many."""
    places, shares = chosen(outputs, boxes.output, "boxes"), chosen(outputs, scores.output, "scores")
    used = scores.used(labels)
    if {each.name for each in places} & {each.name for each in shares}:
        used = {"the box": set(range(boxes.first, boxes.first + 4)), **used}
    for (one, mine), (other, theirs) in combinations(used.items(), 2):
        if mine & theirs:
            raise BadInput(f"column {min(mine & theirs)} is said to be {one} and {other}: each has columns of its own")
    counts = {"boxes": count_of(places, boxes.layout), "scores": count_of(shares, scores.layout)}
    if isinstance(scores.class_id, str):
        counts["classes"] = count_of([named(outputs, scores.class_id, "scores: class_id")], "channels last")
    known = {told: count for told, count in counts.items() if isinstance(count, int)}
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{count} {told}" for told, count in known.items())
        raise BadInput(f"the outputs hold {listed}: a box has one of each; is the layout another?")


@lru_cache(16)  # they are the same for every frame
def _places(strides: tuple[int, ...], offset: float, size: Size) -> tuple[Places, Places, Places]:
    xs, ys, steps = [], [], []
    for stride in strides:
        rows, columns = size[0] // stride, size[1] // stride
        y, x = np.mgrid[0:rows, 0:columns]
        xs.append((x.ravel() + offset) * stride)
        ys.append((y.ravel() + offset) * stride)
        steps.append(np.full(rows * columns, stride))
    x, y, step = (np.concatenate(each).astype(np.float32)[None, :, None] for each in (xs, ys, steps))
    for each in (x, y, step):
        each.flags.writeable = False
    return x, y, step


def _ends(ways: Ways[T], parts: Mapping[str, T]) -> tuple[T, T]:
    """Where a side begins and ends."""
    if {"first", "last"} == set(parts):
        return parts["first"], parts["last"]
    length = parts["length"]
    if "first" in parts:
        return parts["first"], ways.add(parts["first"], length)
    half = ways.multiply(length, np.array(0.5, np.float32))
    return ways.subtract(parts["centre"], half), ways.add(parts["centre"], half)
