"""Detection: boxes with a label and a score each.

The network gives boxes in pixels of its input and a score for each class; which of them are shown, where they lie in
the frame, and what they are worth against the truth is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput, InvalidOutput
from edgecv_runtime.geometry import View
from edgecv_runtime.head import BOXES, SCORES, DetectionHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.onnxfile import ANY_SHAPE
from edgecv_runtime.tasks.average_precision import (
    MOST,
    Matches,
    Summary,
    average_precision,
    fitted_thresholds,
    matches,
    resampled,
    summary,
)
from edgecv_runtime.tasks.base import squares
from edgecv_runtime.tasks.confusion import Confusion, of_boxes
from edgecv_runtime.tasks.detections import Boxes, Detections
from edgecv_runtime.tasks.nms import areas, suppressed
from edgecv_runtime.tasks.pairing import Pairing
from edgecv_runtime.tasks.reading import Given, Reading

Rows = NDArray[np.float32]

FAINTEST = 0.001  # score of the faintest box that average precision ranks, as the field has it (mmdet's score_thr)
_SLACK = 0.01  # by which a score may leave 0..1: half precision and int8 round
_TINY = 1e-6  # the nearest to 0 and 1 that a score is taken for, so that its logarithm is a number


class DetectionTask:
    """Outputs "boxes" (N, A, 4) and "scores" (N, A, classes) to detections.

    A is any number of places that the network looks at.
    """

    name = "detection"
    head: ClassVar[type[DetectionHead]] = DetectionHead
    metric = "AP50-95"
    judged = spatial = True

    def __init__(
        self, head: DetectionHead, outputs: tuple[TensorSpec, ...], *, thresholds: Sequence[float] = ()
    ) -> None:
        """thresholds: the score of each class from which on its boxes are shown; () takes the head's one for all.

        Raises BadInput when the outputs or the thresholds do not fit the head.
        """
        if thresholds and len(thresholds) != len(head.labels):
            raise BadInput(f"{len(thresholds)} thresholds for {len(head.labels)} labels; one a label is wanted")
        wrong = [value for value in thresholds if not 0 <= value <= 1]
        if wrong:
            raise BadInput(f"thresholds of scores lie in 0..1, got {wrong[0]:g}")
        self.config = head
        self.labels = head.labels
        self.thresholds = tuple(thresholds) or (head.confidence,) * len(head.labels)
        self._outputs = outputs
        self._least = np.array(self.thresholds, np.float32)
        _check(outputs, len(head.labels))

    def ranking(self) -> DetectionTask:
        """The same task that gives all boxes down to FAINTEST: average precision ranks what nobody is shown, too."""
        return DetectionTask(self.config, self._outputs, thresholds=(FAINTEST,) * len(self.labels))

    def agreement(self, thresholds: Sequence[float] = ()) -> Pairing:
        """Of the boxes that are shown, those that both show: average precision ranks what nobody sees."""
        return Pairing(np.array(thresholds or self.thresholds, np.float32), self._least)

    def decode(self, outputs: Tensors, views: Sequence[View]) -> list[Detections]:
        """The boxes of each frame in its own pixels, cut off at its edge; raises InvalidOutput where one is NaN."""
        boxes, scores = outputs[BOXES], outputs[SCORES]
        if boxes.shape != (len(views), boxes.shape[1], 4) or scores.shape[:2] != boxes.shape[:2]:
            raise BadInput(f"{len(views)} frames gave boxes {boxes.shape} and scores {scores.shape}")
        if scores.shape[2] != len(self.labels):
            raise BadInput(f"the model scores {scores.shape[2]} classes, but there are {len(self.labels)} labels")
        _check_scores(scores)
        return [self._frame(boxes[index], scores[index], view) for index, view in enumerate(views)]

    def truth(self, given: Boxes) -> Detections:
        """The boxes of a data set as the detections that would be right."""
        ones = np.ones(len(given), np.float32)
        return Detections(given.xyxy, ones, given.class_id, self.labels, known=given)

    def tally(self, result: Detections, truth: Detections) -> Matches:
        """Which boxes of a frame are matched at ten overlaps, by the rules of COCO; a few bytes a box.

        A truth that a model found is given as ranked, like the result, and only what is shown of it counts, of a class
        as many as of a result: else nothing agreed with itself.
        """
        if truth.known is None:
            truth = truth.pick(truth.confidence >= self._least[truth.class_id])
            truth = truth.pick(_counting(truth.confidence, truth.class_id))
        return matches(result.xyxy, result.confidence, result.class_id, truth.boxes)

    def score(self, tallies: Sequence[Matches]) -> float:
        """Average precision over IoU 0.50:0.05:0.95, 0..1; where there is nothing to find, the share of frames in which
        nothing is shown.
        """
        return average_precision(tallies, self.labels, self.thresholds)

    def resampled(self, tallies: Sequence[Matches], times: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same of frames that are each taken so many times, (samples, frames) -> (samples,)."""
        return resampled(tallies, self.labels, times, self.thresholds)

    def summary(self, tallies: Sequence[Matches]) -> Summary:
        """All figures that COCO names, and AP by class."""
        return summary(tallies, self.labels, self.thresholds)

    def figures(self, tallies: Sequence[Matches]) -> dict[str, float]:
        """COCO's other figures, of the kinds of boxes that are there."""
        found = self.summary(tallies)
        told = {"AP50": found.ap50, "AP75": found.ap75, "AP small": found.small, "AP medium": found.medium}
        told |= {"AP large": found.large, "AR100": found.ar100}
        return {name: value for name, value in told.items() if value is not None}

    def by_class(self, tallies: Sequence[Matches]) -> dict[str, float]:
        """Average precision of each class that is there."""
        return self.summary(tallies).by_class

    def confusion(self, result: Detections, truth: Detections) -> Confusion:
        """Boxes that are shown beside those that are there, with what is missed and what is nothing."""
        return of_boxes(result, truth.boxes, self.labels)

    def fitted(self, tallies: Sequence[Matches]) -> tuple[float, ...]:
        """The score of each class at which F1 is the best; see `fitted_thresholds`."""
        return fitted_thresholds(tallies, self.labels, self.config.confidence)

    def at(self, thresholds: Sequence[float]) -> DetectionTask:
        """The task that shows boxes from these scores on; itself for ()."""
        return DetectionTask(self.config, self._outputs, thresholds=thresholds) if thresholds else self

    def unsuppressed(self) -> DetectionTask:
        """The task that shows boxes that overlap a better one, too."""
        config = msgspec.structs.replace(self.config, overlap=0.999)
        return DetectionTask(config, self._outputs, thresholds=self.thresholds)

    def divergence(self, wanted: Tensors, got: Tensors) -> Rows:
        """How far outputs are from the wanted ones, frame by frame -> (N,), 0 where they are equal.

        The Kullback-Leibler divergence of all scores, each with its opposite, in nats, and how little of each wanted
        box the one in its place covers (1 - IoU), weighed by its best score; over the sum of these: it is by object.
        """
        right, found = (np.clip(np.asarray(each[SCORES], np.float32), _TINY, 1 - _TINY) for each in (wanted, got))
        nats = right * np.log(right / found) + (1 - right) * np.log((1 - right) / (1 - found))
        weights = right.max(axis=2)  # (N, A)
        missed = [1 - _side_by_side(one, other) for one, other in zip(wanted[BOXES], got[BOXES], strict=True)]
        total = nats.sum(axis=(1, 2)) + (weights * np.stack(missed)).sum(axis=1)
        return np.asarray(total / (1 + weights.sum(axis=1)), np.float32)

    def reading(self, given: Sequence[Given], outputs: Tensors, views: Sequence[View]) -> Reading[Any]:
        """Boxes (n, 6): x1, y1, x2, y2 in pixels of the picture, score, class position; raises BadInput for others."""
        from edgecv_runtime.tasks import read_boxes

        return read_boxes.reading(self, given, outputs, views)

    def squares(self, wanted: Tensors, got: Tensors) -> tuple[float, float]:
        """Of the scores of every place before their sigmoid; those below FAINTEST, which nothing ranks, are alike."""
        clipped = (np.clip(np.asarray(each[SCORES], np.float32), FAINTEST, 1 - FAINTEST) for each in (wanted, got))
        return squares(*(np.log(each / (1 - each)) for each in clipped))

    def _frame(self, boxes: NDArray[np.float32], scores: NDArray[np.float32], view: View) -> Detections:
        """Boxes (A, 4) and scores (A, classes) of one frame."""
        # of the flat array: a fiftieth of the cost of `np.nonzero` in two axes
        place, kind = np.divmod(np.flatnonzero(scores >= self._least), scores.shape[1])
        chosen = scores[place, kind]
        order = np.argsort(-chosen, kind="stable")
        dropped = max(0, len(order) - self.config.candidates)
        order = order[: self.config.candidates]
        place, kind = place[order], kind[order]
        xyxy = np.asarray(boxes[place], np.float32)
        if not np.isfinite(xyxy).all():
            broken = len(xyxy) - int(np.isfinite(xyxy).all(axis=1).sum())
            raise InvalidOutput(f"{broken} of {len(xyxy)} boxes hold NaN or infinite values; run 'edgecv verify'")
        stays = suppressed(xyxy, kind, self.config.overlap, len(order))
        height, width = view.source
        found = view.to_source(xyxy[stays])
        np.clip(found, 0, np.array([width, height, width, height], np.float32), out=found)
        inside = np.flatnonzero(areas(found) > 0)
        dropped += max(0, len(inside) - self.config.most)
        inside = inside[: self.config.most]
        stays = stays[inside]
        confidence = np.asarray(chosen[order[stays]], np.float32)
        return Detections(found[inside], confidence, kind[stays].astype(np.int64), self.labels, dropped)


def _counting(confidence: NDArray[np.float32], class_id: NDArray[np.int64]) -> NDArray[np.intp]:
    """Positions of the most confident of each class, as many as `matches` looks at."""
    order = np.argsort(-confidence, kind="stable")
    kept = [order[class_id[order] == kind][:MOST] for kind in np.unique(class_id)]
    return np.concatenate(kept) if kept else order


def _check(outputs: tuple[TensorSpec, ...], labels: int) -> None:
    """Raise BadInput where the outputs are no boxes and scores of so many classes."""
    of = {output.name: output.shape for output in outputs}
    if set(of) != {BOXES, SCORES}:
        raise BadInput(f"detection wants the outputs '{BOXES}' and '{SCORES}', the model has {', '.join(of) or 'none'}")
    for name, last, told in ((BOXES, 4, "(N, A, 4)"), (SCORES, labels, f"(N, A, {labels}), one a label")):
        shape = of[name]
        if shape != ANY_SHAPE and (len(shape) != 3 or (isinstance(shape[2], int) and shape[2] != last)):
            raise BadInput(f"detection wants '{name}' of shape {told}, it is {shape}")
    places = [shape[1] for shape in of.values() if shape != ANY_SHAPE and isinstance(shape[1], int)]
    if len(set(places)) > 1:
        raise BadInput(f"there are {places[0]} boxes and {places[1]} scores; a score a box is wanted")


def _check_scores(scores: NDArray[np.float32]) -> None:
    """Raise InvalidOutput where scores hold NaN, BadInput where they are no scores."""
    lowest, highest = scores.min(initial=0), scores.max(initial=0)  # each is NaN where one is
    if np.isnan(highest):
        broken = int(np.isnan(scores).any(axis=(1, 2)).sum())
        raise InvalidOutput(f"{broken} of {len(scores)} outputs hold NaN or infinite values; run 'edgecv verify'")
    if lowest < -_SLACK or highest > 1 + _SLACK:
        beyond = lowest if lowest < -_SLACK else highest
        raise BadInput(f"'{SCORES}' lie in 0..1, but the network gave {beyond:.4g}: it lacks a sigmoid")


def _side_by_side(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of each box with the one in its place, (n, 4) and (n, 4) -> (n,)."""
    width = np.minimum(one[:, 2], other[:, 2]) - np.maximum(one[:, 0], other[:, 0])
    height = np.minimum(one[:, 3], other[:, 3]) - np.maximum(one[:, 1], other[:, 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    union = areas(one) + areas(other) - common
    return np.asarray(np.divide(common, union, out=np.ones_like(common), where=union > 0))
