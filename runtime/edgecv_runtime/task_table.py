"""Which task has which name: our own in a table, those of other packages by entry points."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edgecv_runtime.errors import BadInput, nearest

# What a bundle's head is tagged with -> its task, "module:class". By name, for tasks themselves import heads.
TASKS: dict[str, str] = {
    "classification": "edgecv_runtime.tasks.classification:ClassificationTask",
    "segmentation": "edgecv_runtime.tasks.segmentation:SegmentationTask",
    "detection": "edgecv_runtime.tasks.detection:DetectionTask",
}
GROUP = "edgecv.tasks"


def find(name: str) -> type[Any]:
    """The class of a task (`tasks.Task`); raises BadInput with the nearest name when there is none to import."""
    if name in TASKS:
        module, _, attribute = TASKS[name].partition(":")
        found: type[Any] = getattr(import_module(module), attribute)
        return found
    from importlib.metadata import entry_points

    others = {each.name: each for each in entry_points(group=GROUP)}
    if name not in others:
        raise BadInput(f"no task '{name}'{nearest(name, (*TASKS, *others))}; a package may bring it (group '{GROUP}')")
    try:
        found = others[name].load()
    except Exception as exc:  # whatever the module of somebody else raises
        raise BadInput(f"task '{name}' cannot be imported from '{others[name].value}': {exc}") from exc
    return found
