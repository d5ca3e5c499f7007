"""What a task is: it knows what a network's outputs mean, and nothing of backends.

Agreement is the task's own score with the reference's results as the truth, so that one function serves accuracy,
agreement, the search for int8 and validation in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecv_runtime.backends import Tensors
from edgecv_runtime.geometry import View
from edgecv_runtime.preprocess import Image

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


R = TypeVar("R", bound=Result)


class Task(Protocol[R]):
    """What a task does with the outputs of a batch and with results; `metric` is the name of its score."""

    labels: tuple[str, ...]
    metric: str

    @property
    def name(self) -> str:
        """As a bundle's head is tagged."""
        ...

    def decode(self, outputs: Tensors, views: Sequence[View]) -> list[R]:
        """One result per frame; views: how the network saw each, so that results lie in the frames' own pixels."""
        ...

    def truth(self, given: Any) -> R:
        """What a data set knows of a frame (a class position, a mask, boxes), as the result that would be right."""
        ...

    def tally(self, result: R, truth: R) -> Any:
        """What one frame adds to the score, however large the frame: small, and independent of other frames."""
        ...

    def score(self, tallies: Sequence[Any]) -> float:
        """The metric over the frames behind these tallies, 0..1."""
        ...

    def divergence(self, wanted: Tensors, got: Tensors) -> Rows:
        """How far raw outputs are from the wanted ones, frame by frame -> (N,), 0 where they are equal."""
        ...

    def rows(self, outputs: Tensors) -> Rows:
        """The outputs as rows (R, classes) of scores before their softmax or sigmoid, for the diagnosis of faults."""
        ...
