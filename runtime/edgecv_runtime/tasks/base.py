"""What a task is: it knows what a network's outputs mean, and nothing of backends.

Agreement is a score with the reference's results as the truth, the task's own wherever that says what is seen, so that
one function serves accuracy, agreement, the search for int8 and validation in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.geometry import View
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Image

if TYPE_CHECKING:  # a start does without them
    from edgecv_runtime.tasks.confusion import Confusion
    from edgecv_runtime.tasks.reading import Given, Reading

Rows = NDArray[np.float32]


class Result(Protocol):
    """One frame's result, in the frame's own geometry."""

    def __str__(self) -> str:
        """What was found, in a few words."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ...

    def draw(self, frame: Image) -> Image:
        """A copy of the BGR frame with the result drawn on it."""
        ...

    def files(self) -> dict[str, bytes]:
        """What is kept of it beside the drawn frame: the content of files, by their endings (".mask.png")."""
        ...


R = TypeVar("R", bound=Result)
Scored = TypeVar("Scored", bound=Result, contravariant=True)


class Decoder(Protocol[R]):
    """What makes results of outputs: a task, or what reads a network from elsewhere for one."""

    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the task, as a bundle's head is tagged."""
        ...

    def decode(self, outputs: Tensors, views: Sequence[View]) -> list[R]:
        """One result per frame; views: how the network saw each, so that results lie in the frames' own pixels."""
        ...


class Scoring(Protocol[Scored]):
    """A figure of results beside what they should be: `metric` is its name."""

    metric: str

    def tally(self, result: Scored, truth: Scored) -> Any:
        """What one frame adds to the score, however large the frame: small, and independent of other frames.

        result, truth: as `Task.ranking` decodes them; the truth may be what another model found.
        """
        ...

    def score(self, tallies: Sequence[Any]) -> float:
        """The metric over the frames behind these tallies, 0..1; NaN where nothing of them can be told."""
        ...

    def resampled(self, tallies: Sequence[Any], times: NDArray[np.int64]) -> NDArray[np.float64]:
        """The score of the same frames, each taken so many times: (samples, frames) -> (samples,).

        It is asked for of hundreds of samples: what they have in common is done once.
        """
        ...


class Task(Decoder[R], Scoring[R], Protocol[R]):
    """What a task does with the outputs of a batch and with results.

    head: the record that a bundle holds of it, tagged with its name. metric: the name of its score. spatial: whether a
    result lies in places of its frame, so that it is looked at on the frame.
    """

    head: ClassVar[type[Any]]
    spatial: bool

    def __init__(self, head: Any, outputs: tuple[TensorSpec, ...]) -> None:
        """Raises BadInput when the head does not match the outputs."""
        ...

    @property
    def judged(self) -> bool:
        """Whether what a data set knows of a frame can score a result."""
        ...

    def ranking(self) -> Task[R]:
        """The task as it is scored: where results are cut off at a confidence, without that; else itself."""
        ...

    def truth(self, given: Any) -> R:
        """What a data set knows of a frame (a class position, a mask, boxes), as the result that would be right."""
        ...

    def agreement(self, thresholds: Sequence[float] = ()) -> Scoring[R]:
        """How results are scored that have another model's as their truth: the task itself, but where its metric says
        little of what is seen.

        thresholds: the confidences from which on those results are shown, () for the task's own.
        """
        ...

    def figures(self, tallies: Sequence[Any]) -> dict[str, float]:
        """What else is told of these frames, by the field's names, 0..1; {} where the score says all."""
        ...

    def by_class(self, tallies: Sequence[Any]) -> dict[str, float]:
        """The metric of each class that occurs, by its label; {} where tallies do not tell."""
        ...

    def confusion(self, result: R, truth: R) -> Confusion:
        """What a frame's result takes for what; of many frames they are added."""
        ...

    def fitted(self, tallies: Sequence[Any]) -> tuple[float, ...]:
        """The confidence of each class from which on a result is shown, fitted to these tallies; () where all is."""
        ...

    def at(self, thresholds: Sequence[float]) -> Task[R]:
        """The task with these confidences; itself for ()."""
        ...

    def divergence(self, wanted: Tensors, got: Tensors) -> Rows:
        """How far raw outputs are from the wanted ones, frame by frame -> (N,), 0 where they are equal."""
        ...

    def reading(self, given: Sequence[Given], outputs: Tensors, views: Sequence[View]) -> Reading[Any]:
        """How a deployment's own answers to some pictures are read, and what can be wrong with them.

        given: of each picture what the deployment shows, or the network's outputs by name. outputs, views: those of the
        same pictures that are right. `RawReading` does for tasks that know no faults of their own.
        Raises BadInput for what is no answer.
        """
        ...

    def squares(self, wanted: Tensors, got: Tensors) -> tuple[float, float]:
        """Sums of squares for the diagnosis of faults, of the difference and of the wanted outputs, of which only what
        matters is left: of logits, say, what not all of a row share.
        """
        ...


def squares(wanted: Rows, got: Rows) -> tuple[float, float]:
    """Sums of squares of the difference of two arrays, and of the wanted one; row by row, for they may be large."""
    pairs = list(zip(wanted, got, strict=True))
    off = sum(float(np.square(other - one, dtype=np.float64).sum()) for one, other in pairs)
    return off, sum(float(np.square(one, dtype=np.float64).sum()) for one, _ in pairs)
