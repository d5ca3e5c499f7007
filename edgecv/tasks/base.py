"""What training has to know of a task: how truths become targets, move with their pictures, are learned and scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecv.data import Images
from edgecv_runtime.head import Head
from edgecv_runtime.preprocess import Preprocess

# What is right of each image, by position; of many the same, an array (N, ...).
Prepared = Sequence[Any] | NDArray[Any]


class Judged(NamedTuple):
    """A batch of validation: its loss, summed over the images, and what each image adds to the score."""

    loss: float
    tallies: Sequence[Any]


class Deployment(NamedTuple):
    """A trained network as it is exported: with what only a device wants put behind it, what that gives and means."""

    network: nn.Module
    head: Head
    outputs: tuple[str, ...]


class Training(Protocol):
    """What a step and a validation do with truths; the score is the runtime task's, so that it is the device's.

    metric: the name of the score. progress: the name of the share that is shown of training batches, which costs
    nothing.
    """

    metric: str
    progress: str

    def prepare(self, images: Images, preprocess: Preprocess, folder: Path) -> Prepared:
        """What is right of each image in the geometry of its preprocessed picture, by position.

        folder: where decoded pictures are kept, and what is as large as they are.
        """
        ...

    def collate(self, prepared: Prepared, chosen: NDArray[np.int64], device: torch.device) -> Any:
        """The targets of the chosen images as one batch, on the device."""
        ...

    def augment(self, pixels: Tensor, targets: Any) -> tuple[Tensor, Any]:
        """Vary a batch (N, C, H, W) of 0..1; what moves the pictures moves what is right of them.

        Randomness is drawn from torch's global generator.
        """
        ...

    def check(self, outputs: Any) -> None:
        """Raise BadInput when what the network gives for one image in evaluation mode cannot be learned from."""
        ...

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """What a step makes smaller: the loss of one head's outputs, a mean over the batch."""
        ...

    def right(self, outputs: Any, targets: Any) -> float:
        """How many answers of a training batch are right, of an image at most 1."""
        ...

    def judge(self, outputs: Any, targets: Any) -> Judged:
        """Compare a batch of validation, which was not varied, with what is right."""
        ...

    def score(self, tallies: Sequence[Any]) -> float:
        """The metric over all of a validation, 0..1."""
        ...
