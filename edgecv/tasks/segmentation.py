"""Training of segmenters: cross-entropy and Dice on one class a pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgecv.data import Dataset, Images, cached_masks
from edgecv.recipe_train import TrainConfig
from edgecv.tasks import moves
from edgecv.tasks.augment import Color
from edgecv.tasks.base import Deployment, Judged, Prepared, Training
from edgecv_export.classmap import ClassMap
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import Size
from edgecv_runtime.head import MASK, SegmentationHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Preprocess
from edgecv_runtime.tasks.segmentation import SegmentationTask

IGNORE = 255
_DICE = 1.0  # of the Dice loss beside cross-entropy, where a recipe does not say


class SegmentationTraining:
    """Outputs are logits (N, classes, H, W); prepared targets are class maps (N, H, W) uint8, IGNORE where none counts.

    A validation is scored in the network's pixels; what a crop leaves out of the images is not judged in training.
    """

    metric = SegmentationTask.metric
    progress = "pixels right"

    def __init__(
        self, labels: Sequence[str], config: TrainConfig, size: Size, weights: Callable[[], Tensor] | None
    ) -> None:
        """weights: gives that of each class in the cross-entropy (C,), once the first loss is asked for."""
        self._size, self._classes = size, len(labels)
        self._task = SegmentationTask(SegmentationHead(tuple(labels)), (TensorSpec("mask", "uint8", ("N", *size)),))
        self._smoothing, self._config = config.label_smoothing, config.augment
        self._dice = _DICE if config.dice is None else config.dice
        self._weights = weights
        self._color = Color(config.augment.color)

    def prepare(self, images: Images, preprocess: Preprocess, folder: Path) -> Prepared:
        """Each pixel has the class below its centre."""
        return cached_masks(images, preprocess, folder, IGNORE)

    def collate(self, prepared: Prepared, chosen: NDArray[np.int64], device: torch.device) -> Tensor:
        """Class maps (N, H, W) uint8."""
        return torch.from_numpy(np.asarray(prepared)[chosen]).to(device)

    def augment(self, pixels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures and masks by one map; where a move shows what lies beyond a picture, nothing counts."""
        given = pixels.shape[-2], pixels.shape[-1]
        if not (moves.is_still(self._config) and given == self._size):
            drawn = moves.draw(self._config, len(pixels), given, self._size)
            pixels = moves.warp(pixels, drawn, self._size)
            # IGNORE + 1 is 0 in eight bits, which is what stands beyond a picture.
            shifted = moves.warp((targets + 1).float().unsqueeze(1), drawn, self._size, "nearest")
            targets = shifted.squeeze(1).to(torch.uint8) - 1
        return self._color(pixels), targets

    def check(self, outputs: Any) -> None:
        """One logit a class for every pixel of the input."""
        wanted = (1, self._classes, *self._size)
        if not isinstance(outputs, Tensor) or outputs.shape != wanted:
            given = tuple(outputs.shape[1:]) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise BadInput(
                f"the model gives {given} outputs an image, masks want (classes, height, width) = {wanted[1:]}"
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Weighted cross-entropy with smoothed labels, and Dice."""
        weights = None if self._weights is None else self._weights().to(outputs.device)
        loss = self._cross_entropy(outputs.float(), targets.long(), self._smoothing, weights)
        return loss + self._dice * dice(outputs.float(), targets) if self._dice else loss

    def right(self, outputs: Tensor, targets: Tensor) -> float:
        """The share of pixels that are right, times the images."""
        known = targets != IGNORE
        right = (outputs.argmax(1) == targets) & known
        return float(right.sum() / known.sum().clamp(min=1)) * len(targets)

    def judge(self, outputs: Tensor, targets: Tensor) -> Judged:
        """Cross-entropy without smoothing and weights, and each image's pixels by class."""
        loss = self._cross_entropy(outputs.float(), targets.long(), 0.0, None)
        maps, truths = outputs.argmax(1).to(torch.uint8).cpu().numpy(), targets.cpu().numpy()
        results = zip(map(self._task.truth, maps), map(self._task.truth, truths), strict=True)
        return Judged(loss.item() * len(targets), [self._task.tally(*each) for each in results])

    def score(self, tallies: Sequence[Any]) -> float:
        """Mean intersection over union of the classes that occur."""
        return self._task.score(tallies)

    def _cross_entropy(self, logits: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
        """A mean over the pixels that count; 0, and no NaN, where none does."""
        each = F.cross_entropy(
            logits, targets, weights, ignore_index=IGNORE, label_smoothing=smoothing, reduction="none"
        )
        known = targets != IGNORE
        total = known.sum() if weights is None else weights[targets[known]].sum()
        return each.sum() / total.clamp(min=1e-6)


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 minus the Dice coefficient of the classes that occur in a batch, a mean over them.

    logits: (N, C, H, W); targets: (N, H, W) class positions, pixels of IGNORE do not count.
    Source: Milletari et al. 2016, V-Net, section 3, here for each class over the whole batch.
    """
    known = targets != IGNORE
    shares = logits.softmax(1) * known.unsqueeze(1)  # (N, C, H, W)
    places = targets.long().masked_fill(~known, 0)
    hits = shares.gather(1, places.unsqueeze(1)).squeeze(1)[known]  # of the true class
    classes = places[known]
    overlap = logits.new_zeros(logits.shape[1]).index_add(0, classes, hits)
    true = logits.new_zeros(logits.shape[1]).index_add(0, classes, torch.ones_like(hits))
    there = true > 0
    return (1 - 2 * overlap / (shares.sum((0, 2, 3)) + true).clamp(min=1e-6))[there].sum() / there.sum().clamp(min=1)


def balanced(masks: Prepared, classes: int) -> Tensor:
    """A weight for each class that grows as it gets rarer, 1 / ln(1.02 + share of the pixels), 1.4 to 50 -> (C,).

    Source: Paszke et al. 2016, ENet, section 5.2.
    """
    counts = sum((np.bincount(np.asarray(mask).ravel(), minlength=256)[:classes] for mask in masks), np.zeros(classes))
    return torch.from_numpy(1 / np.log(1.02 + counts / max(1, counts.sum()))).float()


def make(dataset: Dataset, config: TrainConfig, size: Size) -> Training:
    """The training of a segmenter on a data set; raises BadInput for settings that masks cannot follow."""
    for name, value in (("mixup", config.mixup), ("augment.randaugment", config.augment.randaugment)):
        if value:
            raise BadInput(
                f"train.{name} changes images without their masks; leave it out: flip, scale, pad, rotate, shift, zoom "
                "and color of train.augment do for both"
            )
    if config.augment.mosaic:
        raise BadInput("train.augment.mosaic is for pictures with boxes: leave it out")
    return SegmentationTraining(dataset.classes, config, size, _weights(dataset, config))


def deployment(network: nn.Module, labels: tuple[str, ...]) -> Deployment:
    """The segmenter with its class map in the graph; the class that is called "background" is not drawn."""
    background = labels.index("background") if "background" in labels else None
    return Deployment(ClassMap(network), SegmentationHead(labels, background=background), (MASK,))


def _weights(dataset: Dataset, config: TrainConfig) -> Callable[[], Tensor] | None:
    """What gives the classes' weights: those that depend on all masks are found when they are needed, and once."""
    classes, truths = len(dataset.classes), dataset.train.truths
    if config.class_weights == "balanced":
        assert truths is not None
        return cache(partial(balanced, truths, classes))
    if config.class_weights is None:
        return None
    if len(config.class_weights) != classes:
        raise BadInput(f"train.class_weights gives {len(config.class_weights)} weights for {classes} classes")
    return partial(torch.tensor, config.class_weights)
