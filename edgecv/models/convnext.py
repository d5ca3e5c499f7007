"""ConvNeXt (Liu et al. 2022, arXiv:2201.03545); layer names as in torchvision.

Atto to nano are timm's smaller rows (github.com/huggingface/pytorch-image-models, models/convnext.py).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecv.models.blocks import Network, Permute, StochasticDepth
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources

EPS = 1e-6
LAYER_SCALE = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels of every pixel: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Depthwise 7x7, normalization, a pointwise perceptron; y = x + scale * branch(x) (figure 4)."""

    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), LAYER_SCALE))
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 7, padding=3, groups=channels),
            Permute(0, 2, 3, 1),  # (N, C, H, W) -> (N, H, W, C)
            nn.LayerNorm(channels, eps=EPS),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
            Permute(0, 3, 1, 2),  # -> (N, C, H, W)
        )
        self.stochastic_depth = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.stochastic_depth(self.layer_scale * self.block(x))
        return x + out


class Variant(NamedTuple):
    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    parameters: int
    stochastic_depth: float = 0.0


class ConvNeXt(Network):
    head_layers = ("classifier.2",)
    pyramid_layers = slice(None)
    smallest = 32

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        widths = variant.widths
        layers: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(in_channels, widths[0], 4, stride=4), LayerNorm2d(widths[0]))
        ]
        drops = torch.linspace(0.0, variant.stochastic_depth, sum(variant.depths), device="cpu").tolist()
        for stage, (depth, width) in enumerate(zip(variant.depths, widths, strict=True)):
            if stage > 0:
                before = widths[stage - 1]
                layers.append(nn.Sequential(LayerNorm2d(before), nn.Conv2d(before, width, 2, stride=2)))
            layers.append(nn.Sequential(*(Block(width, drops.pop(0)) for _ in range(depth))))
        self.features = nn.Sequential(*layers)
        # torchvision flattens in the middle; here the mean has done so, and its place keeps the numbering.
        self.classifier = nn.Sequential(
            nn.LayerNorm(widths[-1], eps=EPS), nn.Identity(), nn.Linear(widths[-1], classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.features(x)  # (N, C, H, W) -> (N, 8 width, H/32, W/32)
        x = x.mean((2, 3))  # -> (N, 8 width)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


VARIANTS = {
    "convnext_atto": Variant((2, 2, 6, 2), (40, 80, 160, 320), 3_695_520),
    "convnext_femto": Variant((2, 2, 6, 2), (48, 96, 192, 384), 5_217_784),
    "convnext_pico": Variant((2, 2, 6, 2), (64, 128, 256, 512), 9_045_672),
    "convnext_nano": Variant((2, 2, 8, 2), (80, 160, 320, 640), 15_593_560),
    "convnext_tiny": Variant((3, 3, 9, 3), (96, 192, 384, 768), 28_589_128, stochastic_depth=0.1),
    "convnext_small": Variant((3, 3, 27, 3), (96, 192, 384, 768), 50_223_688, stochastic_depth=0.4),
    "convnext_base": Variant((3, 3, 27, 3), (128, 256, 512, 1024), 88_591_464, stochastic_depth=0.5),
    "convnext_large": Variant((3, 3, 27, 3), (192, 384, 768, 1536), 197_767_336, stochastic_depth=0.5),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="convnext",
            size=(224, 224),
            parameters=variant.parameters,
            paper="arXiv:2201.03545",
            weights=sources(name),
        ),
        partial(ConvNeXt, variant),
    )
    for name, variant in VARIANTS.items()
)
