"""Tasks: they know what a network's outputs mean, and nothing of backends.

A task decodes tensors into results, scores them against labels and draws them. Adding one is one file and one row in
`task_table`, or, in a package of its own, an entry point of the group "edgecv.tasks" (docs/architecture.md).
"""

from __future__ import annotations

from typing import Any

from edgecv_runtime import task_table
from edgecv_runtime.head import Head
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.tasks.base import Decoder, Result, Task

__all__ = ["Decoder", "Result", "Task", "create"]


def create(head: Head, outputs: tuple[TensorSpec, ...]) -> Task[Any]:
    """Make the task of a head; raises BadInput when it does not match the outputs."""
    made: Task[Any] = task_table.find(head.task)(head, outputs)
    return made
