"""Training of classifiers: cross-entropy on one class an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgecv.data import Dataset, Images
from edgecv.recipe_train import TrainConfig
from edgecv.tasks.augment import augmentation, mixed
from edgecv.tasks.base import Deployment, Judged, Prepared, Training
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import Size
from edgecv_runtime.head import LOGITS, ClassificationHead
from edgecv_runtime.preprocess import Preprocess


class Targets(NamedTuple):
    """labels: (N,) class positions. wanted: the same, or (N, classes) shares where images were blended."""

    labels: Tensor
    wanted: Tensor


class ClassificationTraining:
    """Outputs are logits (N, classes); prepared targets are the labels (N,) themselves."""

    metric = progress = "top-1"

    def __init__(self, classes: int, config: TrainConfig, size: Size) -> None:
        self._classes = classes
        self._smoothing = config.label_smoothing
        self._mixup = config.mixup
        self._augment = augmentation(config.augment, size)

    def prepare(self, images: Images, preprocess: Preprocess, folder: Path) -> Prepared:  # noqa: ARG002
        """Labels do not depend on geometry."""
        assert images.labels is not None
        return images.labels

    def collate(self, prepared: Prepared, chosen: NDArray[np.int64], device: torch.device) -> Targets:
        """Labels as a tensor."""
        labels = torch.from_numpy(np.asarray(prepared)[chosen]).to(device)
        return Targets(labels, labels)

    def augment(self, pixels: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """As `train.augment` says; then `train.mixup` blends images and targets."""
        pixels = self._augment(pixels)
        if not self._mixup:
            return pixels, targets
        shares = F.one_hot(targets.labels, self._classes).float()
        pixels, wanted = mixed(pixels, shares, self._mixup)
        return pixels, targets._replace(wanted=wanted)

    def check(self, outputs: Any) -> None:
        """One logit a class."""
        if outputs.shape != (1, self._classes):
            given = tuple(outputs.shape[1:])
            raise BadInput(f"the model gives {given} outputs an image, the data has {self._classes} classes")

    def loss(self, outputs: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy with smoothed labels."""
        return F.cross_entropy(outputs, targets.wanted, label_smoothing=self._smoothing)

    def right(self, outputs: Tensor, targets: Targets) -> float:
        """Of blended images, the one that the label is of counts."""
        return float((outputs.argmax(1) == targets.labels).sum())

    def judge(self, outputs: Tensor, targets: Targets) -> Judged:
        """Cross-entropy without smoothing, and whether the top-1 class is right."""
        loss = F.cross_entropy(outputs.float(), targets.labels, reduction="sum")
        rows, labels = outputs.float().cpu().numpy(), targets.labels.cpu().numpy()
        return Judged(loss.item(), (rows.argmax(1) == labels).tolist())

    def score(self, tallies: Sequence[Any]) -> float:
        """Top-1 accuracy."""
        return float(np.mean(tallies))


def make(dataset: Dataset, config: TrainConfig, size: Size) -> Training:
    """The training of a classifier on a data set; raises BadInput for settings that are for masks."""
    for name, value in (("dice", config.dice), ("class_weights", config.class_weights)):
        if value is not None:
            raise BadInput(f"train.{name} is for masks, and this data set has a class for each image: leave it out")
    if config.augment.mosaic:
        raise BadInput("train.augment.mosaic is for pictures with boxes; classification has train.mixup")
    return ClassificationTraining(len(dataset.classes), config, size)


def deployment(network: nn.Module, labels: tuple[str, ...]) -> Deployment:
    """The classifier as it is: it gives logits."""
    return Deployment(network, ClassificationHead(labels), (LOGITS,))
