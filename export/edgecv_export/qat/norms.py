"""Which layers of an exported graph have a batch norm folded into them, and the modules it came from."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgecv_export.wiring import Layer, Wiring

CLOSE = 1e-4  # relative to a layer's largest weight: what float32 folding may differ by


class Normed(nn.Module):
    """A convolution or linear layer and the batch norm that reads its output, as parameters of their own."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.norm = copy.deepcopy(norm)

    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and bias with the batch norm in them, and the factor that it puts on each output channel.

        y = (W x + b - mean) * s + beta with s = gamma / sqrt(var + eps), of the running statistics.
        """
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean if self.bias is None else self.bias - norm.running_mean
        return self.weight * factor.reshape(-1, *[1] * (self.weight.ndim - 1)), shift * factor + norm.bias, factor

    def normalize(self, product: Tensor, factor: Tensor) -> Tensor:
        """The live batch norm of a product that was made with folded weights: their factor is taken off first."""
        channels = [-1, *[1] * (product.ndim - 2)]
        product = product / torch.where(factor == 0, torch.ones_like(factor), factor).reshape(channels)
        normalized: Tensor = self.norm(product if self.bias is None else product + self.bias.reshape(channels))
        return normalized


def find(network: nn.Module, wiring: Wiring, example: Tensor) -> dict[str, Normed]:
    """The layers with a batch norm in them, by node name.

    example: an input of the network. Exporters rename layers, so that a layer is found by its values: those of a module
    folded with the batch norm that reads its output. What is not found stays as it was folded.
    """
    unclaimed = wiring.layers()
    found: dict[str, Normed] = {}
    for pair in _pairs(network, example):
        with torch.no_grad():
            weights, bias, _ = pair.folded()
        match = next((each for each in unclaimed if _is(wiring, each, weights.numpy(), bias.numpy())), None)
        if match is not None:
            unclaimed.remove(match)
            found[match.name] = pair
    return found


def _is(wiring: Wiring, layer: Layer, weights: Any, bias: Any) -> bool:
    if layer.axis != 0 or wiring.weights(layer).shape != weights.shape:
        return False
    sides = (wiring.weights(layer), weights), (wiring.bias(layer), bias)
    return all(np.abs(got - wanted).max() <= CLOSE * max(np.abs(wanted).max(), 1e-12) for got, wanted in sides)


def _pairs(network: nn.Module, example: Tensor) -> list[Normed]:
    """Layers whose output goes straight into a batch norm, in the order in which they run."""
    makers: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is kept, so that its id stays its own
    pairs: list[Normed] = []

    def made(module: nn.Module, _: Any, output: Tensor) -> None:
        makers[id(output)] = (module, output)

    def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maker = makers.get(id(inputs[0]))
        known = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine and module.track_running_stats
        if maker is not None and known:
            pairs.append(Normed(maker[0], module))  # type: ignore[arg-type]  # the hooks are on no others

    handles = [
        each.register_forward_hook(made) for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)
    ]
    handles += [each.register_forward_pre_hook(read) for each in network.modules() if isinstance(each, _BatchNorm)]
    network.eval()
    try:
        with torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return pairs
