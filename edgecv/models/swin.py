"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030); layer names as in torchvision."""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from edgecv.models.blocks import Network, Permute, StochasticDepth
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources

WINDOW = 7  # sides in patches
PATCH = 4


class WindowAttention(nn.Module):
    """Attention inside windows of 7x7 patches, with a learned bias for each offset (section 3.2, equation 4).

    shift: how far the windows lie from those of the block before, in patches.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        place = torch.arange(WINDOW * WINDOW)
        down = place[:, None] // WINDOW - place // WINDOW + WINDOW - 1  # (49, 49), offsets from 0 to 12
        right = place[:, None] % WINDOW - place % WINDOW + WINDOW - 1
        self.register_buffer("relative_position_index", (down * (2 * WINDOW - 1) + right).flatten())
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        height, width, channels = int(x.shape[1]), int(x.shape[2]), int(x.shape[3])
        x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))  # (N, H, W, C), multiples of 7
        rows, columns = height + -height % WINDOW, width + -width % WINDOW
        # One window needs no shift.
        down, right = (self.shift if side > WINDOW else 0 for side in (rows, columns))
        if down or right:
            x = x.roll((-down, -right), (1, 2))

        grid = (-1, rows // WINDOW, WINDOW, columns // WINDOW, WINDOW, channels)
        windows = x.reshape(grid).permute(0, 1, 3, 2, 4, 5).reshape(-1, WINDOW * WINDOW, channels)
        mask = torch.from_numpy(window_mask(rows, columns, down, right)).to(x) if down or right else None
        windows = self._attend(windows, mask)
        grid = (-1, rows // WINDOW, columns // WINDOW, WINDOW, WINDOW, channels)
        x = windows.reshape(grid).permute(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, channels)

        if down or right:
            x = x.roll((down, right), (1, 2))
        return x[:, :height, :width]

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Windows (M, 49, C) -> (M, 49, C); mask (windows of a picture, 49, 49) is added to the scores."""
        size, channels = WINDOW * WINDOW, int(x.shape[2])
        qkv = self.qkv(x).reshape(-1, size, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv[0], qkv[1], qkv[2]  # (M, heads, 49, d)
        bias = self.relative_position_bias_table[self.relative_position_index]  # -> (49 49, heads)
        scores = (queries * (channels // self.heads) ** -0.5) @ keys.transpose(-2, -1)
        scores = scores + bias.reshape(size, size, self.heads).permute(2, 0, 1)  # (M, heads, 49, 49)
        if mask is not None:
            scores = scores.reshape(-1, mask.shape[0], self.heads, size, size) + mask[:, None]
            scores = scores.reshape(-1, self.heads, size, size)
        out = (scores.softmax(-1) @ values).transpose(1, 2).reshape(-1, size, channels)
        mixed: Tensor = self.proj(out)
        return mixed


@cache
def window_mask(rows: int, columns: int, down: int, right: int) -> NDArray[np.float32]:
    """-100 between patches that only the cyclic shift made neighbours (figure 4) -> (windows, 49, 49)."""

    def regions(length: int, shift: int) -> NDArray[np.int64]:
        place = np.arange(length)
        return (place >= length - WINDOW).astype(np.int64) + (place >= length - shift)

    region = 3 * regions(rows, down)[:, None] + regions(columns, right)
    grid = region.reshape(rows // WINDOW, WINDOW, columns // WINDOW, WINDOW)
    windows = grid.swapaxes(1, 2).reshape(-1, WINDOW * WINDOW)
    return np.where(windows[:, :, None] == windows[:, None, :], 0, -100).astype(np.float32)


class Block(nn.Module):
    """Attention in windows, then a perceptron on each patch (equation 3, figure 3b)."""

    def __init__(self, width: int, heads: int, shift: int, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, shift)
        self.stochastic_depth = StochasticDepth(drop)
        self.norm2 = nn.LayerNorm(width)
        # torchvision's dropout has probability 0; its place keeps the numbering.
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(self.attn(self.norm1(x)))
        out: Tensor = x + self.stochastic_depth(self.mlp(self.norm2(x)))
        return out


class PatchMerging(nn.Module):
    """Join 2x2 patches into one of twice the width (section 3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[1]), int(x.shape[2])
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))  # (N, H, W, C), even
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))  # -> (N, H/2, W/2, 4 C) -> 2 C
        return merged


class Variant(NamedTuple):
    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    stochastic_depth: float
    parameters: int


class SwinTransformer(Network):
    head_layers = ("head",)
    smallest = PATCH

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        width = variant.width
        stem = nn.Conv2d(in_channels, width, PATCH, stride=PATCH)
        # The patches lie as (N, H, W, C) from here on.
        layers: list[nn.Module] = [nn.Sequential(stem, Permute(0, 2, 3, 1), nn.LayerNorm(width))]
        drops = torch.linspace(0.0, variant.stochastic_depth, sum(variant.depths), device="cpu").tolist()
        for stage, (depth, heads) in enumerate(zip(variant.depths, variant.heads, strict=True)):
            if stage > 0:
                layers.append(PatchMerging(width))
                width *= 2
            shifts = (0 if block % 2 == 0 else WINDOW // 2 for block in range(depth))
            layers.append(nn.Sequential(*(Block(width, heads, shift, drops.pop(0)) for shift in shifts)))
        self.features = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        found = []
        for layer in self.features:
            if isinstance(layer, PatchMerging):
                found.append(x)
            x = layer(x)
        return [each.permute(0, 3, 1, 2) for each in (*found[1:], x)]  # (N, H, W, C) -> (N, C, H, W)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        x = self.norm(self.features(x))  # (N, C, H, W) -> (N, H/32, W/32, 8 width)
        x = x.mean((1, 2))  # -> (N, 8 width)
        logits: Tensor = self.head(x)  # -> (N, classes)
        return logits


# Section 3.3; the drop rates of section 4.1.
VARIANTS = {
    "swin_t": Variant(96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2, 28_288_354),
    "swin_s": Variant(96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, 49_606_258),
    "swin_b": Variant(128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, 87_768_224),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="swin",
            size=(224, 224),
            parameters=variant.parameters,
            paper="arXiv:2103.14030",
            weights=sources(name),
        ),
        partial(SwinTransformer, variant),
    )
    for name, variant in VARIANTS.items()
)
