"""A segmenter as a device wants it: the class of each pixel, not a score for each class of each pixel."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecv_export.graph import Deployed, one_tensor, references
from edgecv_runtime.errors import BadInput
from edgecv_runtime.preprocess import Image


class ClassMap(nn.Module):
    """Logits (N, classes, H, W) of a network as a class map (N, H, W) uint8: what leaves the device's network is one
    byte a pixel, where logits are 4 bytes a class. Of equal logits the first class counts.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Pictures as the network takes them -> (N, H, W) uint8; raises BadInput for other outputs than logits."""
        logits = one_tensor(self.network(x))
        if logits.ndim != 4 or logits.shape[1] > 255:  # one value says that a pixel does not count
            shape = tuple(map(int, logits.shape))
            raise BadInput(f"a class map wants logits (N, classes, H, W) of 255 classes at most, got {shape}")
        return logits.argmax(1).to(torch.uint8)


def logits(deployed: Deployed, frames: Image) -> dict[str, NDArray[Any]]:
    """What PyTorch chooses classes from for (N, H, W, C) uint8 frames, by output; {} where it chooses none."""
    if not isinstance(deployed.network, ClassMap):
        return {}
    return references(Deployed(deployed.network.network, deployed.normalization, deployed.outputs), frames)
