"""What a network's outputs mean, as a bundle says it: one record for each task, told apart by the tag `task`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from edgecv_runtime import records, task_table
from edgecv_runtime.errors import BadInput
from edgecv_runtime.records import Record

# logits: a softmax makes scores of them (logarithms of probabilities stay what they are); of a single one, a sigmoid.
# probabilities: of classes that exclude each other. sigmoid: each label for itself, in 0..1; several may hold.
# sigmoid-logits: each label for itself, before its sigmoid. percent: in 0..100; of classes that exclude each other,
# or, with thresholds, of each label for itself.
Scores = Literal["logits", "probabilities", "sigmoid", "sigmoid-logits", "percent"]
# Those that have bounds: 0 and this.
WHOLE: dict[Scores, int] = {"probabilities": 1, "sigmoid": 1, "percent": 100}


# Names of the outputs of our own graphs: of a classifier, of a segmenter, and the two of a detector.
LOGITS, MASK, BOXES, SCORES = "logits", "mask", "boxes", "scores"


class Head:
    """What every task's record has: the name of the task, and labels of the classes."""

    task: ClassVar[str]
    labels: tuple[str, ...]
    # What is open where a description says nothing of it, and found out from the graph; a bundle always says it.
    unsaid: ClassVar[Mapping[str, Any]] = {}

    @property
    def bound(self) -> float | None:
        """What outputs cannot exceed, where they have such a limit."""
        return None

    @staticmethod
    def from_plain(data: Any) -> Head:
        """The record of a task from what JSON holds of it; raises BadInput for a task that is not known here."""
        name = data.get("task") if isinstance(data, dict) else None
        if not isinstance(name, str):
            raise BadInput("a head is a mapping with the key 'task'")
        found: Head = records.convert(data, task_table.find(name).head, name)
        return found


class ClassificationHead(Record, Head, frozen=True, tag_field="task", tag="classification"):
    """One output, a row a frame and a column a class.

    labels: of the classes, in the order of the columns; one column for two labels is a class (the second) and its
    opposite. scores: what the columns hold; None where the graph and the first frames are to show it. thresholds: the
    scores from which on a label holds, where several may hold at once: one for all, or one a label.
    """

    labels: tuple[str, ...]
    scores: Scores | None = "logits"
    thresholds: tuple[float, ...] = ()

    task: ClassVar[str] = "classification"
    unsaid: ClassVar[Mapping[str, Any]] = {"scores": None}

    @property
    def bound(self) -> float | None:
        """What the columns hold at most: 1 or 100, or None of logits."""
        return None if self.scores is None else WHOLE.get(self.scores)


class DetectionHead(Record, Head, frozen=True, tag_field="task", tag="detection"):
    """Two outputs: "boxes" (N, A, 4), x1, y1, x2, y2 in pixels of the input, and "scores" (N, A, classes) in 0..1.

    labels: of the classes, in the order of the scores. confidence: the score from which on a box is shown, for a class
    with no threshold of its own. overlap: boxes of a class that overlap a better one by more than this (intersection
    over union) are left out. candidates: the most boxes that are compared with each other, most: that a frame shows.
    """

    labels: tuple[str, ...]
    confidence: float = 0.25
    overlap: float = 0.65
    candidates: int = 1000
    most: int = 300

    def __post_init__(self) -> None:
        if not self.labels:
            raise BadInput("a detection head wants at least one label")
        for name, value in (("confidence", self.confidence), ("overlap", self.overlap)):
            if not 0 < value < 1:
                raise BadInput(f"{name} must lie between 0 and 1, both exclusive, got {value}")
        if not 1 <= self.most <= self.candidates:
            raise BadInput(
                f"most must be at least 1 and at most candidates, got most={self.most}, candidates={self.candidates}"
            )

    task: ClassVar[str] = "detection"


class SegmentationHead(Record, Head, frozen=True, tag_field="task", tag="segmentation"):
    """One output, a class map (N, H, W) of integers or logits (N, classes, H, W).

    labels: of the classes, in the order of their positions. ignore: the value of pixels that do not count; no class
    has it. background: the position of the class that is nothing in particular, which is not drawn.
    """

    labels: tuple[str, ...]
    ignore: int = 255
    background: int | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        if not 1 <= count <= 255:
            raise BadInput(f"segmentation wants 1 to 255 labels, one a class, got {count}")
        if not count <= self.ignore <= 255:
            raise BadInput(f"ignore is a value that no class has, {count} to 255, got {self.ignore}")
        if self.background is not None and not 0 <= self.background < count:
            raise BadInput(f"background is the position of a class, 0 to {count - 1}, got {self.background}")

    task: ClassVar[str] = "segmentation"
