"""AlexNet in one column (Krizhevsky 2014, arXiv:1404.5997, after Krizhevsky et al. 2012); names as in torchvision."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from edgecv.models.blocks import AdaptiveMean2d, Network
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources


class Variant(NamedTuple):
    """hidden: width of the two fully connected layers."""

    parameters: int
    hidden: int = 4096


class AlexNet(Network):
    stem_layer = "features.0"
    head_layers = ("classifier.6",)
    smallest = 63

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        # The fresh weights are PyTorch's own, as in torchvision.
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = AdaptiveMean2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, variant.hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(variant.hidden, variant.hidden),
            nn.ReLU(),
            nn.Linear(variant.hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.features(x)  # (N, C, H, W) -> (N, 256, ~H/32, ~W/32)
        x = self.avgpool(x).flatten(1)  # -> (N, 256, 6, 6) -> (N, 9216)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


VARIANTS = {"alexnet": Variant(61_100_840)}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="alexnet",
            size=(224, 224),
            parameters=variant.parameters,
            paper="arXiv:1404.5997",
            weights=sources(name),
        ),
        partial(AlexNet, variant),
    )
    for name, variant in VARIANTS.items()
)
