"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with padding, so that the output has the size of the input, and
batch normalization.

The decoder enlarges either by a transposed convolution, as in the authors' code, or by nearest-neighbour
upsampling and a convolution, which leaves no checkerboard pattern (Odena et al. 2016, doi:10.23915/distill.00003).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgecv.models.blocks import ConvNormAct, Network
from edgecv.models.spec import Model, ModelSpec

LEVELS = 4  # halvings of the resolution


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions (figure 1, blue arrows)."""
    return nn.Sequential(ConvNormAct(inputs, outputs, act=nn.ReLU), ConvNormAct(outputs, outputs, act=nn.ReLU))


def transposed(width: int) -> nn.Module:
    """(N, 2 width, h, w) -> (N, width, 2 h, 2 w): a transposed convolution (figure 1, green arrows)."""
    return nn.ConvTranspose2d(2 * width, width, 2, stride=2)


def upsampled(width: int) -> nn.Module:
    """(N, 2 width, h, w) -> (N, width, 2 h, 2 w): every pixel four times, then a convolution."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(2 * width, width, 3, padding=1))


class Variant(NamedTuple):
    """width: channels of the first level. parameters: with 3 input channels and 2 classes."""

    width: int
    upsample: bool
    parameters: int


class UNet(Network):
    stem_layer = "down.0.0.0"
    head_layers = ("head",)
    smallest = multiple = 2**LEVELS

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        widths = [variant.width * 2**level for level in range(LEVELS + 1)]
        enlarge = upsampled if variant.upsample else transposed
        self.pool = nn.MaxPool2d(2, 2)
        self.down = nn.ModuleList(double(*pair) for pair in zip([in_channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(enlarge(width) for width in widths[-2::-1])
        self.merge = nn.ModuleList(double(2 * width, width) for width in widths[-2::-1])
        self.head = nn.Conv2d(variant.width, classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)  # deviation sqrt(2 / fan-in) (section 3)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        skips: list[Tensor] = []
        for level, down in enumerate(self.down):
            x = down(self.pool(x) if level else x)  # -> (N, 2^l width, H/2^l, W/2^l)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            x = merge(torch.cat([skip, up(x)], 1))  # twice the size, half the channels
        logits: Tensor = self.head(x)  # (N, width, H, W) -> (N, classes, H, W)
        return logits


VARIANTS = {
    "unet_small": Variant(width=16, upsample=False, parameters=1_942_594),
    "unet_small_upsample": Variant(16, True, 2_160_194),
    "unet": Variant(64, False, 31_037_698),
    "unet_upsample": Variant(64, True, 34_519_298),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="unet",
            task="segmentation",
            size=(256, 256),
            classes=2,
            parameters=variant.parameters,
            paper="arXiv:1505.04597",
        ),
        partial(UNet, variant),
    )
    for name, variant in VARIANTS.items()
)
