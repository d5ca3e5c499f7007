"""Classification: one label per frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput, InvalidOutput
from edgecv_runtime.evidence import TOP_1
from edgecv_runtime.geometry import View
from edgecv_runtime.head import ClassificationHead, Head, Scores
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.onnxending import Ending
from edgecv_runtime.onnxfile import ANY_SHAPE
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record
from edgecv_runtime.tasks import scores as meaning
from edgecv_runtime.tasks.base import squares
from edgecv_runtime.tasks.drawing import printable
from edgecv_runtime.tasks.scores import Meaning, Rows

if TYPE_CHECKING:  # a start does without them
    from edgecv_runtime.tasks.confusion import Confusion
    from edgecv_runtime.tasks.reading import Given, Reading


class Guess(Record, frozen=True):
    """One label with its score in 0..1 and its index among the classes."""

    label: str
    score: float
    index: int


class Classification(Record, frozen=True):
    """The result for one frame: `scores` (C,) float32 in 0..1, `labels` name them.

    Scores of classes that exclude each other sum to 1, and `thresholds` are (). Where several labels may hold, each
    score stands for itself, and `present` are those that reach their threshold: none, one or several.
    """

    scores: NDArray[np.float32]
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] = ()

    @property
    def index(self) -> int:
        """Index of the top-1 class."""
        return int(self.scores.argmax())

    def __str__(self) -> str:
        return ", ".join(f"{guess.label} {guess.score:.0%}" for guess in self.present) or "no label"

    @property
    def label(self) -> str:
        """Label of the top-1 class."""
        return self.labels[self.index]

    @property
    def score(self) -> float:
        """Score of the top-1 class, 0..1."""
        return float(self.scores[self.index])

    def top(self, k: int = 5) -> list[Guess]:
        """The k best classes, best first (all of them when there are fewer)."""
        if k < 1:
            raise BadInput(f"k must be at least 1, got {k}")
        order = np.argsort(-self.scores, kind="stable")[:k]
        return [Guess(self.labels[index], float(self.scores[index]), int(index)) for index in order]

    @property
    def present(self) -> list[Guess]:
        """The labels that hold, best first: the top-1 class, or all labels that reach their threshold."""
        if not self.thresholds:
            return self.top(1)
        return [guess for guess in self.top(len(self.labels)) if guess.score >= self.thresholds[guess.index]]

    def as_dict(self, top: int = 5) -> dict[str, Any]:
        """Label, score, index and the best classes, five by default, as plain values; with thresholds, what holds."""
        best = [{"label": guess.label, "score": round(guess.score, 6)} for guess in self.top(top)]
        plain = {"label": self.label, "score": round(self.score, 6), "index": self.index, "top": best}
        return plain | ({"present": [guess.label for guess in self.present]} if self.thresholds else {})

    def _repr_html_(self) -> str:
        from edgecv_runtime import notebook

        return notebook.shares((guess.label, guess.score) for guess in self.top(5))

    def files(self) -> dict[str, bytes]:
        """Nothing beside the drawn frame."""
        return {}

    def draw(self, frame: Image) -> Image:
        """A copy of the (H, W, 3) BGR frame with the three best labels and their bars in the corner."""
        import cv2

        picture = frame.copy()
        unit = max(0.35, min(frame.shape[:2]) / 600)  # text grows with the frame
        line = round(30 * unit)
        best = self.top(3)
        names = [f"{guess.score:4.0%}  {printable(guess.label)}" for guess in best]
        thickness = max(1, round(1.6 * unit))
        font = cv2.FONT_HERSHEY_SIMPLEX
        width = max(cv2.getTextSize(name, font, 0.75 * unit, thickness)[0][0] for name in names) + line
        box = picture[: line * len(best) + line // 2, : width + line // 2]
        box[:] = box // 4
        for row, (name, guess) in enumerate(zip(names, best, strict=True)):
            bottom = line * (row + 1)
            bar = round(guess.score * width)
            cv2.rectangle(
                picture,
                (line // 4, bottom + line // 8),
                (line // 4 + bar, bottom + line // 5),
                (90, 200, 90),
                -1,
            )
            cv2.putText(picture, name, (line // 4, bottom), font, 0.75 * unit, (255, 255, 255), thickness, cv2.LINE_AA)
        return picture


def classifying(head: Head, outputs: tuple[TensorSpec, ...]) -> ClassificationTask:
    """The task of a head that must be a classifier's; raises BadInput for another."""
    if not isinstance(head, ClassificationHead):
        raise BadInput(f"this is for classifiers, the network's task is {head.task}")
    return ClassificationTask(head, outputs)


class ClassificationTask:
    """Outputs of a classifier to classifications: (N, C), with axes of length 1 behind or between them, too.

    A graph for one frame may leave out N. C is the number of labels; or 1, for one label or for a class and its
    opposite, which is named first.
    """

    name = "classification"
    head: ClassVar[type[ClassificationHead]] = ClassificationHead
    metric = TOP_1
    spatial = False

    def __init__(
        self,
        head: ClassificationHead,
        outputs: tuple[TensorSpec, ...],
        *,
        ending: Ending | None = None,
        rows: int = 0,
    ) -> None:
        """`ending`: what the graph ends in, where that is known; it shows what a head without `scores` leaves open.

        rows: how many frames the graph takes at once; 0: any number.

        Raises BadInput when the output is not (N, C), C is not the number of labels, or the graph ends otherwise.
        """
        if len(outputs) != 1:
            raise BadInput(f"classification wants one output, the model has {len(outputs)}")
        output = outputs[0]
        self.labels = head.labels
        self._output = output.name
        self._ending = ending
        self._scores = None if head.scores is None else meaning.told(head.scores, ending)
        self._given = head.thresholds
        self._settled: Meaning | None = None
        self._classes = len(head.labels)
        if output.shape == ANY_SHAPE:
            return
        squeezed = rows == 1 and isinstance(next(iter(output.shape), 1), int)
        sizes = [size for size in output.shape[0 if squeezed else 1 :] if size != 1]
        if len(sizes) > 1 or not output.shape:
            raise BadInput(f"classification wants an output of shape (N, classes), '{output.name}' is {output.shape}")
        if all(isinstance(size, int) for size in sizes):
            self._classes = int(sizes[0]) if sizes else 1
            self._check_count(self._classes)
            self._spread(
                self._scores or meaning.expected(ending), self._classes
            )  # refuses thresholds that mean nothing

    def settle(self, rows: NDArray[np.float32]) -> Meaning:
        """What the outputs mean, as these rows (N, C) of the first frames confirm; raises BadInput with the choice."""
        if self._scores is None:
            self._scores = meaning.settled(self._ending, rows)
        found = self.meaning(rows)
        meaning.check_rows(found.scores, rows, not found.thresholds, self._ending)
        self._settled = found  # threads that come here at once find the same
        return found

    @property
    def judged(self) -> bool:
        """Whether a class is the truth of a frame: not where several labels may hold at once."""
        return not self._spread(self._scores, self._classes)

    def ranking(self) -> ClassificationTask:
        """Itself: all of a result counts."""
        return self

    def agreement(self, thresholds: Sequence[float] = ()) -> ClassificationTask:  # noqa: ARG002 - as every task's
        """Itself: the same score with another model's results as the truth."""
        return self

    def decode(self, outputs: Tensors, views: Sequence[View]) -> list[Classification]:
        """One Classification per frame; raises InvalidOutput when one holds NaN or infinite values.

        Raises BadInput when the first frames show that the outputs are not what they were said to be, or do not show
        what they are.
        """
        return self.of_rows(self.checked(outputs[self._output], len(views)))

    def of_rows(self, rows: Rows) -> list[Classification]:
        """One Classification for each row (N, C) of checked outputs; raises BadInput as `decode`."""
        settled = self._settled or self.settle(rows)
        return [Classification(row, self.labels, settled.thresholds) for row in settled.of(rows)]

    def truth(self, given: Any) -> Classification:
        """The classification that says a class, by its position, and nothing else; raises BadInput for no position."""
        scores = np.zeros(len(self.labels), np.float32)
        if not isinstance(given, int | np.integer) or not 0 <= given < len(scores):
            raise BadInput(f"a label is {given}, and there are {len(scores)} classes (0 to {len(scores) - 1})")
        scores[given] = 1
        return Classification(scores, self.labels)

    def tally(self, result: Classification, truth: Classification) -> bool:
        """Whether the top-1 label is the true one; where several may hold, whether just those of the truth do."""
        if not result.thresholds:
            return result.index == truth.index
        return bool(((result.scores >= result.thresholds) == (truth.scores >= result.thresholds)).all())

    def score(self, tallies: Sequence[bool]) -> float:
        """The share of frames that are right."""
        return sum(tallies) / len(tallies)

    def resampled(self, tallies: Sequence[bool], times: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same of frames that are each taken so many times, (samples, frames) -> (samples,)."""
        return np.asarray(times @ np.asarray(tallies, np.int64) / times.sum(axis=1))

    def figures(self, tallies: Sequence[bool]) -> dict[str, float]:  # noqa: ARG002 - as every task's
        """Nothing beside the score."""
        return {}

    def by_class(self, tallies: Sequence[bool]) -> dict[str, float]:  # noqa: ARG002
        """A tally does not know its frame's class."""
        return {}

    def confusion(self, result: Classification, truth: Classification) -> Confusion:
        """One frame, by the top-1 labels."""
        from edgecv_runtime.tasks.confusion import Confusion

        counts = np.zeros((len(self.labels), len(self.labels)), np.int64)
        counts[truth.index, result.index] = 1
        return Confusion(self.labels, counts, "frames")

    def fitted(self, tallies: Sequence[bool]) -> tuple[float, ...]:  # noqa: ARG002
        """The best label is always shown; of several that may hold, the head says from where on."""
        return ()

    def at(self, thresholds: Sequence[float]) -> ClassificationTask:
        """Itself; raises BadInput for thresholds."""
        if thresholds:
            raise BadInput("thresholds of a classifier stand in its head")
        return self

    def divergence(self, wanted: Tensors, got: Tensors) -> Rows:
        """Kullback-Leibler divergence of each frame's scores from the wanted ones -> (N,) in nats."""
        right, found = (self.checked(each[self._output], len(each[self._output])) for each in (wanted, got))
        return self.meaning(right).divergence(right, found)

    def reading(self, given: Sequence[Given], outputs: Tensors, views: Sequence[View]) -> Reading[Any]:
        """Scores (classes,), as logits or shares; raises BadInput for others."""
        from edgecv_runtime.tasks import read_scores

        del views
        return read_scores.reading(self, given, outputs)

    def squares(self, wanted: Tensors, got: Tensors) -> tuple[float, float]:
        """Of the outputs; of logits less their mean, for a softmax does not see what all share."""
        return squares(self._told(wanted), self._told(got))

    def _told(self, outputs: Tensors) -> Rows:
        rows = self.checked(outputs[self._output], len(outputs[self._output]))
        meaning = self.meaning(rows)
        shifts = meaning.scores == "logits" and not meaning.thresholds and not meaning.opposites
        return rows - rows.mean(axis=1, keepdims=True) if shifts else rows

    def meaning(self, rows: NDArray[np.float32]) -> Meaning:
        """How to read rows (N, C): as was told, or settled by the first frames."""
        if self._scores is None:
            return self.settle(rows)
        classes = rows.shape[1]
        return Meaning(self._scores, self._spread(self._scores, classes), classes == 1 and len(self.labels) == 2)

    def checked(self, output: NDArray[Any], count: int) -> Rows:
        """The output of `count` frames as finite rows (count, C)."""
        if output.ndim != 2 or len(output) != count:  # seldom: the axes of length 1 do not matter
            wanted = [size for size in (count, output.size // count) if size != 1]
            if [size for size in output.shape if size != 1] != wanted:
                raise BadInput(f"the model gave {output.shape} for {count} frames, not a row of classes for each")
        rows = np.asarray(output, np.float32).reshape(count, -1)
        self._check_count(rows.shape[1])
        finite = np.isfinite(rows)
        if not finite.all():
            broken = count - finite.all(axis=1).sum()
            raise InvalidOutput(f"{broken} of {count} outputs hold NaN or infinite values; run 'edgecv verify'")
        return rows

    def _spread(self, scores: Scores | None, classes: int) -> tuple[float, ...]:
        return meaning.spread_thresholds(self._given, scores, len(self.labels), classes)

    def _check_count(self, classes: int) -> None:
        labels = len(self.labels)
        if classes != labels and (classes, labels) != (1, 2):
            raise BadInput(f"the model has {classes} classes, but {labels} labels were given")
