"""Training of detectors: which places learn which box, quality focal loss and GIoU (RTMDet, arXiv:2212.07784)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecv.data import Dataset, Images
from edgecv.data.cache import cached_sizes
from edgecv.models import Dense
from edgecv.models.rtmdet import places
from edgecv.recipe_train import TrainConfig
from edgecv.tasks.assignment import Assigned, assign, generalized_overlaps, pairwise_overlaps, quality_focal
from edgecv.tasks.augment import Color
from edgecv.tasks.base import Deployment, Judged, Prepared, Training
from edgecv.tasks.moved import Labelled, moved
from edgecv_runtime.errors import BadInput
from edgecv_runtime.geometry import Size, whole
from edgecv_runtime.head import BOXES, SCORES, DetectionHead
from edgecv_runtime.manifest import TensorSpec
from edgecv_runtime.preprocess import Preprocess
from edgecv_runtime.tasks.average_precision import Matches
from edgecv_runtime.tasks.detection import DetectionTask
from edgecv_runtime.tasks.detections import Boxes
from edgecv_runtime.tasks.nms import areas

BOX_WEIGHT = 2.0  # of the boxes' loss beside the scores' (section 4.1)
_LEAST = 1.0  # pixels: a box with a shorter side in the network's input is neither asked for nor wrong
_FOUND = 0.5  # overlap from which on a box counts as found
_MEANINGLESS = ("pad", "scale", "rotate", "randaugment")  # augmentations that do not move boxes


class Targets(NamedTuple):
    """A batch: what is learned of each image, and all that is known of it."""

    learned: Sequence[Labelled]
    known: Sequence[Boxes]


class DetectionTraining:
    """Outputs are `Dense`; prepared targets are `Boxes` in pixels of the preprocessed picture."""

    metric = DetectionTask.metric
    progress = "boxes found"

    def __init__(self, labels: tuple[str, ...], config: TrainConfig, size: Size) -> None:
        """Raises BadInput for settings that mean nothing for boxes."""
        wrong = [name for name in _MEANINGLESS if getattr(config.augment, name)]
        if wrong or config.mixup:
            name = f"augment.{wrong[0]}" if wrong else "mixup"
            raise BadInput(f"train.{name} does not move boxes; detection has mosaic, flip, zoom, shift and color")
        for name, value in (("dice", config.dice), ("class_weights", config.class_weights)):
            if value is not None:
                raise BadInput(f"train.{name} is for masks, and this data set has boxes: leave it out")
        specs = (TensorSpec(BOXES, "float32", ("N", "A", 4)), TensorSpec(SCORES, "float32", ("N", "A", len(labels))))
        self._task = DetectionTask(DetectionHead(labels), specs).ranking()
        self._labels = labels
        self._augment = config.augment
        self._color = Color(config.augment.color)
        self._size = size
        self._places = places(*size)

    def prepare(self, images: Images, preprocess: Preprocess, folder: Path) -> Prepared:
        """Boxes as the network sees them; found once and kept in the folder, for each picture's size has to be read."""
        assert images.truths is not None
        return [
            _placed(boxes, preprocess, (int(height), int(width)))
            for boxes, (height, width) in zip(images.truths, cached_sizes(images, preprocess, folder), strict=True)
        ]

    def collate(self, prepared: Prepared, chosen: NDArray[np.int64], device: torch.device) -> Targets:
        """Boxes as tensors; crowds and ignored ones are not learned."""
        known = [prepared[int(index)] for index in chosen]
        return Targets([_learned(each, device) for each in known], known)

    def augment(self, pixels: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
        """As `train.augment` says: mosaic, flip, zoom and shift move boxes with their pixels; color does not."""
        pixels, learned = moved(self._color(pixels), targets.learned, self._augment)
        return pixels, targets._replace(learned=learned)

    def check(self, outputs: Any) -> None:
        """A box and the score of each class at every place."""
        count, classes = len(self._places), len(self._labels)
        if not isinstance(outputs, Dense) or outputs.boxes.shape != (1, count, 4):
            given = type(outputs).__name__ if not isinstance(outputs, Dense) else tuple(outputs.boxes.shape[1:])
            raise BadInput(f"the model gives {given} an image; detection wants boxes ({count}, 4): take a detector")
        if outputs.scores.shape[2] != classes:
            raise BadInput(f"the model scores {outputs.scores.shape[2]} classes, the data has {classes}")

    def loss(self, outputs: Dense, targets: Targets) -> Tensor:
        """Quality focal loss of all scores and GIoU of the assigned boxes, each over the sum of the overlaps."""
        boxes, logits = outputs.boxes.float(), outputs.scores.float()
        where = self._places.to(boxes.device)
        wanted = torch.zeros_like(logits)
        boxes_lost, overlaps = boxes.new_zeros(()), boxes.new_zeros(())
        for index, known in enumerate(targets.learned):
            if not len(known.kinds):
                continue
            with torch.no_grad():
                found = assign(where, boxes[index], logits[index], known.boxes, known.kinds)
            wanted[index, found.places, known.kinds[found.boxes]] = found.overlaps
            overlaps = overlaps + found.overlaps.sum()
            boxes_lost = boxes_lost + _boxes_lost(boxes[index], known.boxes, found)
        whole_weight = overlaps.clamp(min=1.0)
        return (quality_focal(logits, wanted).sum() + BOX_WEIGHT * boxes_lost) / whole_weight

    def right(self, outputs: Dense, targets: Targets) -> float:
        """The share of each image's boxes that some place names and overlaps by half; 1 where there are none."""
        return sum(
            _share_found(outputs.boxes[index].detach(), outputs.scores[index].detach(), known)
            for index, known in enumerate(targets.learned)
        )

    def judge(self, outputs: Dense, targets: Targets) -> Judged:
        """The same loss, and the matches of decoded boxes, in the network's geometry."""
        boxes, scores = outputs.boxes.float(), outputs.scores.float()
        loss = self.loss(Dense(boxes, torch.logit(scores, 1e-6)), targets).item() * len(boxes)
        arrays = {BOXES: boxes.cpu().numpy(), SCORES: scores.cpu().numpy()}
        results = self._task.decode(arrays, [whole(self._size)] * len(boxes))
        tallies = [
            self._task.tally(result, self._task.truth(known))
            for result, known in zip(results, targets.known, strict=True)
        ]
        return Judged(loss, tallies)

    def score(self, tallies: Sequence[Matches]) -> float:
        """AP over IoU 0.50:0.05:0.95."""
        return self._task.score(tallies)


def make(dataset: Dataset, config: TrainConfig, size: Size) -> Training:
    """The training of a detector on a data set."""
    return DetectionTraining(dataset.classes, config, size)


def deployment(network: nn.Module, labels: tuple[str, ...]) -> Deployment:
    """The detector as it is: boxes and scores are two outputs."""
    return Deployment(network, DetectionHead(labels), (BOXES, SCORES))


def _placed(known: Boxes, preprocess: Preprocess, size: Size) -> Boxes:
    """Boxes of a picture of that size in the network's input, cut off at its edge; what is hardly there is ignored.

    What lies beyond the edge is not there at all.
    """
    view = preprocess.view(size)
    height, width = view.size
    seen = np.clip(view.to_network(known.xyxy), 0, np.array([width, height, width, height], np.float32))
    shorter = np.minimum(seen[:, 2] - seen[:, 0], seen[:, 3] - seen[:, 1])
    kept, hardly = shorter > 0, shorter < _LEAST
    down, across = view.scales
    area = areas(known.xyxy.astype(np.float64)) if known.area is None else known.area
    ignored = (hardly if known.ignored is None else known.ignored | hardly)[kept]
    crowd = None if known.crowd is None else known.crowd[kept]
    return Boxes(
        seen[kept], known.class_id[kept], crowd, ignored if ignored.any() else None, area[kept] * down * across
    )


def _learned(known: Boxes, device: torch.device) -> Labelled:
    left_out = np.zeros(len(known), bool)
    for flags in (known.crowd, known.ignored):
        if flags is not None:
            left_out |= flags
    return Labelled(
        torch.from_numpy(known.xyxy[~left_out]).to(device), torch.from_numpy(known.class_id[~left_out]).to(device)
    )


def _boxes_lost(boxes: Tensor, truth: Tensor, found: Assigned) -> Tensor:
    """1 - GIoU of each assigned place, weighed by its overlap, summed."""
    return ((1 - generalized_overlaps(boxes[found.places], truth[found.boxes])) * found.overlaps).sum()


def _share_found(boxes: Tensor, scores: Tensor, known: Labelled) -> float:
    if not len(known.kinds):
        return 1.0
    overlaps = pairwise_overlaps(boxes, known.boxes) >= _FOUND  # (A, G)
    named = scores.argmax(1)[:, None] == known.kinds
    return float((overlaps & named).any(0).float().mean())
