"""Fake quantization: float values moved onto an integer grid, with gradients that see through the rounding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from edgecv_export import dialects
from edgecv_export.dialects import TINY, WEIGHT_STEPS
from edgecv_export.grids import BIAS_STEPS


class _Fake(torch.autograd.Function):
    """(clip(round(x / scale) + zero_point) - zero_point) * scale, bit for bit what ONNX's Q/DQ computes.

    PyTorch's own operators multiply by 1 / scale instead of dividing, which rounds some values the other way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: int, lowest: int, highest: int) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.grid = zero_point, lowest, highest
        return (torch.round(x / scale) + zero_point).clamp_(lowest, highest).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, scale = ctx.saved_tensors
        zero_point, lowest, highest = ctx.grid
        steps = x / scale
        places = torch.round(steps) + zero_point
        inside = (places >= lowest) & (places <= highest)
        to_x = gradient * inside
        to_scale = None
        if ctx.needs_input_grad[1]:
            moved = places.clamp(lowest, highest) - zero_point
            to_scale = (gradient * torch.where(inside, moved - steps, moved)).sum()
            to_scale = (to_scale / math.sqrt(max(1, x[0].numel()) * highest)).reshape(scale.shape)
        return to_x, to_scale, None, None, None


def fake_quantize(x: Tensor, scale: Tensor, zero_point: int, lowest: int, highest: int) -> Tensor:
    """Values moved onto a grid; halves round to even, what lies outside is clipped.

    x: any shape; scale: of one element, or so that it broadcasts (then without a gradient).
    Gradients: straight through to x inside the grid and 0 outside (Bengio et al. 2013); to a scale of one element that
    of LSQ (Esser et al. 2020, arXiv:1902.08153, equation 3), divided by sqrt(elements * highest) as in its section 2.2.
    """
    moved: Tensor = _Fake.apply(x, scale, zero_point, lowest, highest)
    return moved


def fake_weights(weights: Tensor, scale: Tensor) -> Tensor:
    """Weights on a symmetric int8 grid, scale from `weight_scale`: nothing is clipped."""
    return fake_quantize(weights, scale, 0, -WEIGHT_STEPS, WEIGHT_STEPS)


def weight_scale(weights: Tensor, axis: int, bias: Tensor | None = None, source: Tensor | None = None) -> Tensor:
    """The steps of the grid that holds all weights, one per index along `axis`; the other dimensions are kept as 1.

    bias (channels,), source: the layer's bias and the step of its inputs, when the bias has to fit into int32.
    """
    reach = weights.detach().abs().amax([each for each in range(weights.ndim) if each != axis], keepdim=True)
    if bias is not None and source is not None:
        least = bias.detach().double().abs() / (source.detach().double() * BIAS_STEPS)
        reach = torch.maximum(reach, WEIGHT_STEPS * least.to(reach.dtype).reshape(reach.shape))
    scale = reach / WEIGHT_STEPS
    return torch.where(scale < TINY, torch.ones_like(scale), scale)


def half_up(scales: Tensor) -> Tensor:
    """Scales as a file holds them in half precision, see `dialects.half_up`; the gradient goes straight through."""
    held = torch.from_numpy(dialects.half_up(scales.detach().cpu().numpy())).to(scales.device)
    return scales + (held - scales.detach())


def fake_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """A bias (channels,) in int32 steps of `scale`, the step of the inputs times those of the weights."""
    places = torch.round(bias.detach() / scale.detach().double()).clamp(-(2**31), 2**31 - 1)
    return places.float() * scale.detach() + (bias - bias.detach())
