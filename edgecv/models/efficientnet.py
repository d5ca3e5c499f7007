"""EfficientNet (Tan and Le 2019, arXiv:1905.11946) and EfficientNet-Lite; layer names as in torchvision.

Lite (github.com/tensorflow/tpu, models/official/efficientnet/lite) drops squeeze-and-excitation, replaces swish by
ReLU6, so that it survives quantization, and does not scale the stem and the head; its weights expect TensorFlow's SAME
padding.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from edgecv.models.blocks import (
    ConvNormAct,
    Network,
    Norm,
    SqueezeExcitation,
    StochasticDepth,
    init_conv_norm,
    make_divisible,
)
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import LITE_NORMALIZATION, sources
from edgecv_runtime.preprocess import Normalization


class Style(NamedTuple):
    """What separates the two kinds of EfficientNet."""

    family: str
    act: type[nn.Module]
    norm: Norm
    squeeze: bool
    same_padding: bool
    scale_ends: bool
    normalization: Normalization


STANDARD = Style("efficientnet", nn.SiLU, nn.BatchNorm2d, True, False, True, Normalization())
# B5 to B7: TensorFlow's statistics, as in the checkpoints ported from it.
PORTED = STANDARD._replace(norm=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))
LITE = Style(
    family="efficientnet_lite",
    act=nn.ReLU6,
    norm=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01),
    squeeze=False,
    same_padding=True,
    scale_ends=False,
    normalization=LITE_NORMALIZATION,
)


class Stage(NamedTuple):
    """One line of the paper's table 1."""

    expand: int
    kernel: int
    stride: int
    outputs: int
    blocks: int


STAGES = (
    Stage(expand=1, kernel=3, stride=1, outputs=16, blocks=1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)


class MBConv(nn.Module):
    """Mobile inverted bottleneck: expand, filter each channel, squeeze and excite, project."""

    def __init__(self, inputs: int, outputs: int, stage: Stage, stride: int, drop: float, style: Style) -> None:
        super().__init__()
        hidden = inputs * stage.expand
        conv = partial(ConvNormAct, norm=style.norm, same=style.same_padding)
        layers: list[nn.Module] = []
        if stage.expand != 1:
            layers.append(conv(inputs, hidden, 1, act=style.act))
        layers.append(conv(hidden, hidden, stage.kernel, stride, groups=hidden, act=style.act))
        if style.squeeze:
            layers.append(SqueezeExcitation(hidden, max(1, inputs // 4), style.act, nn.Sigmoid))
        layers.append(conv(hidden, outputs, 1))
        self.block = nn.Sequential(*layers)
        self.stochastic_depth = StochasticDepth(drop)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return x + self.stochastic_depth(out) if self.residual else out


class Variant(NamedTuple):
    width: float
    depth: float
    size: int
    dropout: float
    parameters: int
    style: Style


class EfficientNet(Network):
    pyramid_layers = slice(-1)  # without the wide layer that only a classifier wants

    def __init__(self, variant: Variant, classes: int, in_channels: int, stochastic_depth: float = 0.2) -> None:
        super().__init__()
        style = variant.style
        conv = partial(ConvNormAct, norm=style.norm, same=style.same_padding, act=style.act)
        ends = variant.width if style.scale_ends else 1.0
        inputs = make_divisible(32 * ends)
        last = make_divisible(1280 * ends)
        depths = self._depths(variant)

        layers: list[nn.Module] = [conv(in_channels, inputs, 3, 2)]
        index = 0
        for stage, depth in zip(STAGES, depths, strict=True):
            outputs = make_divisible(stage.outputs * variant.width)
            blocks: list[nn.Module] = []
            for block in range(depth):
                drop = stochastic_depth * index / sum(depths)
                stride = stage.stride if block == 0 else 1
                blocks.append(MBConv(inputs, outputs, stage, stride, drop, style))
                inputs = outputs
                index += 1
            layers.append(nn.Sequential(*blocks))
        layers.append(conv(inputs, last, 1))

        self.features = nn.Sequential(*layers)
        linear = nn.Linear(last, classes)
        self.classifier = nn.Sequential(nn.Dropout(variant.dropout), linear)
        init_conv_norm(self)
        nn.init.normal_(linear.weight, std=0.01)  # 1 / sqrt(classes) starts ten classes at a loss of 7
        nn.init.zeros_(linear.bias)

    @staticmethod
    def _depths(variant: Variant) -> list[int]:
        """Number of blocks in each stage; without `scale_ends` the first and the last stage keep theirs."""
        depths = [math.ceil(stage.blocks * variant.depth) for stage in STAGES]
        if not variant.style.scale_ends:
            depths[0], depths[-1] = STAGES[0].blocks, STAGES[-1].blocks
        return depths

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, C, H, W) -> (N, 1280 width, H/32, W/32)
        x = x.mean((2, 3))  # -> (N, 1280 width)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


# Widths, depths, sizes and dropout as in the reference code (efficientnet_builder.py, efficientnet_lite_builder.py).
VARIANTS = {
    "efficientnet_b0": Variant(1.0, 1.0, 224, 0.2, 5_288_548, STANDARD),
    "efficientnet_b1": Variant(1.0, 1.1, 240, 0.2, 7_794_184, STANDARD),
    "efficientnet_b2": Variant(1.1, 1.2, 260, 0.3, 9_109_994, STANDARD),
    "efficientnet_b3": Variant(1.2, 1.4, 300, 0.3, 12_233_232, STANDARD),
    "efficientnet_b4": Variant(1.4, 1.8, 380, 0.4, 19_341_616, STANDARD),
    "efficientnet_b5": Variant(1.6, 2.2, 456, 0.4, 30_389_784, PORTED),
    "efficientnet_b6": Variant(1.8, 2.6, 528, 0.5, 43_040_704, PORTED),
    "efficientnet_b7": Variant(2.0, 3.1, 600, 0.5, 66_347_960, PORTED),
    "efficientnet_lite0": Variant(1.0, 1.0, 224, 0.2, 4_652_008, LITE),
    "efficientnet_lite1": Variant(1.0, 1.1, 240, 0.2, 5_416_680, LITE),
    "efficientnet_lite2": Variant(1.1, 1.2, 260, 0.3, 6_092_072, LITE),
    "efficientnet_lite3": Variant(1.2, 1.4, 280, 0.3, 8_197_096, LITE),
    "efficientnet_lite4": Variant(1.4, 1.8, 300, 0.3, 13_006_568, LITE),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family=variant.style.family,
            size=(variant.size, variant.size),
            parameters=variant.parameters,
            paper="arXiv:1905.11946",
            normalization=variant.style.normalization,
            weights=sources(name),
        ),
        partial(EfficientNet, variant),
    )
    for name, variant in VARIANTS.items()
)
