"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381); layer names as in torchvision."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from edgecv.models.blocks import ConvNormAct, Network, init_conv_norm
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without activation (figure 3b)."""

    def __init__(self, inputs: int, outputs: int, expand: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers.append(ConvNormAct(inputs, hidden, 1, act=nn.ReLU6))
        layers += [
            ConvNormAct(hidden, hidden, 3, stride, groups=hidden, act=nn.ReLU6),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


class Stage(NamedTuple):
    expand: int
    outputs: int
    blocks: int
    stride: int


class Variant(NamedTuple):
    stages: tuple[Stage, ...]
    parameters: int
    stem: int = 32
    last: int = 1280
    dropout: float = 0.2


class MobileNetV2(Network):
    pyramid_layers = slice(-1)  # without the wide layer that only a classifier wants

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNormAct(in_channels, variant.stem, 3, 2, act=nn.ReLU6)]
        inputs = variant.stem
        for stage in variant.stages:
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 else 1
                layers.append(InvertedResidual(inputs, stage.outputs, stage.expand, stride))
                inputs = stage.outputs
        layers.append(ConvNormAct(inputs, variant.last, 1, act=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        linear = nn.Linear(variant.last, classes)
        self.classifier = nn.Sequential(nn.Dropout(variant.dropout), linear)
        init_conv_norm(self)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, C, H, W) -> (N, 1280, H/32, W/32)
        x = x.mean((2, 3))  # -> (N, 1280)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


# Table 2.
VARIANTS = {
    "mobilenet_v2": Variant(
        stages=(
            Stage(expand=1, outputs=16, blocks=1, stride=1),
            Stage(6, 24, 2, 2),
            Stage(6, 32, 3, 2),
            Stage(6, 64, 4, 2),
            Stage(6, 96, 3, 1),
            Stage(6, 160, 3, 2),
            Stage(6, 320, 1, 1),
        ),
        parameters=3_504_872,
    ),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="mobilenet_v2",
            size=(224, 224),
            parameters=variant.parameters,
            paper="arXiv:1801.04381",
            weights=sources(name),
        ),
        partial(MobileNetV2, variant),
    )
    for name, variant in VARIANTS.items()
)
