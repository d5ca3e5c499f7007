"""Agreement of two detectors: the boxes that both show, without ranks and without a truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.tasks.detections import Detections
from edgecv_runtime.tasks.nms import overlaps

SAME = 0.9  # intersection over union from which on two boxes are the same


class Pairs(NamedTuple):
    """What a frame adds: pairs of boxes, one of each model, and how many boxes both models show."""

    pairs: int
    boxes: int


class Pairing:
    """The share of the boxes that two models show which have a partner in the other's: one of the same class that they
    overlap by SAME. A box that only one of them shows counts against it, whichever lacks it.
    """

    metric = "matched boxes"

    def __init__(self, shown: NDArray[np.float32], wanted: NDArray[np.float32]) -> None:
        """shown, wanted: (classes,), the confidence from which on each of the two shows a box of a class."""
        self._shown, self._wanted = shown, wanted

    def tally(self, result: Detections, truth: Detections) -> Pairs:
        """Pair a frame's boxes with another model's, the most confident first, each once."""
        mine, theirs = (
            each.pick(each.confidence >= least[each.class_id])
            for each, least in ((result, self._shown), (truth, self._wanted))
        )
        both = len(mine) + len(theirs)
        if not (len(mine) and len(theirs)):
            return Pairs(0, both)
        common = np.where(mine.class_id[:, None] == theirs.class_id, overlaps(mine.xyxy, theirs.xyxy), 0)
        pairs = 0
        for row in common:
            best = int(row.argmax())
            if row[best] >= SAME:
                pairs += 1
                common[:, best] = 0  # taken
        return Pairs(pairs, both)

    def score(self, tallies: Sequence[Pairs]) -> float:
        """The share over all frames, 0..1; 1 where neither model shows anything."""
        return float(self.resampled(tallies, np.ones((1, len(tallies)), np.int64))[0])

    def resampled(self, tallies: Sequence[Pairs], times: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same of frames that are each taken so many times, (samples, frames) -> (samples,)."""
        pairs, boxes = (times @ np.array(tallies, np.int64).reshape(len(tallies), 2)).T
        return np.asarray(np.divide(2 * pairs, boxes, out=np.ones(len(times)), where=boxes > 0))
