"""MobileNetV3 (Howard et al. 2019, arXiv:1905.02244); layer names as in torchvision."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from edgecv.models.blocks import ConvNormAct, Network, SqueezeExcitation, init_conv_norm, make_divisible
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources

batch_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class Row(NamedTuple):
    """One line of the paper's tables 1 and 2."""

    kernel: int
    expanded: int
    outputs: int
    squeeze: bool
    act: type[nn.Module]
    stride: int


class InvertedResidual(nn.Module):
    """Expand, filter each channel, squeeze and excite, project (section 5, figure 4)."""

    def __init__(self, inputs: int, row: Row, dilation: int = 1) -> None:
        super().__init__()
        hidden, stride = row.expanded, row.stride if dilation == 1 else 1
        conv = partial(ConvNormAct, norm=batch_norm)
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(conv(inputs, hidden, 1, act=row.act))
        layers.append(conv(hidden, hidden, row.kernel, stride, groups=hidden, act=row.act, dilation=dilation))
        if row.squeeze:
            layers.append(SqueezeExcitation(hidden, make_divisible(hidden // 4), nn.ReLU, nn.Hardsigmoid))
        layers.append(conv(hidden, row.outputs, 1))
        self.block = nn.Sequential(*layers)
        self.residual = row.stride == 1 and inputs == row.outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return x + out if self.residual else out


class Variant(NamedTuple):
    rows: tuple[Row, ...]
    hidden: int
    parameters: int
    stem: int = 16
    dropout: float = 0.2


def features(variant: Variant, in_channels: int, output_stride: int = 32) -> nn.Sequential:
    """Stem, inverted residuals, last 1x1 convolution: (N, C, H, W) -> (N, 576 or 960, H/32, W/32).

    output_stride: 32; or 16, where the last stage keeps the resolution and dilates its convolutions (section 6.4).
    """
    conv = partial(ConvNormAct, norm=batch_norm, act=nn.Hardswish)
    layers: list[nn.Module] = [conv(in_channels, variant.stem, 3, 2)]
    inputs, reached, dilation = variant.stem, 2, 1
    for row in variant.rows:
        if reached * row.stride > output_stride:
            dilation *= row.stride
        else:
            reached *= row.stride
        layers.append(InvertedResidual(inputs, row, dilation))
        inputs = row.outputs
    layers.append(conv(inputs, 6 * inputs, 1))
    return nn.Sequential(*layers)


class Backbone(nn.Sequential):
    """The layers of MobileNetV3-Large before its classifier at output stride 16, for dense networks."""

    stem_layer = "0.0"
    low, high = 40, 960  # channels

    def __init__(self, in_channels: int) -> None:
        super().__init__(*features(VARIANTS["mobilenet_v3_large"], in_channels, output_stride=16))
        init_conv_norm(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low = x
        for index, layer in enumerate(self):
            x = layer(x)  # (N, C, H, W) -> (N, 960, H/16, W/16)
            if index == 4:
                low = x  # (N, 40, H/8, W/8)
        return low, x


class MobileNetV3(Network):
    head_layers = ("classifier.3",)
    pyramid_layers = slice(-1)  # without the wide layer that only a classifier wants

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = features(variant, in_channels)
        inputs = 6 * variant.rows[-1].outputs
        linears = nn.Linear(inputs, variant.hidden), nn.Linear(variant.hidden, classes)
        self.classifier = nn.Sequential(linears[0], nn.Hardswish(), nn.Dropout(variant.dropout), linears[1])
        init_conv_norm(self)
        for linear in linears:
            nn.init.normal_(linear.weight, std=0.01)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, C, H, W) -> (N, 576 or 960, H/32, W/32)
        x = x.mean((2, 3))  # -> (N, 576 or 960)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


RE, HS = nn.ReLU, nn.Hardswish

VARIANTS = {
    "mobilenet_v3_small": Variant(
        rows=(
            Row(kernel=3, expanded=16, outputs=16, squeeze=True, act=RE, stride=2),
            Row(3, 72, 24, False, RE, 2),
            Row(3, 88, 24, False, RE, 1),
            Row(5, 96, 40, True, HS, 2),
            Row(5, 240, 40, True, HS, 1),
            Row(5, 240, 40, True, HS, 1),
            Row(5, 120, 48, True, HS, 1),
            Row(5, 144, 48, True, HS, 1),
            Row(5, 288, 96, True, HS, 2),
            Row(5, 576, 96, True, HS, 1),
            Row(5, 576, 96, True, HS, 1),
        ),
        hidden=1024,
        parameters=2_542_856,
    ),
    "mobilenet_v3_large": Variant(
        rows=(
            Row(3, 16, 16, False, RE, 1),
            Row(3, 64, 24, False, RE, 2),
            Row(3, 72, 24, False, RE, 1),
            Row(5, 72, 40, True, RE, 2),
            Row(5, 120, 40, True, RE, 1),
            Row(5, 120, 40, True, RE, 1),
            Row(3, 240, 80, False, HS, 2),
            Row(3, 200, 80, False, HS, 1),
            Row(3, 184, 80, False, HS, 1),
            Row(3, 184, 80, False, HS, 1),
            Row(3, 480, 112, True, HS, 1),
            Row(3, 672, 112, True, HS, 1),
            Row(5, 672, 160, True, HS, 2),
            Row(5, 960, 160, True, HS, 1),
            Row(5, 960, 160, True, HS, 1),
        ),
        hidden=1280,
        parameters=5_483_032,
    ),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="mobilenet_v3",
            size=(224, 224),
            parameters=variant.parameters,
            paper="arXiv:1905.02244",
            weights=sources(name),
        ),
        partial(MobileNetV3, variant),
    )
    for name, variant in VARIANTS.items()
)
