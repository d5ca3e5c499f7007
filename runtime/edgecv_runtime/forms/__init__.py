"""Forms: how the outputs of a network from elsewhere become those that its task wants.

A form is data, read from a description: which output, which columns, which unit. One piece of code makes the task's
tensors of it, with numpy on the device and as nodes of a graph where a file is adopted (`ways`).
"""

from __future__ import annotations

from edgecv_runtime.forms.base import AsTheyAre, Form
from edgecv_runtime.forms.boxes import Detected
from edgecv_runtime.forms.single import Classified, ClassMap

__all__ = ["Form", "find"]

FORMS: dict[str, type[Form]] = {"classification": Classified, "segmentation": ClassMap, "detection": Detected}


def find(task: str) -> type[Form]:
    """The form of a task's outputs; those of a task that has none are taken as they are."""
    return FORMS.get(task, AsTheyAre)
