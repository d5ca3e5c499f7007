"""Areas as COCO writes them, polygons and run lengths, as masks: the same pixels that pycocotools gives.

Run lengths count pixels column by column, first those outside. Source: the COCO mask format,
cocodataset/cocoapi (`common/maskApi.c`), which is the referee in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import DatasetError

Area = NDArray[np.bool_]
_FINER = 5  # a polygon's corners and edges are taken on a grid so many times finer than the pixels


def area(segmentation: Any, size: tuple[int, int]) -> Area:
    """A segmentation of COCO as a mask (height, width).

    segmentation: polygons [[x, y, x, y, ...], ...] in pixels, or {"size": [height, width], "counts": run lengths, as a
    list or packed into text}. Raises DatasetError when it is neither or does not fit the size.
    """
    if isinstance(segmentation, list) and segmentation and all(isinstance(each, list) for each in segmentation):
        found = np.zeros(size, bool)
        for polygon in segmentation:
            found |= from_polygon(polygon, size)
        return found
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        if list(segmentation["size"]) != list(size):
            raise DatasetError(f"run lengths are of {segmentation['size']}, the image is {list(size)}")
        counts = segmentation["counts"]
        return from_runs(unpacked(counts) if isinstance(counts, str | bytes) else counts, size)
    raise DatasetError("neither polygons nor run lengths")


def from_runs(counts: Sequence[int] | NDArray[np.int64], size: tuple[int, int]) -> Area:
    """Run lengths, of pixels outside and inside in turn, column by column -> (height, width)."""
    runs = np.asarray(counts)
    height, width = size
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any() or runs.sum() != height * width:
        raise DatasetError(f"run lengths are not {height}x{width} pixels together")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def unpacked(text: str | bytes) -> NDArray[np.int64]:
    """Run lengths that are packed into text: five bits a letter from the lowest on, and from the fourth on only what
    they differ from the last but one.
    """
    letters = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    if not len(letters) or (letters < 0).any() or (letters > 63).any() or letters[-1] & 32:
        raise DatasetError("run lengths are damaged: not the letters that COCO packs them into")
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    within = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    if within.max() > 11:
        raise DatasetError("run lengths are damaged: a number of more than 60 bits")
    values = np.add.reduceat((letters & 31) << 5 * within, starts)
    values -= np.where(letters[ends] & 16, np.int64(1) << 5 * (within[ends] + 1), 0)  # the last bit is the sign
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    return values


def from_polygon(corners: Any, size: tuple[int, int]) -> Area:
    """The pixels inside one polygon [x, y, x, y, ...] -> (height, width).

    Walks the edges on the finer grid; where the walk crosses the middle of a column of pixels, the pixels below change
    sides.
    """
    points = np.asarray(corners, np.float64) if _are_numbers(corners) else np.zeros(0)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        raise DatasetError("a polygon wants three corners or more, x and y of each")
    height, width = size
    grid = np.trunc(_FINER * points.reshape(-1, 2) + 0.5).astype(np.int64)
    walk = [_edge(*grid[index], *grid[(index + 1) % len(grid)]) for index in range(len(grid))]
    across, down = np.concatenate(walk, axis=1)
    moved = np.flatnonzero(np.diff(across)) + 1
    column = np.minimum(across[moved], across[moved - 1])
    column = np.where(across[moved] < across[moved - 1], across[moved], across[moved] - 1)
    x = (column + 0.5) / _FINER - 0.5
    y = (np.minimum(down[moved], down[moved - 1]) + 0.5) / _FINER - 0.5
    kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    rows = np.ceil(np.clip(y[kept], 0, height)).astype(np.int64)
    turns = np.bincount(x[kept].astype(np.int64) * height + rows, minlength=height * width + 1)
    inside: Area = np.cumsum(turns[: height * width]) % 2 == 1
    return inside.reshape(width, height).T


def _edge(x1: int, y1: int, x2: int, y2: int) -> NDArray[np.int64]:
    """The points of an edge, one a step along its longer axis -> (2, steps + 1), from the first corner to the second.

    Halves are rounded as from the corner that comes first along that axis.
    """
    wide, high = abs(x2 - x1), abs(y2 - y1)
    flat = wide >= high
    back = x1 > x2 if flat else y1 > y2
    if back:
        x1, y1, x2, y2 = x2, y2, x1, y1
    steps = np.arange(max(wide, high) + 1)
    if flat:
        slope = (y2 - y1) / wide if wide else 0.0
        points = np.stack([x1 + steps, np.trunc(y1 + slope * steps + 0.5).astype(np.int64)])
    else:
        points = np.stack([np.trunc(x1 + (x2 - x1) / high * steps + 0.5).astype(np.int64), y1 + steps])
    return points[:, ::-1] if back else points


def _are_numbers(corners: Any) -> bool:
    return isinstance(corners, list | tuple) and all(isinstance(each, int | float) for each in corners)
