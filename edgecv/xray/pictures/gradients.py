"""How the gradient fares on its way back, with and without the skip connections (Balduzzi et al. 2017)."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from edgecv.pages import svg
from edgecv.pages.figures import plain
from edgecv.xray.pictures import places
from edgecv.xray.pictures.subject import NEEDS_MODULE, Absent, Drawing, Picture, Subject

_ADD = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, Tensor.__radd__)


class Norms(NamedTuple):
    """Gradient norms by depth, and how many skip connections the network has (or had, if they were cut)."""

    norms: list[float]
    skips: int


class Skips(TorchFunctionMode):
    """Finds residual additions while a network runs, and cuts them if asked to.

    An addition of two activations of the same shape, of which one comes from fewer operations, is a skip connection:
    the nearer one skips what made the other. To cut it is to pass on the farther one alone.
    """

    def __init__(self, inputs: Tensor, *, cut: bool) -> None:
        super().__init__()
        self.cut = cut
        self.found = 0
        self._depths = {id(inputs): 0}  # operations since the input, by id of the activation
        self._alive: list[Any] = [inputs]  # so that no id is used twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs = kwargs or {}
        depths = [self._depths[id(each)] for each in _tensors((args, kwargs)) if id(each) in self._depths]
        longer = self._branch(args) if func in _ADD else None
        self.found += longer is not None
        if longer is not None and self.cut:
            return longer
        result = func(*args, **kwargs)
        if depths:
            for each in _tensors(result):
                self._depths.setdefault(id(each), max(depths) + 1)
                self._alive.append(each)
        return result

    def _branch(self, args: Any) -> Tensor | None:
        """The operand that went the longer way, if this is a residual addition."""
        if len(args) < 2 or any(id(each) not in self._depths for each in args[:2]):
            return None
        first, second = args[:2]
        ways = self._depths[id(first)], self._depths[id(second)]
        if first.shape != second.shape or ways[0] == ways[1]:
            return None
        branch: Tensor = first if ways[0] > ways[1] else second
        return branch


def measure(network: nn.Module, inputs: Tensor, *, cut: bool = False, seed: int = 0) -> Norms:
    """Norm of the loss's gradient with respect to what each block of the network gives, from input to output.

    The loss is the cross-entropy against random classes, at every place of a dense output. Batch
    normalizations use the statistics of this batch (N, C, H, W), as in training; nothing is dropped at random. The
    network is not changed. cut: without its skip connections.
    """
    network = copy.deepcopy(network).eval()
    for norm in places.batch_norms(network):
        norm.train()
    _awaken(network)
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: Any, output: Any) -> None:
        for each in _tensors(output):
            each.retain_grad()
            kept.append(each)

    for _, block in places.blocks(network):
        block.register_forward_hook(keep)
    inputs = inputs.clone().requires_grad_()
    skips = Skips(inputs, cut=cut)
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with skips:
            outputs = network(inputs)
        logits = next(_tensors(outputs))
        classes = torch.randint(logits.shape[1], (logits.shape[0], *logits.shape[2:]))
        F.cross_entropy(logits, classes).backward()
    return Norms([float(each.grad.norm()) for each in kept if each.grad is not None], skips.found)


def _awaken(network: nn.Module) -> None:
    """Give linear layers that start as zeros, such as ViT's head, numbers: else no gradient would pass them."""
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.xavier_uniform_(module.weight)


def _tensors(value: Any) -> Any:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def draw(subject: Subject) -> Picture:
    """One line with the skip connections, one without, on a logarithmic axis."""
    if subject.network is None:
        return Absent(NEEDS_MODULE)
    channels = subject.graph.tensors["input"].shape[1]
    inputs = places.noise(places.pictures(subject.graph), channels, subject.size)
    lines = {"as it is": measure(subject.network, inputs)}
    skips = lines["as it is"].skips
    if skips:
        lines["without skip connections"] = measure(subject.network, inputs, cut=True)
    figure, (axis,) = svg.panels(2.9)
    for (label, line), shade in zip(lines.items(), (svg.BLUE, svg.ORANGE), strict=False):
        norms = [norm / line.norms[-1] for norm in line.norms]
        axis.plot(range(1, len(norms) + 1), norms, ".-", color=shade, linewidth=1, markersize=4, label=label)
    axis.set_yscale("log")
    axis.set_xlabel("block, from input to output")
    axis.set_ylabel("gradient norm, last block = 1")
    axis.grid()
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(axis.xaxis)
    plain(axis.yaxis)
    if skips:
        axis.legend(loc="best")
    return Drawing(figure, _caption(subject, skips))


def _caption(subject: Subject, skips: int) -> str:
    text = (
        "Norm of the gradient of the loss at the output of each block, on one batch of random pictures with "
        f"{subject.whose}. Training wants a line that stays level: where it runs away over powers of ten, early and "
        "late blocks cannot learn at the same rate."
    )
    if not skips:
        return text + " This network adds up no branches, so there are no such skip connections to take away."
    many = "its only skip connection" if skips == 1 else f"its {skips} skip connections"
    return text + f" Orange: the same network with {many} removed (each sum replaced by its longer branch)."
