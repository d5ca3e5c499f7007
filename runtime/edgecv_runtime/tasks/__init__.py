"""Tasks: they know what a network's outputs mean, and nothing of backends.

A task decodes tensors into results, scores them against labels and draws them. Adding one is one file and one row here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edgecv_runtime.backends import Tensors
from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Image
from edgecv_runtime.tasks.classification import ClassificationTask


class Result(Protocol):
    """One frame's result."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ...

    def draw(self, frame: Image) -> Image:
        """A copy of the BGR frame with the result drawn on it."""
        ...


class Task(Protocol):
    """What a task does with the outputs of one batch."""

    def decode(self, outputs: Tensors) -> list[Any]:
        """One result per frame of the batch."""
        ...


# name -> task for given labels, output specifications, and whether the graph ends in a softmax
TASKS: dict[str, Callable[[tuple[str, ...], tuple[TensorSpec, ...], bool], Task]] = {
    "classification": ClassificationTask,
}


def create(name: str, labels: tuple[str, ...], outputs: tuple[TensorSpec, ...], normalized: bool) -> Task:
    """Make a task by name; raises BadInput with the nearest name, or when labels do not match the outputs."""
    if name not in TASKS:
        raise BadInput(f"no task '{name}'{nearest(name, TASKS)}")
    return TASKS[name](labels, outputs, normalized)
