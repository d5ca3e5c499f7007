"""AdaRound: each weight is rounded up or down so that the layer's output, not the weight, stays closest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecv_export.deadline import Tick
from edgecv_export.dialects import Float, Grid
from edgecv_export.lockstep import Lockstep, Pair
from edgecv_export.passes.setting import Setting
from edgecv_export.wiring import Wiring, attribute

if TYPE_CHECKING:
    import torch

IMAGES, BATCH, STEPS, RATE = 32, 8, 150, 2e-2
ZETA, GAMMA = 1.1, -0.1  # stretch of the sigmoid
WARM_UP, WEIGHT = 0.2, 1.0  # share of the steps without the rounding term; its weight
BETA = (20.0, 2.0)


def adaround(setting: Setting) -> Wiring:
    """Learn the rounding of every quantized layer's weights, layer by layer (Nagel et al. 2020, arXiv:2004.10568).

    Equation 25 there: the float output of a layer is reconstructed from the quantized output of the layers before it.
    The weights become values on their grids, which the Q/DQ writer keeps as they are; those of convolutions that are
    padded by rule (auto_pad) are left as they were. Seeded: the same images give the same weights.
    """
    rounded = Wiring(setting.wiring.model)

    def visit(pair: Pair) -> bool:
        setting.tick()
        grid = setting.grids.get(pair.layer.weights)
        values = rounded.constant(pair.layer.weights)
        if grid is None or values is None or attribute(pair.layer.node, "auto_pad", b"NOTSET") != b"NOTSET":
            return False
        inside = pair.layer.bias is not None and pair.layer.bias[0].name == pair.layer.name
        bias = rounded.bias(pair.layer) if inside else None
        rounded.set_constant(rounded.nodes[pair.layer.name], 1, _rounded(values, grid, pair, bias, setting.tick))
        return True

    nodes = [rounded.nodes[node.name] for node in setting.nodes]
    Lockstep(rounded, nodes, setting.grids).walk(setting.images[:IMAGES], visit)
    return rounded


def _rounded(weights: Float, grid: Grid, pair: Pair, bias: Float | None, tick: Tick) -> Float:
    """Weights on their grid, each at most one step from where it was; never worse than rounding to the nearest."""
    import torch

    scale, _ = grid.shaped(weights.ndim)
    step, places = torch.from_numpy(np.array(scale)), torch.from_numpy(np.array(weights / scale))
    sources, wanted = torch.from_numpy(np.array(pair.source)), torch.from_numpy(np.array(pair.wanted))
    if bias is not None:
        wanted = wanted - torch.from_numpy(np.array(bias)).reshape(1, -1, *[1] * (wanted.ndim - 2))
    below = places.floor()
    share = (places - below).clamp(0.01, 0.99)
    alpha = -torch.log((ZETA - GAMMA) / (share - GAMMA) - 1)  # _stretched(alpha) = share

    def error(up: torch.Tensor, picks: torch.Tensor | slice) -> torch.Tensor:
        near = (below + up).clamp(grid.lowest, grid.highest) * step
        return (_output(pair.layer.node, sources[picks], near) - wanted[picks]).square().mean()

    usual = error((share >= 0.5).float(), slice(None)).item()
    learned = _learned(alpha, lambda up, picks: error(up, picks) / max(usual, 1e-12), len(sources), tick)
    up = learned if error(learned, slice(None)).item() < usual else (share >= 0.5).float()
    near: Float = ((below + up).clamp(grid.lowest, grid.highest) * step).numpy()
    return near


def _learned(
    alpha: torch.Tensor, error: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], count: int, tick: Tick
) -> Any:
    """1 for each weight to round up, 0 for the others; `error` is relative to that of rounding to the nearest."""
    import torch

    alpha = alpha.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([alpha], RATE)
    generator = torch.Generator().manual_seed(0)
    for index in range(STEPS):
        tick()
        picks = torch.randperm(count, generator=generator)[:BATCH]
        up = _stretched(alpha)
        loss = error(up, picks)
        if index > WARM_UP * STEPS:
            through = (index / STEPS - WARM_UP) / (1 - WARM_UP)
            beta = BETA[1] + (BETA[0] - BETA[1]) * (1 - through)
            loss = loss + WEIGHT * (1 - (2 * up - 1).abs().pow(beta)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (_stretched(alpha) >= 0.5).float().detach()


def _stretched(alpha: torch.Tensor) -> torch.Tensor:
    """Rectified sigmoid (equation 23): 0..1, both ends reached."""
    return (alpha.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def _output(node: Any, source: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """A convolution or matrix product without its bias."""
    from torch.nn import functional as F

    if node.op_type == "MatMul":
        return source @ weights
    if node.op_type == "Gemm":
        product: torch.Tensor = source @ (weights.T if attribute(node, "transB", 0) else weights)
        return product
    count = weights.ndim - 2  # axes of the picture
    pads = attribute(node, "pads", [0] * 2 * count)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[count - 1]
    return convolution(
        F.pad(source, [side for axis in reversed(range(count)) for side in (pads[axis], pads[axis + count])]),
        weights,
        stride=tuple(attribute(node, "strides", [1] * count)),
        dilation=tuple(attribute(node, "dilations", [1] * count)),
        groups=attribute(node, "group", 1),
    )
