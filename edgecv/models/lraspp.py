"""Lite R-ASPP (Howard et al. 2019, arXiv:1905.02244, section 6.4): MobileNetV3 and two small heads for segmentation.

Layer names as in torchvision.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgecv.models.blocks import ConvNormAct, Network, enlarge
from edgecv.models.mobilenet_v3 import Backbone
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources

WIDTH = 128


class Head(nn.Module):
    """Deep features, gated by what the whole picture holds, plus finer ones of an earlier layer (figure 10)."""

    def __init__(self, low: int, high: int, classes: int) -> None:
        super().__init__()
        self.cbr = ConvNormAct(high, WIDTH, 1, act=nn.ReLU)
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, WIDTH, 1, bias=False), nn.Sigmoid())
        self.low_classifier = nn.Conv2d(low, classes, 1)
        self.high_classifier = nn.Conv2d(WIDTH, classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        x = self.cbr(high) * self.scale(high)  # (N, 960, H/16, W/16) -> (N, 128, H/16, W/16) * (N, 128, 1, 1)
        x = enlarge(x, (int(low.shape[2]), int(low.shape[3])))  # -> (N, 128, H/8, W/8)
        logits: Tensor = self.low_classifier(low) + self.high_classifier(x)  # -> (N, classes, H/8, W/8)
        return logits


class LiteRASPP(Network):
    stem_layer = "backbone.0.0"
    head_layers = ("classifier.low_classifier", "classifier.high_classifier")

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.backbone = Backbone(in_channels)
        self.classifier = Head(self.backbone.low, self.backbone.high, classes)

    def forward(self, x: Tensor) -> Tensor:
        size = int(x.shape[2]), int(x.shape[3])
        low, high = self.backbone(x)  # (N, C, H, W) -> (N, 40, H/8, W/8), (N, 960, H/16, W/16)
        return enlarge(self.classifier(low, high), size)  # -> (N, classes, H, W)


MODELS = (
    Model(
        ModelSpec(
            name="lraspp_mobilenet_v3_large",
            family="lraspp",
            task="segmentation",
            size=(520, 520),
            classes=21,
            parameters=3_221_538,
            paper="arXiv:1905.02244",
            weights=sources("lraspp_mobilenet_v3_large"),
        ),
        LiteRASPP,
    ),
)
