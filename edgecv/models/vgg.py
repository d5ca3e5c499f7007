"""VGG (Simonyan and Zisserman 2015, arXiv:1409.1556), with and without batch normalization; names as in torchvision."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from edgecv.models.blocks import AdaptiveMean2d, Network, init_conv_norm
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources

WIDTHS = (64, 128, 256, 512, 512)


class Variant(NamedTuple):
    """depths: 3x3 convolutions before each pooling. hidden: width of the two fully connected layers."""

    depths: tuple[int, int, int, int, int]
    parameters: int
    norm: bool = False
    hidden: int = 4096


class VGG(Network):
    stem_layer = "features.0"
    head_layers = ("classifier.6",)
    pyramid_layers = slice(None)
    smallest = 32

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for depth, width in zip(variant.depths, WIDTHS, strict=True):
            for _ in range(depth):
                layers.append(nn.Conv2d(inputs, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width), nn.ReLU()] if variant.norm else [nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = AdaptiveMean2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 7 * 7, variant.hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(variant.hidden, variant.hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(variant.hidden, classes),
        )
        init_conv_norm(self)
        for module in self.classifier:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.features(x)  # (N, C, H, W) -> (N, 512, H/32, W/32)
        x = self.avgpool(x).flatten(1)  # -> (N, 512, 7, 7) -> (N, 25088)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


# Table 1, columns A, B, D and E.
VARIANTS = {
    "vgg11": Variant((1, 1, 2, 2, 2), 132_863_336),
    "vgg13": Variant((2, 2, 2, 2, 2), 133_047_848),
    "vgg16": Variant((2, 2, 3, 3, 3), 138_357_544),
    "vgg19": Variant((2, 2, 4, 4, 4), 143_667_240),
    "vgg11_bn": Variant((1, 1, 2, 2, 2), 132_868_840, norm=True),
    "vgg13_bn": Variant((2, 2, 2, 2, 2), 133_053_736, norm=True),
    "vgg16_bn": Variant((2, 2, 3, 3, 3), 138_365_992, norm=True),
    "vgg19_bn": Variant((2, 2, 4, 4, 4), 143_678_248, norm=True),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="vgg",
            size=(224, 224),
            parameters=variant.parameters,
            paper="arXiv:1409.1556",
            weights=sources(name),
        ),
        partial(VGG, variant),
    )
    for name, variant in VARIANTS.items()
)
