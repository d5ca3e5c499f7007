"""What a network's outputs mean, as a bundle says it: one record for each task, told apart by the tag `task`."""

from __future__ import annotations

from typing import Literal

from edgecv_runtime.records import Record

# logits: a softmax makes scores of them (logarithms of probabilities stay what they are); of a single one, a sigmoid.
# probabilities: of classes that exclude each other. sigmoid: each label for itself, in 0..1; several may hold.
# sigmoid-logits: each label for itself, before its sigmoid. percent: in 0..100; of classes that exclude each other,
# or, with thresholds, of each label for itself.
Scores = Literal["logits", "probabilities", "sigmoid", "sigmoid-logits", "percent"]
# Those that have bounds: 0 and this.
WHOLE: dict[Scores, int] = {"probabilities": 1, "sigmoid": 1, "percent": 100}


class ClassificationHead(Record, frozen=True, tag_field="task", tag="classification"):
    """One output, a row a frame and a column a class.

    labels: of the classes, in the order of the columns; one column for two labels is a class (the second) and its
    opposite. scores: what the columns hold. thresholds: the scores from which on a label holds, where several may hold
    at once: one for all, or one a label.
    """

    labels: tuple[str, ...]
    scores: Scores = "logits"
    thresholds: tuple[float, ...] = ()

    @property
    def task(self) -> str:
        """Name of the task."""
        return "classification"


Head = ClassificationHead  # a union, once there are more tasks
