"""The model zoo: networks for the edge, under the layer names of their published checkpoints.

>>> from edgecv import models
>>> network = models.create("mobilenet_v3_small", classes=10)
>>> models.spec("mobilenet_v3_small").parameters
2542856
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import torch

from edgecv.models import (
    alexnet,
    convnext,
    deeplabv3,
    efficientnet,
    googlenet,
    lenet,
    lraspp,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    resnet,
    rtmdet,
    swin,
    unet,
    vgg,
    vit,
    wavenet,
)
from edgecv.models.blocks import Dense, Network, Supervised
from edgecv.models.checkpoint import SUFFIXES, LoadReport, load_weights, named
from edgecv.models.spec import Model, ModelSpec, Registry, WeightSource
from edgecv_runtime.errors import BadInput, nearest

__all__ = [
    "Dense",
    "LoadReport",
    "Model",
    "ModelSpec",
    "Network",
    "Supervised",
    "WeightSource",
    "create",
    "labels",
    "load_weights",
    "named",
    "names",
    "spec",
]

FAMILIES = (
    lenet,
    alexnet,
    vgg,
    googlenet,
    resnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    efficientnet,
    convnext,
    vit,
    swin,
    unet,
    lraspp,
    deeplabv3,
    rtmdet,
    wavenet,
)

ZOO = Registry()
for _family in FAMILIES:
    for _model in _family.MODELS:
        ZOO.add(_model)


def names() -> list[str]:
    """The models of the zoo, family by family, small before large."""
    return list(ZOO)


def spec(name: str) -> ModelSpec:
    """What is known of a model: family, input size, parameters, paper, published weights; BadInput if there is none."""
    return ZOO.find(name).spec


def create(
    name: str,
    *,
    classes: int | None = None,
    weights: WeightSource | str | os.PathLike[str] | None = None,
    in_channels: int | None = None,
    seed: int | None = None,
    new_heads: bool = True,
) -> Network:
    """Make a network of the zoo, in training mode, on torch's default device.

    It takes normalized float tensors and gives logits, in shapes that follow from `spec(name).task` (see `ModelSpec`);
    in training mode, one with auxiliary heads gives `Supervised`.
    classes, in_channels: None for the usual numbers, `spec(name).classes` and `spec(name).channels`.
    weights: None for fresh ones; the name of a row of `spec(name).weights`, such as "imagenet"; or the path of a
    file with plain tensors, PyTorch's or safetensors. `load_weights` does the same for an existing network and returns
    a report.
    Another number of classes than in the weights gives new, untrained heads, and the log says so. For another number
    of channels, weights for RGB are adapted: one channel gets the sum of the three kernels, so that a grey picture
    gives what it gave as RGB; more channels repeat R, G, B in turn, scaled by 3 / in_channels.
    seed: makes the fresh weights reproducible without touching torch's global generator.
    new_heads: False refuses weights of another number of classes, for a network that nobody trains from here.
    A model on the body of another one (`spec(name).backbone`) takes that one's published weights for its body.
    Raises BadInput for an unknown name, an impossible number or a file that does not fit; Unavailable when published
    weights can be had from nowhere.
    """
    model = ZOO.find(name)
    classes = model.spec.classes if classes is None else classes
    in_channels = model.spec.channels if in_channels is None else in_channels
    for what, value in (("classes", classes), ("in_channels", in_channels)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{what} of {name} must be a whole number of at least 1, got {value!r}")
    source = None if weights is None else _source(model.spec, weights)
    with _seeded(seed):
        network = model.build(classes, in_channels)
    network.variant = name
    if isinstance(source, WeightSource) and source.model != name and source.model == model.spec.backbone:
        if not new_heads:
            raise BadInput(
                f"'{source.name}' are weights of the body of {name} alone: train it (a recipe's train section)"
            )
        _start_backbone(network, source, in_channels)
    elif source is not None:
        load_weights(network, source, new_heads=new_heads)
    return network


def labels(name: str) -> list[str]:
    """The class names of a label list, in the order of the logits: "imagenet" has 1000, "voc" 21 with the background.

    Source: `_IMAGENET_CATEGORIES` and `_VOC_CATEGORIES` of torchvision 0.28, models/_meta.py (BSD-3-Clause). Raises
    BadInput for another name.
    """
    lists = {"imagenet": "imagenet_classes.txt", "voc": "voc_classes.txt"}
    if name not in lists:
        raise BadInput(f"no label list '{name}'{nearest(name, lists)}")
    return (files("edgecv.models") / lists[name]).read_text(encoding="utf-8").splitlines()


def _source(model: ModelSpec, weights: WeightSource | str | os.PathLike[str]) -> WeightSource | Path:
    if isinstance(weights, WeightSource):
        return weights
    if not isinstance(weights, str | os.PathLike):
        raise BadInput(f"weights of {model.name} are a name or a path, got {weights!r}")
    known = {source.name: source for source in model.weights}
    if isinstance(weights, str) and weights in known:
        return known[weights]
    if Path(weights).suffix or os.sep in os.fspath(weights) or Path(weights).is_file():
        return Path(weights)
    raise BadInput(
        f"no weights '{weights}' for {model.name}{nearest(os.fspath(weights), known)}; "
        f"a path ends in {', '.join(SUFFIXES)}, or its file is there"
    )


def _start_backbone(network: Network, source: WeightSource, in_channels: int) -> None:
    """Load the weights of a classifier into the network that stands on its body; the rest stays fresh."""
    whole = create(source.model, weights=source, in_channels=in_channels).state_dict()
    body = network.get_submodule("backbone")
    body.load_state_dict({name: whole[name] for name in body.state_dict()})


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
