"""Where the places of the picture lie in a layer's output, and at which depths of a network to look."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgecv.xray.extent import Shape
from edgecv.xray.graph import Graph
from edgecv.xray.grid import Grid, grid

SHOWN = 6  # depths that a picture shows at most
PICTURES, BUDGET = 4, 40e9  # random pictures of a measurement at most, and MACs to spend on them


class Stop(NamedTuple):
    """A depth at which to look: the module (or node), the tensor that it gives, and how that lies over the picture."""

    name: str
    tensor: str
    grid: Grid


def short(name: str, most: int = 18) -> str:
    """The last parts of a name, as many as fit into a title."""
    parts = name.replace("/", ".").strip(".").split(".")
    while len(parts) > 1 and len(".".join(parts)) > most:
        parts.pop(0)
    return ".".join(parts)


def maps(output: Tensor, place: Grid) -> Tensor:
    """A layer's output as (N, C, rows, columns)."""
    if place.layout == "channels last":
        return output.permute(0, 3, 1, 2)
    if place.layout == "tokens":
        tokens = output[:, place.first :].transpose(1, 2)  # (N, T, D) -> (N, D, T)
        return tokens.reshape(*tokens.shape[:2], place.rows, place.columns)
    return output


def stops(graph: Graph, network: nn.Module | None, size: Shape) -> list[Stop]:
    """Depths at which to look: the last block before each change of resolution.

    A network that keeps one resolution, such as ViT, is looked at evenly; from many, as many as are shown are taken
    evenly. Of a network these are modules, so that hooks reach them; of a file, any nodes.
    """
    found = list(_modules(graph, network, size) if network is not None else _nodes(graph, size))
    runs = [list(run) for _, run in itertools.groupby(found, key=lambda stop: (stop.grid.rows, stop.grid.columns))]
    chosen = [run[-1] for run in runs]
    if len(chosen) < 4:
        built = {name for name, module in network.named_modules() if any(module.children())} if network else set()
        chosen = [stop for stop in found if stop.name in built] or found
    return _evenly(chosen)


def _evenly(items: list[Stop]) -> list[Stop]:
    count = min(SHOWN, len(items))
    return [items[round(place * (len(items) - 1) / max(1, count - 1))] for place in range(count)]


def _modules(graph: Graph, network: nn.Module, size: Shape) -> Iterator[Stop]:
    """Blocks of a network, in the order in which they end, whose output still has places."""
    known = dict(blocks(network))
    last: dict[str, tuple[int, str]] = {}  # block -> its last layer
    for number, layer in enumerate(graph.layers):
        parts = layer.name.partition("#")[0].split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            if name in known:
                last[name] = (number, layer.outputs[0])
    again = {layer.name.partition("#")[0] for layer in graph.layers if "#" in layer.name}
    for name, (_, tensor) in sorted(last.items(), key=lambda item: item[1][0]):
        place = grid(graph.tensors[tensor].shape, size)
        if place is not None and name not in again:
            yield Stop(name, tensor, place)


def blocks(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of which a network is put together: containers, and what the network itself is made of, are opened."""

    def opened(name: str, module: nn.Module, depth: int) -> Iterator[tuple[str, nn.Module]]:
        container = type(module) in (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        holds_blocks = any(type(each) in (nn.Sequential, nn.ModuleList) for each in module.children())
        if container or depth == 0 or (depth == 1 and holds_blocks):
            for part, child in module.named_children():
                yield from opened(f"{name}.{part}".lstrip("."), child, depth + 1)
        else:
            yield name, module

    return opened("", network, 0)


def _nodes(graph: Graph, size: Shape) -> Iterator[Stop]:
    """Convolutions, additions and activations of a file whose output still has places."""
    for layer in graph.layers:
        place = grid(graph.output_of(layer).shape, size)
        if place is not None and layer.kind in (
            "conv",
            "pointwise conv",
            "depthwise conv",
            "add",
            "activation",
            "concat",
        ):
            yield Stop(layer.name, layer.outputs[0], place)


@contextmanager
def watched(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep what the named modules give while the network runs, by name; of several tensors, none."""
    kept: dict[str, Tensor] = {}
    modules = dict(network.named_modules())

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                kept[name] = output

        return hook

    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Every batch normalization of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def pictures(graph: Graph) -> int:
    """How many random pictures to measure with: fewer for a large network, so that it takes seconds."""
    macs = sum(layer.macs for layer in graph.layers)
    return max(2, min(PICTURES, int(BUDGET / max(1, macs))))


def noise(count: int, channels: int, size: Shape, seed: int = 0) -> Tensor:
    """Random pictures (N, C, H, W): every number normal with mean 0 and variance 1, as normalized pixels have."""
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(seed))
