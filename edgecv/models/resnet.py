"""ResNet (He et al. 2016, arXiv:1512.03385) and SE-ResNet (Hu et al. 2018, arXiv:1709.01507).

Layer names as in torchvision, which puts the stride of a bottleneck on its 3x3 convolution ("version 1.5"); the
squeeze-and-excitation of SE-ResNet stands where timm has it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgecv.models.blocks import Network, SqueezeExcitation, init_conv_norm
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2 * dilation, dilation, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The projection of a skip connection whose ends differ in shape (section 3.3, option B), else nothing."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3x3 convolutions and a skip connection (figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride, dilation), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, 1, dilation), nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    """Reduce, filter, expand, and a skip connection (figure 5, right)."""

    expansion = 4
    squeeze = False

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, dilation), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.se = SqueezeExcitation(outputs, outputs // 16, nn.ReLU, nn.Sigmoid) if self.squeeze else nn.Identity()
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return torch.relu(out + (self.downsample(x) if self.downsample else x))


class SqueezedBottleneck(Bottleneck):
    """A bottleneck whose branch ends in squeeze-and-excitation, reduction 16 (Hu et al. 2018, figure 3)."""

    squeeze = True


class Variant(NamedTuple):
    block: type[Basic] | type[Bottleneck]
    depths: tuple[int, int, int, int]
    parameters: int
    paper: str = "arXiv:1512.03385"


class Body(Network):
    """The network without its head, whose stages dense networks take as features.

    output_stride: 32; or 16 or 8, where the last stages keep the resolution and dilate their convolutions instead
    (Chen et al. 2017, arXiv:1706.05587, section 3.1). The first block of such a stage keeps the dilation before it.
    """

    stem_layer = "conv1"

    def __init__(self, variant: Variant, in_channels: int, output_stride: int = 32) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, 64, 7, 2), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages: list[nn.Sequential] = []
        inputs, reached, dilation = 64, 4, 1
        for stage, depth in enumerate(variant.depths):
            width, before = 64 * 2**stage, dilation
            stride = 2 if stage > 0 else 1
            if reached * stride > output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            blocks: list[nn.Module] = []
            for index in range(depth):
                first = index == 0
                blocks.append(variant.block(inputs, width, stride if first else 1, before if first else dilation))
                inputs = variant.block.expansion * width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        init_conv_norm(self)

    def stages(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> the outputs of the four stages, the last one at the output stride."""
        x = torch.relu(self.bn1(self.conv1(x)))  # -> (N, 64, H/2, W/2)
        x = self.maxpool(x)  # -> (N, 64, H/4, W/4)
        found = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            found.append(x)
        return found


class Backbone(Body):
    """ResNet-50 at output stride 8, for dense networks."""

    low, high = 1024, 2048  # channels

    def __init__(self, in_channels: int) -> None:
        super().__init__(VARIANTS["resnet50"], in_channels, output_stride=8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        *_, low, high = self.stages(x)  # (N, C, H, W) -> (N, 1024, H/8, W/8), (N, 2048, H/8, W/8)
        return low, high


class ResNet(Body):
    head_layers = ("fc",)

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__(variant, in_channels)
        self.fc = nn.Linear(512 * variant.block.expansion, classes)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        return self.stages(x)[1:]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x)[-1]  # (N, C, H, W) -> (N, 512 or 2048, H/32, W/32)
        x = x.mean((2, 3))  # -> (N, 512 or 2048)
        logits: Tensor = self.fc(x)  # -> (N, classes)
        return logits


# Table 1.
VARIANTS = {
    "resnet18": Variant(Basic, (2, 2, 2, 2), 11_689_512),
    "resnet34": Variant(Basic, (3, 4, 6, 3), 21_797_672),
    "resnet50": Variant(Bottleneck, (3, 4, 6, 3), 25_557_032),
    "resnet101": Variant(Bottleneck, (3, 4, 23, 3), 44_549_160),
    "resnet152": Variant(Bottleneck, (3, 8, 36, 3), 60_192_808),
    "se_resnet50": Variant(SqueezedBottleneck, (3, 4, 6, 3), 28_088_024, "arXiv:1709.01507"),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="resnet",
            size=(224, 224),
            parameters=variant.parameters,
            paper=variant.paper,
            weights=sources(name),
        ),
        partial(ResNet, variant),
    )
    for name, variant in VARIANTS.items()
)
