"""A segmenter as a device wants it: the class of each pixel, not a score for each class of each pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecv_export.graph import one_tensor
from edgecv_runtime.errors import BadInput


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
