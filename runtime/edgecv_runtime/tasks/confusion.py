"""What is taken for what: classes of frames, of their pixels, or of boxes, with what is missed and what is nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.records import Record
from edgecv_runtime.tasks.detections import Boxes, Detections
from edgecv_runtime.tasks.nms import overlaps

Counts = NDArray[np.int64]

NOTHING = "nothing"  # true: a box where none belongs; found: a box that was missed
MATCHED = 0.5  # intersection over union from which on two boxes are of one object, whatever they are called


class Confusion(Record, frozen=True, eq=False):
    """Counts (K, K): rows are what is true, columns what was found, by `names`; of: what is counted, "pixels" say."""

    names: tuple[str, ...]
    counts: Counts
    of: str

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.names, self.counts + other.counts, self.of)

    @property
    def wrong(self) -> int:
        """How many stand off the diagonal."""
        return int(self.counts.sum() - np.trace(self.counts))

    def __str__(self) -> str:
        if self.names[-1] != NOTHING:
            return f"{self.wrong / max(1, int(self.counts.sum())):.1%} of {self.of} wrong"
        missed, extra = int(self.counts[:-1, -1].sum()), int(self.counts[-1, :-1].sum())
        told = f"{missed} missed, {extra} extra"
        other = self.wrong - missed - extra
        return told + (f", {other} of another class" if other else "")


def of_boxes(found: Detections, truth: Boxes, labels: Sequence[str]) -> Confusion:
    """Of one frame: each box belongs to the free true one that it overlaps most, from MATCHED on, the surest box first.

    A box on a true one that is not asked for counts as nothing.
    """
    counts = np.zeros((len(labels) + 1, len(labels) + 1), np.int64)
    none = np.zeros(len(truth), bool)
    unasked = (none if truth.ignored is None else truth.ignored) | (none if truth.crowd is None else truth.crowd)
    shared = overlaps(found.xyxy.astype(np.float64), truth.xyxy.astype(np.float64))  # (found, true)
    free = np.ones(len(truth), bool)
    for place in np.argsort(-found.confidence, kind="stable"):
        open_to = np.flatnonzero(free & ~unasked & (shared[place] >= MATCHED))
        kind = found.class_id[place]
        if open_to.size:
            # of those of its own class before others: two objects may stand in one place
            own = open_to[truth.class_id[open_to] == kind]
            among = own if own.size else open_to
            best = among[shared[place, among].argmax()]
            free[best] = False
            counts[truth.class_id[best], kind] += 1
        elif not (unasked & (shared[place] >= MATCHED)).any():
            counts[-1, kind] += 1
    np.add.at(counts[:, -1], truth.class_id[free & ~unasked], 1)
    return Confusion((*labels, NOTHING), counts, "boxes")
