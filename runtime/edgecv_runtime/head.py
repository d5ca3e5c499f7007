"""What a network's outputs mean, as a bundle says it: one record for each task, told apart by the tag `task`."""

from __future__ import annotations

from typing import Literal

from edgecv_runtime.records import Record

Scores = Literal["logits", "probabilities", "sigmoid", "percent"]


class ClassificationHead(Record, frozen=True, tag_field="task", tag="classification"):
    """One output, a row a frame and a column a class.

    labels: of the classes, in the order of the columns. scores: what the columns hold. thresholds: the scores above
    which a label holds, where several may hold at once.
    """

    labels: tuple[str, ...]
    scores: Scores = "logits"
    thresholds: tuple[float, ...] = ()

    @property
    def task(self) -> str:
        """Name of the task."""
        return "classification"


Head = ClassificationHead  # a union, once there are more tasks
