"""The effective receptive field: which pixels really move the middle of a layer (Luo et al. 2016, arXiv:1701.04128)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecv.pages import svg
from edgecv.xray.fields import extents
from edgecv.xray.graph import Graph
from edgecv.xray.pictures import places
from edgecv.xray.pictures.places import Stop
from edgecv.xray.pictures.subject import NEEDS_MODULE, Absent, Drawing, Picture, Subject

SHARE = 0.95  # of the gradient, which the effective square holds
DECADES = 3  # from the brightest pixel to black


class Box(NamedTuple):
    """A rectangle of pixels, all four sides inside it; it may reach beyond the picture."""

    top: float
    left: float
    bottom: float
    right: float


def effective(
    network: nn.Module, stops: Sequence[Stop], inputs: Tensor, seed: int = 0
) -> list[tuple[Stop, NDArray[np.float32]]]:
    """Mean magnitude of the gradient of each stop's middle unit with respect to the input -> (H, W) each.

    The unit's channels are added with random signs, so that none cancels another throughout; the input's channels and
    the pictures (N, C, H, W) are averaged. The network is used as it infers.
    """
    inputs = inputs.clone().requires_grad_()
    signs = torch.Generator().manual_seed(seed)
    found = []
    with torch.enable_grad(), places.watched(network, [stop.name for stop in stops]) as outputs:
        network.eval()
        network(inputs)
        for stop in (stop for stop in stops if stop.name in outputs):
            maps = places.maps(outputs[stop.name], stop.grid)
            middle = maps[:, :, stop.grid.rows // 2, stop.grid.columns // 2]  # (N, C)
            sign = torch.randint(0, 2, middle.shape, generator=signs) * 2 - 1
            (gradient,) = torch.autograd.grad((middle * sign).sum(), inputs, retain_graph=True)
            found.append((stop, gradient.abs().mean((0, 1)).numpy()))
    return found


def settled(network: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy of a fresh network whose batch normalizations know the statistics of these inputs, as after training."""
    network = copy.deepcopy(network).eval()
    for norm in places.batch_norms(network):
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over what is seen
        norm.train()
    with torch.no_grad():
        network(inputs)
    return network.eval()


def theoretical(graph: Graph, stop: Stop) -> Box:
    """What the middle place of a layer can see through its windows."""
    sides = []
    for axis in range(2, 4):
        extent = extents(graph, axis)[stop.tensor]
        index = tuple(
            min(place or 0, length - 1) for place, length in zip(stop.grid.centre(), extent.low.shape, strict=True)
        )
        sides.append((float(extent.low[index]), float(extent.high[index])))
    (top, bottom), (left, right) = sides
    return Box(top, left, bottom, right)


def square(gradient: NDArray[np.float32], around: Box, share: float = SHARE) -> Box:
    """The smallest square around the middle of a box that holds this share of the gradient."""
    middle = ((around.top + around.bottom) / 2, (around.left + around.right) / 2)
    rows, columns = (np.abs(np.arange(length) - at) for length, at in zip(gradient.shape, middle, strict=True))
    distance = np.maximum(rows[:, None], columns[None, :])
    order = np.argsort(distance, axis=None)
    sums = np.cumsum(gradient.ravel()[order], dtype=np.float64)
    reach = distance.ravel()[order][min(int(np.searchsorted(sums, share * sums[-1])), distance.size - 1)]
    return Box(middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach)


def draw(subject: Subject) -> Picture:
    """One panel a depth: the gradient as a heat map, the theoretical field and the effective square as frames."""
    if subject.network is None:
        return Absent(NEEDS_MODULE)
    stops = places.stops(subject.graph, subject.network, subject.size)
    if not stops:
        return Absent("no layer's output lies over the picture")
    count = places.pictures(subject.graph)
    inputs = places.noise(count, subject.graph.tensors["input"].shape[1], subject.size)
    network = subject.network if subject.weights else settled(subject.network, inputs)
    measured = effective(network, stops, inputs)
    columns = 3
    rows = math.ceil(len(measured) / columns)
    figure, axes = svg.panels(1.85 * rows, rows=rows, columns=columns, sharex=True, sharey=True)
    for axis, (stop, gradient) in zip(axes, measured, strict=False):
        box = theoretical(subject.graph, stop)
        effect = square(gradient, box)
        axis.imshow(np.log10(gradient / gradient.max() + 1e-9), cmap="magma", vmin=-DECADES, interpolation="none")
        for frame, shade in ((box, svg.BLUE), (effect, svg.ORANGE)):
            height, width = frame.bottom - frame.top + 1, frame.right - frame.left + 1
            axis.add_patch(
                Rectangle((frame.left - 0.5, frame.top - 0.5), width, height, fill=False, color=shade, linewidth=1.4)
            )
        axis.set_title(f"{places.short(stop.name)}\n{_side(box)} px, 95 % in {_side(effect)}", fontsize=8, loc="left")
        axis.set_xticks([0, subject.size[1]])
        axis.set_yticks([0, subject.size[0]])
    for axis in axes[len(measured) :]:
        axis.set_axis_off()
    return Drawing(figure, _caption(subject, count))


def _side(box: Box) -> str:
    height, width = box.bottom - box.top + 1, box.right - box.left + 1
    return f"{width:.0f}" if height == width else f"{width:.0f}×{height:.0f}"


def _caption(subject: Subject, count: int) -> str:
    text = (
        "Blue: what the middle unit of a layer can see through its windows. Bright: the pixels that really move it "
        f"(mean gradient over {count} random pictures, {subject.whose}; black is below a thousandth); orange: the "
        "square that holds 95 % of it. Windows reach far, but most of what arrives comes from the middle."
    )
    if _whole(subject):
        text += " What shines outside the blue frame came through attention or a gate that sees the whole picture."
    return text


def _whole(subject: Subject) -> bool:
    """Whether some path lets a layer that still has places see the whole picture."""
    return any(extent.whole and extent.jump > 0 for extent in extents(subject.graph, 2).values())
