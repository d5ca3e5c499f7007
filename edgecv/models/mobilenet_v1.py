"""MobileNet (Howard et al. 2017, arXiv:1704.04861): depthwise separable convolutions, thinned by a width multiplier."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from edgecv.models.blocks import ConvNormAct, Network, init_conv_norm
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources


class Separable(nn.Sequential):
    """Filter each channel, then mix the channels (figure 3, right)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            ConvNormAct(inputs, inputs, 3, stride, groups=inputs, act=nn.ReLU6),
            ConvNormAct(inputs, outputs, 1, act=nn.ReLU6),
        )


class Stage(NamedTuple):
    outputs: int
    blocks: int
    stride: int


# Table 1.
STEM = 32
STAGES = (
    Stage(outputs=64, blocks=1, stride=1),
    Stage(128, 2, 2),
    Stage(256, 2, 2),
    Stage(512, 6, 2),
    Stage(1024, 2, 2),
)


class Variant(NamedTuple):
    width: float
    parameters: int


class MobileNetV1(Network):
    pyramid_layers = slice(None)

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        inputs = int(STEM * variant.width)
        layers: list[nn.Module] = [ConvNormAct(in_channels, inputs, 3, 2, act=nn.ReLU6)]
        for stage in STAGES:
            outputs = int(stage.outputs * variant.width)
            for block in range(stage.blocks):
                layers.append(Separable(inputs, outputs, stage.stride if block == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        linear = nn.Linear(inputs, classes)
        self.classifier = nn.Sequential(nn.Dropout(0.2), linear)
        init_conv_norm(self)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, C, H, W) -> (N, 1024 width, H/32, W/32)
        x = x.mean((2, 3))  # -> (N, 1024 width)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


# Table 6.
VARIANTS = {
    "mobilenet_v1_025": Variant(0.25, 470_072),
    "mobilenet_v1_050": Variant(0.5, 1_331_592),
    "mobilenet_v1_075": Variant(0.75, 2_585_560),
    "mobilenet_v1": Variant(1.0, 4_231_976),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="mobilenet_v1",
            size=(224, 224),
            parameters=variant.parameters,
            paper="arXiv:1704.04861",
            weights=sources(name),
        ),
        partial(MobileNetV1, variant),
    )
    for name, variant in VARIANTS.items()
)
