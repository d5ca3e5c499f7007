"""Tasks as training sees them: what is learned of which truths. What results mean stands in edgecv_runtime.tasks."""

from __future__ import annotations

from importlib import import_module

from edgecv.data import Dataset
from edgecv.recipe_train import TrainConfig
from edgecv.tasks.base import Judged, Prepared, Training
from edgecv_runtime.geometry import Size

__all__ = ["TRAININGS", "Judged", "Prepared", "Training", "training"]

# A data set's task -> the module that makes its training, imported when it is used.
TRAININGS: dict[str, str] = {
    "classification": "edgecv.tasks.classification",
}


def training(dataset: Dataset, config: TrainConfig, size: Size) -> Training:
    """How to train on a data set of any task; size: (height, width) of the network's input.

    Raises BadInput for a setting that means nothing for this task.
    """
    made: Training = import_module(TRAININGS[dataset.task]).make(dataset, config, size)
    return made
