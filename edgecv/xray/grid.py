"""How a layer's output lies over the picture."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from edgecv.xray.extent import Shape


class Grid(NamedTuple):
    """How a tensor lies over the picture: "channels first", "channels last" or "tokens".

    first: tokens before those of the places, such as a class token.
    """

    layout: str
    rows: int
    columns: int
    first: int = 0

    def centre(self) -> tuple[int | None, ...]:
        """Index of the middle place; None stands for an axis without places (batch and channels)."""
        row, column = self.rows // 2, self.columns // 2
        if self.layout == "tokens":
            return None, self.first + row * self.columns + column, None
        return (None, None, row, column) if self.layout == "channels first" else (None, row, column, None)


def grid(shape: Shape, size: Shape) -> Grid | None:
    """How an output of this shape lies over a picture of (height, width); None where no places are left.

    Places keep the picture's proportions, up to the rounding of uneven sides.
    """
    if len(size) != 2:
        return None
    if len(shape) == 4:
        for layout, (rows, columns) in (("channels first", shape[2:]), ("channels last", shape[1:3])):
            if _fits(rows, columns, size):
                return Grid(layout, rows, columns)
    if len(shape) == 3:
        for first, rows in itertools.product((0, 1), range(2, size[0] + 1)):
            columns, rest = divmod(shape[1] - first, rows)
            if rest == 0 and columns > 1 and _fits(rows, columns, size):
                return Grid("tokens", rows, columns, first)
    return None


def _fits(rows: int, columns: int, size: Shape) -> bool:
    height, width = size
    inside = 1 < rows <= height and 1 < columns <= width
    return inside and abs(rows * width - columns * height) < max(height, width)
