"""Average precision by the rules of COCO, in numpy, from what each frame adds.

Written from pycocotools' cocoeval.py (evaluateImg, accumulate), which the tests compare it with: boxes of a class are
matched greedily, the most confident first, at ten overlaps and in four ranges of area; then precision is read at 101
recalls.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record
from edgecv_runtime.tasks.detections import Boxes
from edgecv_runtime.tasks.nms import areas, intersections

OVERLAPS = tuple(float(value) for value in np.linspace(0.5, 0.95, 10))  # intersection over union
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MOST = 100  # boxes of a class that count in a frame
_RECALLS = np.linspace(0, 1, 101)
_BITS = (1 << np.arange(len(OVERLAPS))).astype(np.uint16)
_LIMITS = np.array([*AREAS.values()])  # (ranges, 2) square pixels


class Matches(Record, frozen=True, eq=False):
    """What a frame adds to average precision.

    confidence: (d,) float32, class_id: (d,) int32 of its boxes. right, unasked: (d, 4) uint16 by range of area, a bit
    for each of OVERLAPS: whether the box matches one that is asked for, and whether it counts neither way. wanted:
    (4, classes that are there) int32, how many are asked for of the classes wanted_id.
    """

    confidence: NDArray[np.float32]
    class_id: NDArray[np.int32]
    right: NDArray[np.uint16]
    unasked: NDArray[np.uint16]
    wanted: NDArray[np.int32]
    wanted_id: NDArray[np.int32]


class Summary(Record, frozen=True):
    """COCO's figures, 0..1, None where no box of the kind is there: AP over IoU 0.50:0.05:0.95, at 0.50 and at 0.75;

    of small (up to 32x32 pixels), medium and large (from 96x96) boxes; ar100: recall with 100 boxes a class, over the
    same overlaps. by_class: AP of each label that is there.
    """

    ap: float
    ap50: float
    ap75: float
    small: float | None
    medium: float | None
    large: float | None
    ar100: float
    by_class: dict[str, float]

    def __str__(self) -> str:
        told = {"AP": self.ap, "AP50": self.ap50, "AP75": self.ap75, "small": self.small, "medium": self.medium}
        told |= {"large": self.large, "AR100": self.ar100}
        return "  ".join(f"{name} {'-' if value is None else f'{value:.3f}'}" for name, value in told.items())


def matches(
    xyxy: NDArray[np.float32], confidence: NDArray[np.float32], class_id: NDArray[np.int64], truth: Boxes
) -> Matches:
    """Match the boxes of a frame, (d, 4), (d,), (d,), with its truth; of each class the MOST confident count."""
    order = np.argsort(-confidence, kind="stable")
    kept, right, unasked = [], [], []
    wanted_id = np.unique(truth.class_id)
    wanted = np.zeros((len(AREAS), len(wanted_id)), np.int32)
    area = truth.area if truth.area is not None else areas(truth.xyxy.astype(np.float64))
    no = np.zeros(len(truth), bool)
    crowd = no if truth.crowd is None else truth.crowd
    left_out = (no if truth.ignored is None else truth.ignored) | crowd
    for kind in np.union1d(wanted_id, class_id):
        mine, theirs = order[class_id[order] == kind][:MOST], truth.class_id == kind
        ignored = left_out[theirs] | _outside(area[theirs])  # (ranges, g)
        wanted[:, wanted_id == kind] = (~ignored).sum(axis=1, keepdims=True)
        found = xyxy[mine].astype(np.float64)
        hit, on_ignored = _matched(_overlaps(found, truth.xyxy[theirs], crowd[theirs]), ignored, crowd[theirs])
        beyond = _outside(areas(found)).T[:, :, None]  # (d, ranges, 1)
        kept.append(mine)
        right.append((hit & ~on_ignored) @ _BITS)
        unasked.append((on_ignored | (beyond & ~hit)) @ _BITS)
    which = np.concatenate([*kept, np.empty(0, np.intp)])
    none = np.empty((0, len(AREAS)), np.uint16)
    return Matches(
        confidence[which],
        class_id[which].astype(np.int32),
        np.concatenate([*right, none]),
        np.concatenate([*unasked, none]),
        wanted,
        wanted_id.astype(np.int32),
    )


def summary(tallies: Sequence[Matches], labels: Sequence[str], least: Sequence[float] = ()) -> Summary:
    """COCO's figures over the frames behind these tallies.

    Where no box is asked for in any frame, AP and recall are the share of frames in which none was found; least: the
    confidence of each class from which on a box counts as found there, () for all.
    """
    joined = _Joined(tallies, labels)
    # (classes, ranges, overlaps), NaN where nothing is wanted
    precision, recall = (np.full((len(labels), len(AREAS), len(OVERLAPS)), np.nan) for _ in range(2))
    for kind in range(len(labels)):
        for position, step, counts in joined.of(kind):
            precision[kind, position, step], recall[kind, position, step] = counts.precision, counts.recall
    if np.isnan(precision[:, 0]).all():
        value = _quiet(tallies, least)
        return Summary(value, value, value, None, None, None, value, {})
    by_range = [_mean(precision[:, position]) for position in range(len(AREAS))]
    by_class = {name: _mean(precision[kind, 0]) for kind, name in enumerate(labels)}
    return Summary(
        ap=by_range[0] or 0.0,
        ap50=_mean(precision[:, 0, 0]) or 0.0,
        ap75=_mean(precision[:, 0, 5]) or 0.0,
        small=by_range[1],
        medium=by_range[2],
        large=by_range[3],
        ar100=_mean(recall[:, 0]) or 0.0,
        by_class={name: value for name, value in by_class.items() if value is not None},
    )


def average_precision(tallies: Sequence[Matches], labels: Sequence[str], least: Sequence[float] = ()) -> float:
    """The summary's AP alone, without the ranges of area."""
    return float(resampled(tallies, labels, np.ones((1, len(tallies)), np.int64), least)[0])


def resampled(
    tallies: Sequence[Matches], labels: Sequence[str], times: NDArray[np.int64], least: Sequence[float] = ()
) -> NDArray[np.float64]:
    """AP of the same frames, each taken so many times: (samples, frames) -> (samples,).

    Boxes are put in order once, for all samples; boxes of one confidence stay in the order of their frames.
    """
    joined = _Joined(tallies, labels)
    ranked = [joined.ranked(kind) for kind in range(len(labels)) if joined.wanted[kind, 0]]
    found = np.empty(len(times))
    for sample, each in enumerate(times):
        precisions = [kind.precision(each) for kind in ranked if (kind.wanted @ each).any()]
        found[sample] = _mean(np.array(precisions)) or 0.0 if precisions else _quiet(tallies, least, each)
    return found


def fitted_thresholds(tallies: Sequence[Matches], labels: Sequence[str], otherwise: float) -> tuple[float, ...]:
    """The score of each class from which on its boxes are shown, so that F1 at IoU 0.5 is the best that there is.

    It lies half-way to the next lower score; of equally good ones the highest is taken. otherwise: for a class that is
    never right.
    """
    joined = _Joined(tallies, labels)
    found = []
    for kind in range(len(labels)):
        counts = next((each for position, step, each in joined.of(kind) if (position, step) == (0, 0)), None)
        if counts is None or not counts.right.any():
            found.append(otherwise)
            continue
        scores = counts.scores
        f1 = 2 * counts.right / (counts.right + counts.wrong + counts.wanted)  # 2 TP / (2 TP + FP + FN)
        f1[:-1][scores[1:] == scores[:-1]] = 0  # boxes of one score come and go together
        best = int(f1.argmax())
        below = float(scores[best + 1]) if best + 1 < len(scores) else 0.0
        found.append((float(scores[best]) + below) / 2)
    return tuple(found)


class _Joined:
    """What all frames add, in their order."""

    def __init__(self, tallies: Sequence[Matches], labels: Sequence[str]) -> None:
        self.classes = len(labels)
        self.confidence = np.concatenate([each.confidence for each in tallies] or [np.empty(0, np.float32)])
        self.class_id = np.concatenate([each.class_id for each in tallies] or [np.empty(0, np.int32)])
        none = np.empty((0, len(AREAS)), np.uint16)
        self.right = np.concatenate([each.right for each in tallies] or [none])
        self.unasked = np.concatenate([each.unasked for each in tallies] or [none])
        self.frames = len(tallies)
        self.frame = np.repeat(np.arange(self.frames), [len(each.confidence) for each in tallies])
        kinds = np.concatenate([each.wanted_id for each in tallies] or [np.empty(0, np.int32)])
        for ids in (self.class_id, kinds):
            if ids.size and not 0 <= ids.min() <= ids.max() < self.classes:
                raise BadInput(f"a box has the class {ids.max()}, but there are {self.classes} labels")
        self.wanted_id = kinds
        self.wanted_frame = np.repeat(np.arange(self.frames), [len(each.wanted_id) for each in tallies])
        nothing = np.empty((len(AREAS), 0), np.int32)
        self.wanted_of = np.concatenate([each.wanted for each in tallies] or [nothing], axis=1)
        self.wanted = np.zeros((self.classes, len(AREAS)), np.int64)
        np.add.at(self.wanted, kinds, self.wanted_of.T)

    def ranked(self, kind: int) -> _Ranked:
        """The boxes of a class, the most confident first, of any area."""
        mine = np.flatnonzero(self.class_id == kind)
        mine = mine[np.argsort(-self.confidence[mine], kind="stable")]
        asked = self.unasked[mine, :1] & _BITS == 0  # (d, overlaps)
        wanted = np.bincount(self.wanted_frame, self.wanted_of[0] * (self.wanted_id == kind), self.frames)
        return _Ranked(self.frame[mine], asked, asked & (self.right[mine, :1] & _BITS != 0), wanted.astype(np.int64))

    def of(self, kind: int) -> Iterator[tuple[int, int, _Counts]]:
        """Of a class: range of area, overlap and what counts there, where any box is wanted."""
        mine = np.flatnonzero(self.class_id == kind)
        mine = mine[np.argsort(-self.confidence[mine], kind="stable")]
        scores, right, unasked = self.confidence[mine].astype(np.float64), self.right[mine], self.unasked[mine]
        for position, wanted in enumerate(self.wanted[kind]):
            for step in range(len(OVERLAPS)) if wanted else ():
                asked = unasked[:, position] & _BITS[step] == 0
                is_right = (right[:, position] & _BITS[step] != 0)[asked]
                right_so_far, wrong_so_far = (np.cumsum(each, dtype=float) for each in (is_right, ~is_right))
                yield position, step, _Counts(scores[asked], right_so_far, wrong_so_far, int(wanted))


class _Ranked:
    """The boxes of a class in the order of their confidence, as they count at each overlap.

    frame: (d,), where each was found; asked, right: (d, overlaps), whether it counts, and is right. wanted: (frames,),
    how many boxes are asked for in each.
    """

    def __init__(
        self,
        frame: NDArray[np.intp],
        asked: NDArray[np.bool_],
        right: NDArray[np.bool_],
        wanted: NDArray[np.int64],
    ) -> None:
        self.wanted = wanted
        self._frame, self._asked = frame, None if asked.all() else asked
        self._hits = np.flatnonzero(right.any(axis=1))  # precision falls at all others
        self._right = right[self._hits]
        self._row, self._step = np.nonzero(self._right)

    def precision(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """Average precision at each overlap, (overlaps,), with every frame taken so many times."""
        count = times[self._frame]
        if self._asked is None:
            asked = np.cumsum(count)[self._hits, None]
        else:
            asked = np.cumsum(count[:, None] * self._asked, axis=0)[self._hits]
        count = count[self._hits]
        right = np.cumsum(count[:, None] * self._right, axis=0)
        precision = right / (asked + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        # by how many are right: the best precision from there on, 0 where so many never are
        wanted = int(self.wanted @ times)
        reached = np.zeros((len(OVERLAPS), wanted + 1))
        there = count[self._row] > 0
        row, step = self._row[there], self._step[there]
        reached[step, right[row, step]] = best[row, step]
        reached = np.maximum.accumulate(reached[:, ::-1], axis=1)[
            :, ::-1
        ]  # a frame that is taken twice has two at once
        at = np.searchsorted(np.arange(wanted + 1) / wanted, _RECALLS, side="left")
        return np.asarray(reached.take(at, axis=1).mean(axis=1))


class _Counts(NamedTuple):
    """Scores that count (d,), falling; how many boxes down to each are right and wrong; how many are wanted."""

    scores: NDArray[np.float64]
    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    wanted: int

    @property
    def precision(self) -> float:
        """The mean over 101 recalls of the best precision at each or beyond, 0 where that is never reached."""
        precision = self.right / (self.right + self.wrong + np.spacing(1))
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        return float(best[np.searchsorted(self.right / self.wanted, _RECALLS, side="left")].mean())

    @property
    def recall(self) -> float:
        """The share of the wanted boxes that are found."""
        return float(self.right[-1]) / self.wanted if len(self.right) else 0.0


def _quiet(tallies: Sequence[Matches], least: Sequence[float], times: NDArray[np.int64] | None = None) -> float:
    """The share of frames, each taken so many times, in which no box that counts reaches the confidence of its class;
    1 of no frames.
    """
    limits = np.array(least, np.float32)

    def shows(each: Matches) -> bool:
        counts = (each.unasked[:, 0] & 1) == 0  # of any area, at the lowest overlap
        return bool((counts & (each.confidence >= (limits[each.class_id] if len(limits) else 0))).any())

    return 1 - float(np.average([shows(each) for each in tallies], weights=times)) if tallies else 1.0


def _overlaps(found: NDArray[np.float64], truth: NDArray[np.float32], crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Overlaps (d, g): intersection over union, and with a crowd the share of the box that lies in it."""
    truth = truth.astype(np.float64)
    common = intersections(found, truth)
    mine = areas(found)[:, None]
    whole = np.where(crowd, mine, mine + areas(truth) - common)
    return np.asarray(np.divide(common, whole, out=np.zeros_like(common), where=whole > 0))


def _matched(
    overlaps: NDArray[np.float64], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Greedy matching of boxes, the most confident first, with a truth each.

    overlaps: (d, g); ignored: (ranges, g); crowd: (g,), may be taken again and again.
    Gives (d, ranges, overlaps): whether each is matched, and whether with one that is ignored.
    """
    shape = (len(overlaps), len(ignored), len(OVERLAPS))
    hit, on_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    least = np.minimum(OVERLAPS, 1 - 1e-10)[None, :, None]  # as pycocotools has it
    taken = np.zeros((*shape[1:], overlaps.shape[1]), bool)
    # Those that are asked for come before those that are ignored; among equals the last one is taken, by either kind.
    rank = np.where(ignored, -2.0, 0.0)[:, None, :]
    rows, columns = np.ogrid[: shape[1], : shape[2]]
    for each in np.flatnonzero(overlaps.max(axis=1, initial=0) >= OVERLAPS[0]):
        free = (overlaps[each] >= least) & (~taken | crowd)
        value = np.where(free, overlaps[each] + rank, -9.0)  # (ranges, overlaps, g)
        best = value.shape[2] - 1 - value[..., ::-1].argmax(axis=2)
        is_hit = free.any(axis=2)
        hit[each] = is_hit
        on_ignored[each] = is_hit & ignored[rows, best]
        taken[rows, columns, best] |= is_hit
    return hit, on_ignored


def _outside(area: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each area (n,) lies outside each range -> (ranges, n)."""
    return np.asarray((area < _LIMITS[:, :1]) | (area > _LIMITS[:, 1:]))


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of what is there; None where nothing is."""
    there = values[~np.isnan(values)]
    return math.fsum(there) / len(there) if len(there) else None
