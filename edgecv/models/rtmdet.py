"""A detector in the manner of RTMDet (Lyu et al. 2022, arXiv:2212.07784) on the classifiers of the zoo.

Anchor-free, one score a class and place without objectness, distances without distributions, plain convolutions: the
form that survives int8. The neck is a path aggregation network (Liu et al. 2018, arXiv:1803.01534) of depthwise 5x5
convolutions, as NanoDet-Plus has it for such backbones; boxes and scores stay two outputs, because one int8 scale for
both would round all scores to zero.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecv.models import convnext, efficientnet, mobilenet_v2, mobilenet_v3
from edgecv.models.blocks import ConvNormAct, Dense, Network
from edgecv.models.spec import Model, ModelSpec

STRIDES = (8, 16, 32)
WIDTH = 96  # channels of neck and head
SIZES = (320, 416)  # pixels of a side
PRIOR = 0.01  # score that a fresh head gives (Lin et al. 2017, arXiv:1708.02002, section 4.1)
REACH = 2.0  # distance in strides that a fresh head gives, before its softplus: a box of about four strides

conv = partial(ConvNormAct, act=nn.ReLU)
BACKBONES = {
    model.spec.name: model for family in (mobilenet_v2, mobilenet_v3, efficientnet, convnext) for model in family.MODELS
}


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Filter each channel 5x5, then mix the channels."""
    return nn.Sequential(conv(inputs, inputs, 5, stride, groups=inputs), conv(inputs, outputs, 1))


def merged(width: int) -> nn.Sequential:
    """Two maps side by side become one: (N, 2 width, h, w) -> (N, width, h, w)."""
    return nn.Sequential(conv(2 * width, width, 1), separable(width, width))


class Neck(nn.Module):
    """Every level learns from the coarser ones, then from the finer ones (figure 2)."""

    def __init__(self, inputs: list[int], width: int) -> None:
        super().__init__()
        steps = len(inputs) - 1
        self.reduce = nn.ModuleList(conv(channels, width, 1) for channels in inputs)
        self.down = nn.ModuleList(merged(width) for _ in range(steps))
        self.shrink = nn.ModuleList(separable(width, width, 2) for _ in range(steps))
        self.up = nn.ModuleList(merged(width) for _ in range(steps))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        levels = [reduce(x) for reduce, x in zip(self.reduce, features, strict=True)]  # (N, width, H/s, W/s) each
        for fine, merge in zip(reversed(range(len(self.down))), self.down, strict=True):
            coarse = F.interpolate(levels[fine + 1], scale_factor=2.0, mode="nearest")
            levels[fine] = merge(torch.cat([levels[fine], coarse], 1))
        for fine, (shrink, merge) in enumerate(zip(self.shrink, self.up, strict=True)):
            levels[fine + 1] = merge(torch.cat([shrink(levels[fine]), levels[fine + 1]], 1))
        return levels


class Branch(nn.Sequential):
    """Two convolutions and the layer that says something of each place: (N, width, h, w) -> (N, outputs, h, w)."""

    def __init__(self, width: int, outputs: int, start: float) -> None:
        last = nn.Conv2d(width, outputs, 1)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, start)  # type: ignore[arg-type]
        super().__init__(separable(width, width), separable(width, width), last)


def places(height: int, width: int) -> Tensor:
    """The centres of the places of an input, level by level, row by row -> (A, 3) float32: x, y, stride in pixels."""
    levels = []
    for stride in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride), torch.arange(width // stride), indexing="ij")
        centres = (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride
        levels.append(torch.cat([centres, torch.full((len(centres), 1), float(stride))], 1))
    return torch.cat(levels)


class RTMDet(Network):
    smallest = multiple = STRIDES[-1]

    def __init__(self, backbone: Model, classes: int, in_channels: int) -> None:
        super().__init__()
        self.backbone = headless(backbone.build(1, in_channels))
        self.stem_layer = f"backbone.{self.backbone.stem_layer}"
        channels = [int(x.shape[1]) for x in measured(self.backbone, in_channels)]
        self.neck = Neck(channels, WIDTH)
        levels = range(len(STRIDES))
        self.scores = nn.ModuleList(Branch(WIDTH, classes, -math.log(1 / PRIOR - 1)) for _ in levels)
        self.distances = nn.ModuleList(Branch(WIDTH, 4, REACH) for _ in levels)
        self.head_layers = tuple(f"scores.{level}.2" for level in levels)

    def forward(self, x: Tensor) -> Dense:
        self.check_size(x)
        levels = self.neck(self.backbone.pyramid(x))
        scores = _flat([branch(level) for branch, level in zip(self.scores, levels, strict=True)])  # (N, A, classes)
        reach = _flat([branch(level) for branch, level in zip(self.distances, levels, strict=True)])  # (N, A, 4)
        where = places(int(x.shape[2]), int(x.shape[3])).to(reach)
        # Distances to the left, upper, right and lower edge. A product and a sum with constants are what int8 leaves in
        # float by itself; a concatenation of coordinates would lie on a grid of two pixels.
        outwards = where[:, 2:] * where.new_tensor([-1.0, -1.0, 1.0, 1.0])  # (A, 4) pixels
        boxes = F.softplus(reach) * outwards + where[:, :2].repeat(1, 2)  # (N, A, 4)
        return Dense(boxes, scores if self.training else scores.sigmoid())


def headless(network: Network) -> Network:
    """A classifier without what only its head wants."""
    layers = network.get_submodule("features")
    assert isinstance(layers, nn.Sequential)
    assert network.pyramid_layers is not None
    network.add_module("features", layers[network.pyramid_layers])
    network.pyramid_layers = slice(None)
    for name in {layer.split(".")[0] for layer in network.head_layers}:
        delattr(network, name)
    return network


@torch.no_grad()
def measured(backbone: Network, in_channels: int) -> list[Tensor]:
    """The features of an empty picture, which show how many channels each level has."""
    found = backbone.eval().pyramid(torch.zeros(1, in_channels, STRIDES[-1], STRIDES[-1]))
    backbone.train()
    return found


def _flat(levels: list[Tensor]) -> Tensor:
    """Maps (N, C, h, w) of all levels -> (N, A, C), the places level by level and row by row."""
    rows = [x.reshape(-1, int(x.shape[1]), int(x.shape[2]) * int(x.shape[3])) for x in levels]  # no shapes in the graph
    return torch.cat(rows, 2).transpose(1, 2)


class Variant(NamedTuple):
    """parameters: with 80 classes."""

    backbone: str
    parameters: int


VARIANTS = {
    "det_mobilenet_v2": Variant("mobilenet_v2", 2_170_236),
    "det_mobilenet_v3_large": Variant("mobilenet_v3_large", 3_161_900),
    "det_efficientnet_lite0": Variant("efficientnet_lite0", 3_319_676),
    "det_convnext_atto": Variant("convnext_atto", 3_743_156),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name if size == SIZES[0] else f"{name}_{size}",
            family="rtmdet",
            task="detection",
            size=(size, size),
            classes=80,
            parameters=variant.parameters,
            paper="arXiv:2212.07784",
            normalization=BACKBONES[variant.backbone].spec.normalization,
            weights=BACKBONES[variant.backbone].spec.weights,
            backbone=variant.backbone,
        ),
        partial(RTMDet, BACKBONES[variant.backbone]),
    )
    for name, variant in VARIANTS.items()
    for size in SIZES
)
