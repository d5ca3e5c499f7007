"""LeNet-5 and the fully connected network beside it (LeCun et al. 1998, "Gradient-based learning applied to document
recognition", Proceedings of the IEEE 86(11)).

As read today: plain mean pooling, every map of C3 sees every map of S2, and a linear last layer where the paper has
radial basis functions. With 10 classes and 1 channel LeNet-5 has 61,706 parameters and the perceptron 266,610.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgecv.models.blocks import Network
from edgecv.models.spec import Model, ModelSpec
from edgecv_runtime.errors import BadInput

PAPER = "doi:10.1109/5.726791"


class ScaledTanh(nn.Module):
    """f(a) = 1.7159 tanh(2 a / 3), which maps +-1 to +-1 (appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


def init_by_fan_in(network: nn.Module) -> None:
    """Weights with deviation fan-in ** -0.5, which keeps the signal under this activation, and biases zero.

    LeCun et al. 1998, "Efficient BackProp", equation 16; the +-2.4 / fan-in of appendix A lets it die out.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class LeNet5(Network):
    """Figure 2; C5 is a convolution, so that larger pictures give it more than one place, over which we average."""

    stem_layer = "features.0"
    head_layers = ("classifier.2",)
    smallest = 32

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),  # C1: 32 -> 28
            ScaledTanh(),
            nn.AvgPool2d(2, 2),  # S2: -> 14
            nn.Conv2d(6, 16, 5),  # C3: -> 10
            ScaledTanh(),
            nn.AvgPool2d(2, 2),  # S4: -> 5
            nn.Conv2d(16, 120, 5),  # C5: -> 1
            ScaledTanh(),
        )
        self.classifier = nn.Sequential(nn.Linear(120, 84), ScaledTanh(), nn.Linear(84, classes))  # F6, output
        init_by_fan_in(self)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.features(x)  # (N, C, H, W) -> (N, 120, H/4 - 7, W/4 - 7)
        x = x.mean((2, 3))  # -> (N, 120)
        logits: Tensor = self.classifier(x)  # -> (N, classes)
        return logits


class Perceptron(Network):
    """Pixels, 300 and 100 hidden units, classes (section III.C.4): the fully connected baseline."""

    stem_layer = "classifier.0"
    head_layers = ("classifier.4",)
    smallest = 28
    stem_pixels = 28 * 28

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(in_channels * self.stem_pixels, 300),
            ScaledTanh(),
            nn.Linear(300, 100),
            ScaledTanh(),
            nn.Linear(100, classes),
        )
        init_by_fan_in(self)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if (height, width) != (self.smallest, self.smallest):
            raise BadInput(f"{self.variant or 'mlp'} wants pictures of 28x28 pixels, got {height}x{width}; resize them")
        logits: Tensor = self.classifier(x.flatten(1))  # (N, C, 28, 28) -> (N, 784 C) -> (N, classes)
        return logits


class Variant(NamedTuple):
    network: type[LeNet5] | type[Perceptron]
    size: int
    parameters: int


VARIANTS = {
    "mlp": Variant(Perceptron, 28, 837_000),
    "lenet5": Variant(LeNet5, 32, 146_156),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="lenet",
            size=(variant.size, variant.size),
            parameters=variant.parameters,
            paper=PAPER,
        ),
        variant.network,
    )
    for name, variant in VARIANTS.items()
)
