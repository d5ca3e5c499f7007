"""Where a network is wrong: how often in each class, and the errors that it was most sure of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecv.report.pictures import SHOWN, Picture, picture, speaking
from edgecv.run.folder import Run
from edgecv_runtime.evidence import Interval
from edgecv_runtime.verify.score import wilson

CLASSES = 40  # rows of the table: the worst


@dataclass(frozen=True)
class ClassScore:
    """Of the frames of one class, the share that gets its label, and the label that most of the others get."""

    label: str
    share: Interval
    taken_for: str


@dataclass(frozen=True)
class Mistakes:
    """What one target gets wrong.

    classes: from the worst to the best, at most CLASSES of `class_count`; errors: the pictures that it is most sure of,
    of `error_count`.
    """

    target: str
    classes: list[ClassScore]
    class_count: int
    errors: list[Picture]
    error_count: int


def of(run: Run) -> Mistakes | None:
    """The mistakes of the fastest offered target, or of PyTorch; None without labels."""
    frames, names = run.frames, run.manifest.labels
    if frames is None or frames.labels is None:
        return None
    target, results = speaking(run)
    said = np.array([each.index for each in results])
    classes = []
    for label in np.unique(frames.labels):
        theirs = said[frames.labels == label]
        wrong = np.bincount(theirs[theirs != label], minlength=len(names))
        taken_for = names[int(wrong.argmax())] if wrong.any() else ""
        classes.append(ClassScore(names[label], wilson(int((theirs == label).sum()), len(theirs)), taken_for))
    classes.sort(key=lambda each: (each.share.value, -each.share.count))
    sure = np.array([each.score for each in results])
    wrong_frames = np.flatnonzero(said != frames.labels)
    pictured = [index for index in wrong_frames[np.argsort(-sure[wrong_frames])] if index < len(frames.images)]
    return Mistakes(
        target=target,
        classes=classes[:CLASSES],
        class_count=len(classes),
        errors=[picture(run, frames, int(index), [(target.partition(" ")[0], results)]) for index in pictured[:SHOWN]],
        error_count=len(wrong_frames),
    )
