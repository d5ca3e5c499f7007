"""GoogLeNet with batch normalization (Szegedy et al. 2015, arXiv:1409.4842); layer names as in torchvision.

As in torchvision and the weights that it ports, the "5x5" branch filters with 3x3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgecv.models.blocks import Network, Supervised
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import HALF_NORMALIZATION, sources

AUXILIARY_WEIGHT = 0.3  # section 5


class Conv(nn.Module):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Row(NamedTuple):
    """A line of table 1: output channels of the four branches, and to how many the wide filters' inputs are reduced."""

    point: int
    reduce3: int
    wide3: int
    reduce5: int
    wide5: int
    pooled: int


class Inception(nn.Module):
    """Four views of the same maps, side by side (figure 2b)."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        self.branch1 = Conv(inputs, row.point, 1)
        self.branch2 = nn.Sequential(Conv(inputs, row.reduce3, 1), Conv(row.reduce3, row.wide3, 3))
        self.branch3 = nn.Sequential(Conv(inputs, row.reduce5, 1), Conv(row.reduce5, row.wide5, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), Conv(inputs, row.pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """A classifier half-way, for training only (section 5)."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = Conv(inputs, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.fc2 = nn.Linear(1024, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)  # (N, C, H, W) -> (N, 128, 4, 4) -> (N, 2048)
        logits: Tensor = self.fc2(self.dropout(torch.relu(self.fc1(x))))  # -> (N, classes)
        return logits


class GoogLeNet(Network):
    stem_layer = "conv1.conv"
    head_layers = ("fc", "aux1.fc2", "aux2.fc2")
    auxiliary = ("aux1", "aux2")
    smallest = 15

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = Conv(in_channels, 64, 7, 2)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.conv3 = Conv(64, 64, 1), Conv(64, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.maxpool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
        # Table 1.
        self.inception3a = Inception(192, Row(point=64, reduce3=96, wide3=128, reduce5=16, wide5=32, pooled=32))
        self.inception3b = Inception(256, Row(128, 128, 192, 32, 96, 64))
        self.inception4a = Inception(480, Row(192, 96, 208, 16, 48, 64))
        self.inception4b = Inception(512, Row(160, 112, 224, 24, 64, 64))
        self.inception4c = Inception(512, Row(128, 128, 256, 24, 64, 64))
        self.inception4d = Inception(512, Row(112, 144, 288, 32, 64, 64))
        self.inception4e = Inception(528, Row(256, 160, 320, 32, 128, 128))
        self.inception5a = Inception(832, Row(256, 160, 320, 32, 128, 128))
        self.inception5b = Inception(832, Row(384, 192, 384, 48, 128, 128))
        self.aux1, self.aux2 = AuxiliaryHead(512, classes), AuxiliaryHead(528, classes)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))  # -> (N, 192, H/8, W/8)
        fine = self.inception3b(self.inception3a(x))
        x = self.maxpool3(fine)
        for inception in (self.inception4a, self.inception4b, self.inception4c, self.inception4d, self.inception4e):
            x = inception(x)
        return [fine, x, self.inception5b(self.inception5a(self.maxpool4(x)))]

    def forward(self, x: Tensor) -> Tensor | Supervised:
        self.check_size(x)
        x = self.maxpool1(self.conv1(x))  # (N, C, H, W) -> (N, 64, H/4, W/4)
        x = self.maxpool2(self.conv3(self.conv2(x)))  # -> (N, 192, H/8, W/8)
        x = self.maxpool3(self.inception3b(self.inception3a(x)))  # -> (N, 480, H/16, W/16)
        x = first = self.inception4a(x)  # -> (N, 512, H/16, W/16)
        x = second = self.inception4d(self.inception4c(self.inception4b(x)))  # -> (N, 528, H/16, W/16)
        x = self.maxpool4(self.inception4e(x))  # -> (N, 832, H/32, W/32)
        x = self.inception5b(self.inception5a(x))  # -> (N, 1024, H/32, W/32)
        x = x.mean((2, 3))  # -> (N, 1024)
        logits: Tensor = self.fc(self.dropout(x))  # -> (N, classes)
        if not self.training:
            return logits
        return Supervised(logits, (self.aux1(first), self.aux2(second)), AUXILIARY_WEIGHT)


MODELS = (
    Model(
        ModelSpec(
            name="googlenet",
            family="googlenet",
            size=(224, 224),
            parameters=6_624_904,
            auxiliary_parameters=6_379_984,
            paper="arXiv:1409.4842",
            normalization=HALF_NORMALIZATION,
            weights=sources("googlenet"),
        ),
        GoogLeNet,
    ),
)
