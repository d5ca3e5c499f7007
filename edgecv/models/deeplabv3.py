"""DeepLabV3 (Chen et al. 2017, arXiv:1706.05587): a dilated backbone and pyramid pooling; names as in torchvision.

The loss of the auxiliary head, which supervises a layer half-way, counts half (torchvision, references/segmentation).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgecv.models import mobilenet_v3, resnet
from edgecv.models.blocks import ConvNormAct, Network, Supervised, enlarge
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources
from edgecv_runtime.errors import BadInput

WIDTH = 256
RATES = (12, 24, 36)  # for output stride 8 (section 3.3); torchvision keeps them at 16
AUXILIARY_WEIGHT = 0.5


class PooledBranch(nn.Sequential):
    """The mean of the whole picture through a 1x1 convolution, at every place: (N, C, H, W) -> (N, 256, H, W)."""

    def __init__(self, inputs: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *ConvNormAct(inputs, WIDTH, 1, act=nn.ReLU))

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[2]), int(x.shape[3])
        for layer in self:
            x = layer(x)  # (N, C, H, W) -> (N, 256, 1, 1)
        return x.expand(-1, -1, height, width)


class PyramidPooling(nn.Module):
    """Atrous spatial pyramid pooling: the same features seen in five widths, side by side (figure 5)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        conv = partial(ConvNormAct, act=nn.ReLU)
        dilated = (conv(inputs, WIDTH, 3, dilation=rate) for rate in RATES)
        self.convs = nn.ModuleList([conv(inputs, WIDTH, 1), *dilated, PooledBranch(inputs)])
        self.project = nn.Sequential(*conv(len(self.convs) * WIDTH, WIDTH, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([branch(x) for branch in self.convs], 1)  # (N, C, h, w) -> (N, 5 x 256, h, w)
        projected: Tensor = self.project(x)  # -> (N, 256, h, w)
        return projected


class Variant(NamedTuple):
    """parameters: without the auxiliary head, which has `auxiliary`."""

    backbone: type[resnet.Backbone] | type[mobilenet_v3.Backbone]
    parameters: int
    auxiliary: int


class DeepLabV3(Network):
    head_layers = ("classifier.4", "aux_classifier.4")
    auxiliary = ("aux_classifier",)

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        self.backbone = variant.backbone(in_channels)
        self.stem_layer = f"backbone.{self.backbone.stem_layer}"
        low, high = self.backbone.low, self.backbone.high
        # The fresh weights of the heads are PyTorch's own, as in torchvision.
        conv = ConvNormAct(WIDTH, WIDTH, 3, act=nn.ReLU)
        self.classifier = nn.Sequential(PyramidPooling(high), *conv, nn.Conv2d(WIDTH, classes, 1))
        conv = ConvNormAct(low, low // 4, 3, act=nn.ReLU)
        self.aux_classifier = nn.Sequential(*conv, nn.Dropout(0.1), nn.Conv2d(low // 4, classes, 1))

    def forward(self, x: Tensor) -> Tensor | Supervised:
        if self.training and len(x) < 2:
            raise BadInput(
                f"{self.variant or 'deeplabv3'} wants batches of at least 2 in training, got {len(x)}: its pooled "
                "branch has one value a picture, which batch normalization cannot normalize alone"
            )
        size = int(x.shape[2]), int(x.shape[3])
        low, high = self.backbone(x)  # (N, C, H, W) -> at strides 8 and 8 (ResNet), 8 and 16 (MobileNet)
        logits = enlarge(self.classifier(high), size)  # -> (N, classes, H, W)
        if not self.training:
            return logits
        return Supervised(logits, (enlarge(self.aux_classifier(low), size),), AUXILIARY_WEIGHT)


VARIANTS = {
    "deeplabv3_mobilenet_v3_large": Variant(mobilenet_v3.Backbone, 11_025_477, 3_851),
    "deeplabv3_resnet50": Variant(resnet.Backbone, 39_638_869, 2_365_205),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="deeplabv3",
            task="segmentation",
            size=(520, 520),
            classes=21,
            parameters=variant.parameters,
            auxiliary_parameters=variant.auxiliary,
            paper="arXiv:1706.05587",
            weights=sources(name),
        ),
        partial(DeepLabV3, variant),
    )
    for name, variant in VARIANTS.items()
)
