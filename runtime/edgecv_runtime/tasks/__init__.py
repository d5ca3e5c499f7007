"""Tasks: they know what a network's outputs mean, and nothing of backends.

A task decodes tensors into results, scores them against labels and draws them. Adding one is one file and one row here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edgecv_runtime.backends import Tensors
from edgecv_runtime.head import Head
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Image
from edgecv_runtime.tasks.classification import ClassificationTask
from edgecv_runtime.tasks.scores import Meaning, Rows


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

    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """As a bundle's head is tagged."""
        ...

    def decode(self, outputs: Tensors, count: int) -> list[Any]:
        """One result per frame of the batch of `count`."""
        ...

    def meaning(self, rows: Rows) -> Meaning:
        """How rows (N, C) are read: their scores, whether two give the same answer, how far one is from another."""
        ...


# What a bundle's head is tagged with -> its task.
TASKS: dict[str, Callable[[Head, tuple[TensorSpec, ...]], Task]] = {ClassificationTask.name: ClassificationTask}


def create(head: Head, outputs: tuple[TensorSpec, ...]) -> Task:
    """Make the task of a head; raises BadInput when it does not match the outputs."""
    return TASKS[str(head.__struct_config__.tag)](head, outputs)
