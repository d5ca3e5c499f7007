"""WaveNet (van den Oord et al. 2016, arXiv:1609.03499), small: causal dilated convolutions over a signal.

Sound or vibration in, logits for every sample out. Each has seen this sample and those before it, none after, so that a
device can answer as the samples come.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecv.models.blocks import Network
from edgecv.models.spec import Model, ModelSpec
from edgecv_runtime.errors import BadInput


class CausalConv(nn.Conv1d):
    """A convolution of this and earlier samples: zeros stand before the first (section 2.1)."""

    def forward(self, x: Tensor) -> Tensor:
        before = (self.kernel_size[0] - 1) * self.dilation[0]
        return super().forward(F.pad(x, (before, 0)))  # (N, C, T) -> (N, C', T)


class Block(nn.Module):
    """Gated unit: tanh(W_f * x) sigmoid(W_g * x), then a 1x1 convolution (equation 2, figure 4)."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.filter = CausalConv(width, width, 2, dilation=dilation)
        self.gate = CausalConv(width, width, 2, dilation=dilation)
        self.project = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.project(torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x)))
        return projected


class Variant(NamedTuple):
    """The block at index i has dilation 2^i: with the stem, an output of n blocks sees 2^n + 1 samples."""

    width: int
    blocks: int
    parameters: int


class WaveNet(Network):
    stem_layer = "stem"
    head_layers = ("head.3",)
    pictures = False

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        width = variant.width
        self.stem = CausalConv(in_channels, width, 2)
        self.blocks = nn.ModuleList(Block(width, 2**index) for index in range(variant.blocks))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.stem(x)  # (N, C, T) -> (N, width, T)
        skips: list[Tensor] = []
        for block in self.blocks:
            skips.append(block(x))
            x = x + skips[-1]
        logits: Tensor = self.head(sum(skips[1:], skips[0]))  # -> (N, classes, T)
        return logits

    def check_size(self, x: Tensor) -> None:
        """Refuse what is no batch of signals."""
        if x.ndim != 3 or x.shape[1] != self.stem.in_channels or x.shape[2] < 1:
            raise BadInput(
                f"{self.variant or 'wavenet'} wants signals (N, {self.stem.in_channels}, T), got {tuple(x.shape)}"
            )


VARIANTS = {"wavenet_tiny": Variant(width=32, blocks=10, parameters=61_760)}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="wavenet",
            task="sequence",
            size=(16_000,),  # a second of speech
            channels=1,
            classes=256,  # amplitudes (section 2.2)
            parameters=variant.parameters,
            paper="arXiv:1609.03499",
        ),
        partial(WaveNet, variant),
    )
    for name, variant in VARIANTS.items()
)
