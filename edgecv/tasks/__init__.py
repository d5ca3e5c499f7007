"""Tasks as training sees them: what is learned of which truths. What results mean stands in edgecv_runtime.tasks."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from edgecv.data import Dataset
from edgecv.recipe_train import TrainConfig
from edgecv.tasks.base import Deployment, Judged, Prepared, Training
from edgecv_runtime.errors import BadInput, nearest
from edgecv_runtime.geometry import Size

__all__ = ["TRAININGS", "Deployment", "Judged", "Prepared", "Training", "deployment", "training"]

# A task -> the module that makes its training and its deployment, imported when it is used.
TRAININGS: dict[str, str] = {
    "classification": "edgecv.tasks.classification",
    "segmentation": "edgecv.tasks.segmentation",
    "detection": "edgecv.tasks.detection",
}


def training(dataset: Dataset, config: TrainConfig, size: Size) -> Training:
    """How to train on a data set of any task; size: (height, width) of the network's input.

    Raises BadInput for a setting that means nothing for this task, and a task that is not trained here.
    """
    if dataset.task not in TRAININGS:
        raise BadInput(f"nothing is trained for {dataset.task} here{nearest(dataset.task, TRAININGS)}")
    made: Training = import_module(TRAININGS[dataset.task]).make(dataset, config, size)
    return made


def deployment(task: str, network: nn.Module, labels: tuple[str, ...]) -> Deployment:
    """A trained network of the zoo as it is exported; raises BadInput for a task that no device runs."""
    if task not in TRAININGS:
        raise BadInput(f"a model for {task} is not exported to a bundle{nearest(task, TRAININGS)}")
    made: Deployment = import_module(TRAININGS[task]).deployment(network, labels)
    return made
