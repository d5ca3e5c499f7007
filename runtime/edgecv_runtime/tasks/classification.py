"""Classification: one label per frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput, InvalidOutput
from edgecv_runtime.head import ClassificationHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Image
from edgecv_runtime.records import Record


class Guess(Record, frozen=True):
    """One label with its score in 0..1 and its index among the classes."""

    label: str
    score: float
    index: int


class Classification(Record, frozen=True):
    """The result for one frame: `scores` (C,) float32 sum to 1, `labels` name them."""

    scores: NDArray[np.float32]
    labels: tuple[str, ...]

    @property
    def index(self) -> int:
        """Index of the top-1 class."""
        return int(self.scores.argmax())

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

    def as_dict(self, top: int = 5) -> dict[str, Any]:
        """Label, score, index and the best classes, five by default, as plain values."""
        best = [{"label": guess.label, "score": round(guess.score, 6)} for guess in self.top(top)]
        return {"label": self.label, "score": round(self.score, 6), "index": self.index, "top": best}

    def _repr_html_(self) -> str:
        from edgecv_runtime import notebook

        return notebook.shares((guess.label, guess.score) for guess in self.top(5))

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


class ClassificationTask:
    """Decode outputs (N, C) into classifications; logits meet a softmax."""

    def __init__(self, head: ClassificationHead, outputs: tuple[TensorSpec, ...]) -> None:
        """Raises BadInput when the output is not (N, C), or C is not the number of labels."""
        if len(outputs) != 1 or len(outputs[0].shape) != 2:
            shapes = ", ".join(f"{output.name} {output.shape}" for output in outputs)
            raise BadInput(f"classification wants one output of shape (N, classes), the model has: {shapes}")
        classes, labels = outputs[0].shape[1], head.labels
        if isinstance(classes, int) and classes != len(labels):
            raise BadInput(f"the model has {classes} classes, but {len(labels)} labels were given")
        self._output = outputs[0].name
        self._labels = labels
        self._scores = head.scores

    def decode(self, outputs: Tensors) -> list[Classification]:
        """One Classification per row; raises InvalidOutput when a row holds NaN or infinite values."""
        logits = np.asarray(outputs[self._output], np.float32)
        if logits.shape[1] != len(self._labels):
            raise BadInput(f"the model gave {logits.shape[1]} classes, but there are {len(self._labels)} labels")
        broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if broken.size:
            raise InvalidOutput(
                f"{broken.size} of {len(logits)} outputs hold NaN or infinite values; run 'edgecv verify'"
            )
        scores = softmax(logits) if self._scores == "logits" else logits
        return [Classification(row, self._labels) for row in scores]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis, shifted by the largest logit so that it cannot overflow."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: NDArray[np.float32] = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def printable(text: str) -> str:
    """Text in the characters that OpenCV's fonts have; others become '?'."""
    return text.encode("ascii", "replace").decode()
