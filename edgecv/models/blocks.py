"""Blocks that several families share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecv_runtime.errors import BadInput

Layer = Callable[[], nn.Module]  # an activation
Norm = Callable[[int], nn.Module]  # a normalization of so many channels


class Supervised(NamedTuple):
    """What a network with auxiliary heads gives in training: each head's logits, and the weight of each auxiliary loss.

    The loss to minimize is loss(logits) + weight * (loss(auxiliary[0]) + loss(auxiliary[1]) + ...).
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
    weight: float


class Dense(NamedTuple):
    """What a detector says at each of A places: boxes (N, A, 4), x1, y1, x2, y2 in pixels of the input, and scores

    (N, A, classes) in 0..1; in training, scores are logits, before their sigmoid.
    """

    boxes: Tensor
    scores: Tensor


class Network(nn.Module):
    """Base of the zoo: normalized float in, logits out; what the shapes are follows from the task.

    classification: (N, C, H, W) -> (N, classes). segmentation: (N, C, H, W) -> (N, classes, H, W).
    sequence: (N, C, T) -> (N, classes, T). detection: (N, C, H, W) -> `Dense`.
    In training, a network with auxiliary heads gives `Supervised` instead.

    variant: the name in the zoo. stem_layer: the first layer, which loading weights may adapt to another number of
    input channels. stem_pixels: columns of a linear stem that belong to one channel. head_layers: the layers with one
    output a class, the main one first; with another number of classes they are new. auxiliary: modules that only
    training runs. smallest: sides in pixels of the smallest input; multiple: what its sides must be multiples of.
    pictures: whether three channels mean red, green and blue, as they do not in a signal. pyramid_layers: the layers
    of `features` from which dense heads take their maps; None for families that have none.
    """

    variant: str = ""
    stem_layer: str = "features.0.0"
    stem_pixels: int = 1
    head_layers: tuple[str, ...] = ("classifier.1",)
    auxiliary: tuple[str, ...] = ()
    smallest: int = 1
    multiple: int = 1
    pictures: bool = True
    pyramid_layers: slice | None = None

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> the deepest features at each of the strides 8, 16 and 32: (N, channels, H/8, W/8) and on.

        Sides are multiples of 32. Raises BadInput where the family has no features at these strides.
        """
        if self.pyramid_layers is None:
            name = self.variant or type(self).__name__
            raise BadInput(f"{name} has no features at the strides 8, 16 and 32, which detection wants")
        layers = self.get_submodule("features")
        assert isinstance(layers, nn.Sequential)
        found = [x]
        for layer in list(layers)[self.pyramid_layers]:
            x = layer(x)
            if x.shape[2] == found[-1].shape[2]:
                found[-1] = x
            else:
                found.append(x)
        return found[-3:]

    def check_size(self, x: Tensor) -> None:
        """Refuse pictures whose sides are too short or no multiple; raises BadInput with a size that works."""
        height, width = (int(side) for side in x.shape[2:])
        name = self.variant or type(self).__name__
        if height % self.multiple or width % self.multiple:
            fit = "x".join(
                str(max(self.smallest, round(side / self.multiple) * self.multiple)) for side in (height, width)
            )
            raise BadInput(
                f"{name} wants sides that are multiples of {self.multiple} pixels, got {height}x{width}; "
                f"resize or pad to {fit}"
            )
        if min(height, width) < self.smallest:
            raise BadInput(
                f"{name} wants pictures of at least {self.smallest}x{self.smallest} pixels, got {height}x{width}; "
                "enlarge or pad them"
            )


class ConvNormAct(nn.Sequential):
    """Convolution, normalization, activation; `norm` takes the place of the bias, unless `bias` is set."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        *,
        dilation: int = 1,
        norm: Norm = nn.BatchNorm2d,
        act: Layer | None = None,
        same: bool = False,
    ) -> None:
        if same and stride > 1:
            conv: nn.Conv2d = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        else:
            padding = (kernel - 1) // 2 * dilation
            conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
        super().__init__(conv, norm(outputs), *([act()] if act else []))


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, where an odd pixel of padding lies below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (1, 0):  # width, then height
            kernel, stride = self.kernel_size[axis], self.stride[axis]
            total = kernel - stride + -x.shape[2 + axis] % stride  # (ceil(H / s) - 1) s + k - H
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


class SqueezeExcitation(nn.Module):
    """Scale every channel by a gate that sees the whole picture (Hu et al. 2018, figure 2 and equation 3)."""

    def __init__(self, channels: int, squeezed: int, act: Layer, gate: Layer) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.act = act()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate()

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3), keepdim=True)  # (N, C, H, W) -> (N, C, 1, 1)
        s = self.act(self.fc1(s))  # -> (N, squeezed, 1, 1)
        scaled: Tensor = x * self.gate(self.fc2(s))  # (N, C, H, W) * (N, C, 1, 1)
        return scaled


class AdaptiveMean2d(nn.Module):
    """Mean over `size` x `size` cells, which overlap where the sides are no multiples: (N, C, H, W) -> (N, C, s, s).

    The same numbers as nn.AdaptiveAvgPool2d, of which ONNX knows only the case of multiples.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[2]), int(x.shape[3])
        if height != self.size:
            x = torch.tensor(self._cells(height), dtype=x.dtype, device=x.device) @ x  # (s, H) @ (N, C, H, W)
        if width != self.size:
            x = x @ torch.tensor(self._cells(width), dtype=x.dtype, device=x.device).T  # (N, C, s, W) @ (W, s)
        return x

    def _cells(self, length: int) -> list[list[float]]:
        """Row i weighs the pixels floor(i L / s) .. ceil((i + 1) L / s) equally."""
        rows = []
        for cell in range(self.size):
            start, stop = cell * length // self.size, -(-(cell + 1) * length // self.size)
            rows.append([1 / (stop - start) if start <= pixel < stop else 0.0 for pixel in range(length)])
        return rows

    def extra_repr(self) -> str:
        return str(self.size)


class StochasticDepth(nn.Module):
    """In training, drop the residual branch of a sample with probability p (Huang et al. 2016, section 3)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p must lie in 0..1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = 1.0 - self.p
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)  # the expectation stays x

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Permute(nn.Module):
    """Another order of the axes."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)

    def extra_repr(self) -> str:
        return str(self.order)


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps to (height, width), bilinear between the centres of pixels: what every backend computes alike."""
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, but never down by more than a tenth (Sandler et al. 2018, reference code)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


def init_conv_norm(network: nn.Module) -> None:
    """Initialize convolutions by their fan-out (He et al. 2015, equation 14) and normalizations as the identity.

    As in torchvision, the fan-out of a depthwise convolution counts all output channels.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
