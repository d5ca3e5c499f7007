"""Which loader serves which source."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from edgecv.data.config import DataConfig, Source
from edgecv.data.dataset import Dataset
from edgecv.data.parts import Parts

# Modules, imported when used: each needs other packages.
SOURCES: dict[Source, str] = {
    "digits": "edgecv.data.digits",
    "folder": "edgecv.data.folder",
    "cifar10": "edgecv.data.cifar10",
    "clips": "edgecv.data.clips",
    "masks": "edgecv.data.masks",
    "boxes": "edgecv.data.boxes",
    "ink": "edgecv.data.ink",
    "digit-boxes": "edgecv.data.digit_boxes",
}

# What a source's truths are for, where it is not one class an image; clips have none, and serve every task.
_TASKS: dict[Source, str] = {
    "masks": "segmentation",
    "ink": "segmentation",
    "boxes": "detection",
    "digit-boxes": "detection",
}


def serves(source: Source, task: str) -> bool:
    """Whether a source's images have truths for a task, or none at all."""
    return source == "clips" or _TASKS.get(source, "classification") == task


def load(config: DataConfig) -> Dataset:
    """Load a data set; nothing is decoded for keeps, but every file has been found readable.

    Raises DatasetError when it cannot be trained on as it is, Unavailable when a package or the network is missing.
    """
    dataset: Dataset = import_module(SOURCES[config.source]).load(config)
    return dataset


def labelled(config: DataConfig, labels: Sequence[str]) -> Parts:
    """A set of one's own (source "folder", "masks" or "boxes") as a finished bundle is judged on it.

    It is not divided here, its truths are positions in the bundle's labels, and it may lack classes.
    Raises NoTruths where nothing says what is right of the images, else DatasetError as `load` does.
    """
    parts: Parts = import_module(SOURCES[config.source]).labelled(config, labels)
    return parts
