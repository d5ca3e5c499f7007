"""Boxes against boxes: overlaps, and the suppression of those that say again what a better one says.

It runs on the host, in numpy: inside the graph it does not travel between runtimes (docs/detection.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 64  # boxes that are compared with all others at once; most of these are then gone (benchmarks/boxes/run.py)


def areas(xyxy: NDArray[Any]) -> NDArray[Any]:
    """Areas of boxes (n, 4) -> (n,); 0 for one whose sides are exchanged."""
    found: NDArray[Any] = np.maximum(xyxy[:, 2] - xyxy[:, 0], 0) * np.maximum(xyxy[:, 3] - xyxy[:, 1], 0)
    return found


def intersections(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Common areas of boxes (n, 4) and (m, 4) -> (n, m)."""
    width = np.minimum(one[:, 2, None], other[:, 2])
    width -= np.maximum(one[:, 0, None], other[:, 0])
    height = np.minimum(one[:, 3, None], other[:, 3])
    height -= np.maximum(one[:, 1, None], other[:, 1])
    np.maximum(width, 0, out=width)
    np.maximum(height, 0, out=height)
    width *= height
    found: NDArray[Any] = width
    return found


def overlaps(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """Intersection over union of boxes (n, 4) and (m, 4) -> (n, m) in 0..1; 0 where both are empty."""
    common = intersections(one, other)
    union = areas(one)[:, None] + areas(other) - common
    found: NDArray[Any] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found


def suppressed(xyxy: NDArray[np.float32], class_id: NDArray[np.int64], overlap: float, most: int) -> NDArray[np.intp]:
    """Which boxes stay: each that overlaps no better one of its class that stays by more than `overlap`.

    xyxy: (n, 4), class_id: (n,), the best first. Gives at most `most` positions, in their order.
    """
    kept: list[NDArray[np.intp]] = []
    room = most
    left = np.arange(len(xyxy))  # the boxes that nothing has suppressed yet
    while left.size and room > 0:
        boxes, kinds = xyxy[left], class_id[left]
        area = areas(boxes)
        common = intersections(boxes[:_BLOCK], boxes)
        over = common * (1 + overlap) > overlap * (area[:_BLOCK, None] + area)  # common > overlap * union
        over &= kinds[:_BLOCK, None] == kinds
        stays = np.ones(len(left), bool)
        # A box meets itself: only rows that hold another one have anything to suppress.
        for row in np.flatnonzero(np.count_nonzero(over, axis=1) > 1):
            if stays[row]:
                stays[row + 1 :] &= ~over[row, row + 1 :]
        kept.append(left[:_BLOCK][stays[:_BLOCK]][:room])
        room -= len(kept[-1])
        left = left[_BLOCK:][stays[_BLOCK:]]
    return np.concatenate([*kept, np.empty(0, np.intp)])
