"""How far attention looks (Dosovitskiy et al. 2021, arXiv:2010.11929, figure 7 right and appendix D.7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgecv.models.swin import WINDOW, WindowAttention
from edgecv.models.vit import SelfAttention
from edgecv.pages import svg
from edgecv.pages.figures import plain
from edgecv.xray.grid import grid
from edgecv.xray.pictures import places
from edgecv.xray.pictures.subject import Absent, Drawing, Picture, Subject

MASKED = 1e-30  # attention below this comes from a mask


class Patches(NamedTuple):
    """The patches that one attention mixes: rows and columns, pixels from one to the next, tokens before them."""

    rows: int
    columns: int
    pitch: float
    first: int = 0


class Distances(NamedTuple):
    """Of one attention layer: the mean distance of each head in pixels, and that of uniform attention.

    Uniform is over what a query may see: masked keys, as in Swin's shifted windows, do not count.
    """

    name: str
    heads: NDArray[np.float64]
    uniform: float


def _of_vit(tokens: Tensor, size: tuple[int, int]) -> Patches:
    """Attention over all patches and a class token: tokens (N, 1 + T, D)."""
    place = grid(tuple(tokens.shape), size)
    assert place is not None, tokens.shape
    return Patches(place.rows, place.columns, size[0] / place.rows, place.first)


def _of_swin(patches: Tensor, size: tuple[int, int]) -> Patches:
    """Attention in windows of patches: (N, H, W, C) are all patches of the picture."""
    return Patches(WINDOW, WINDOW, size[0] / patches.shape[1])


LAYERS: dict[type[nn.Module], Callable[[Tensor, tuple[int, int]], Patches]] = {
    SelfAttention: _of_vit,
    WindowAttention: _of_swin,
}


def mean_distance(attention: Tensor, patches: Patches) -> NDArray[np.float64]:
    """Mean distance in pixels between queries and keys, weighted by attention (N, heads, T, T) -> (heads,).

    Tokens that are no patches, such as the class token, are neither queries nor keys: the weights of the others are
    scaled to add up to 1.
    """
    weights = attention[:, :, patches.first :, patches.first :].double()
    weights = weights / weights.sum(-1, keepdim=True)
    found: Tensor = (weights * _distances(patches)).sum(-1).mean((0, 2))
    return found.numpy()


def _distances(patches: Patches) -> Tensor:
    """Pixels between the middles of every two patches (T, T)."""
    rows, columns = torch.meshgrid(torch.arange(patches.rows), torch.arange(patches.columns), indexing="ij")
    spots = torch.stack([rows.flatten(), columns.flatten()], 1).double() * patches.pitch
    return torch.cdist(spots, spots)


class _Softmax(TorchFunctionMode):
    """Tells of every softmax that runs."""

    def __init__(self, tell: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if func in (torch.softmax, Tensor.softmax, torch.nn.functional.softmax):
            self.tell(result)
        return result


def measure(network: nn.Module, inputs: Tensor) -> list[Distances]:
    """Mean attention distance of every head of every layer, from input to output, over inputs (N, C, H, W)."""
    size = (int(inputs.shape[2]), int(inputs.shape[3]))
    found: list[Distances] = []
    running: list[tuple[str, Patches]] = []

    def tell(attention: Tensor) -> None:
        if running:
            name, patches = running[-1]
            seen = (attention[:, :1] > MASKED).to(attention.dtype)
            uniform = float(mean_distance(seen, patches)[0])
            found.append(Distances(name, mean_distance(attention, patches), uniform))

    with torch.inference_mode(), _noting(network, running, size), _Softmax(tell):
        network.eval()(inputs)
    return found


@contextmanager
def _noting(network: nn.Module, running: list[tuple[str, Patches]], size: tuple[int, int]) -> Iterator[None]:
    """Keep the attention layer that is running, with its patches, as the last of `running`."""
    hooks = []
    for name, module in network.named_modules():
        if type(module) not in LAYERS:
            continue

        def enter(module: nn.Module, arguments: Any, name: str = name) -> None:
            running.append((name, LAYERS[type(module)](arguments[0], size)))

        def leave(_module: nn.Module, _arguments: Any, _output: Any) -> None:
            running.pop()

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def draw(subject: Subject) -> Picture:
    """One dot a head, one column a layer."""
    if subject.network is None:
        return Absent("only the attention layers of the zoo's ViT and Swin are known")
    if not any(type(module) in LAYERS for module in subject.network.modules()):
        return Absent("the network has no attention")
    if subject.photo is not None:
        inputs = torch.from_numpy(np.asarray(subject.photo.feed, np.float32))
    else:
        channels = subject.graph.tensors["input"].shape[1]
        inputs = places.noise(places.pictures(subject.graph), channels, subject.size)
    found = measure(subject.network, inputs)
    figure, (axis,) = svg.panels(2.9)
    for number, each in enumerate(found, 1):
        line = (axis.plot([number - 0.35, number + 0.35], [each.uniform] * 2, color=svg.MUTED, linewidth=1.2))[0]
        dots = axis.plot([number] * len(each.heads), each.heads, "o", color=svg.BLUE, markersize=4, alpha=0.7)[0]
    axis.legend([dots, line], ["one head", "uniform attention"], loc="lower right", ncols=2)
    axis.set_ylim(0, 1.12 * max(max(each.uniform, float(each.heads.max())) for each in found))
    axis.set_xticks(range(1, len(found) + 1))
    axis.set_xlabel("attention layer, from input to output")
    axis.set_ylabel("mean attention distance, pixels")
    axis.grid(axis="y")
    plain(axis.yaxis)
    return Drawing(figure, _caption(subject))


def _caption(subject: Subject) -> str:
    of = "the photograph" if subject.photo is not None else "random pictures"
    text = f"How far from its own patch each head looks, on average over {of}, with {subject.whose}. "
    if subject.weights:
        return text + "Low dots are local heads, like small kernels; dots near the line look everywhere alike."
    return text + "Fresh heads look everywhere alike, so the dots lie on the line; training makes many of them local."
