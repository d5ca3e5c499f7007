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


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """The projection of a skip connection whose ends differ in shape (section 3.3, option B), else nothing."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Two 3x3 convolutions and a skip connection (figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + (self.downsample(x) if self.downsample else x))


class Bottleneck(nn.Module):
    """Reduce, filter, expand, and a skip connection (figure 5, right)."""

    expansion = 4
    squeeze = False

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * width
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
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


class ResNet(Network):
    stem_layer = "conv1"
    head_layer = "fc"

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, 64, 7, 2), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        stages: list[nn.Sequential] = []
        inputs = 64
        for stage, depth in enumerate(variant.depths):
            width = 64 * 2**stage
            blocks: list[nn.Module] = []
            for index in range(depth):
                blocks.append(variant.block(inputs, width, 2 if stage > 0 and index == 0 else 1))
                inputs = variant.block.expansion * width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, classes)
        init_conv_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))  # (N, C, H, W) -> (N, 64, H/2, W/2)
        x = self.maxpool(x)  # -> (N, 64, H/4, W/4)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # -> (N, 512 or 2048, H/32, W/32)
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
