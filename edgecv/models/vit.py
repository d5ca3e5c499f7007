"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929); layer names as in torchvision.

Tiny and small are the widths of DeiT (Touvron et al. 2021, arXiv:2012.12877, table 1) without its distillation token.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecv.models.blocks import Network
from edgecv.models.spec import Model, ModelSpec
from edgecv.models.weights import sources

EPS = 1e-6
SIZE = 224  # sides in pixels of the pictures whose positions are stored


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V in several heads (appendix A), under the names of nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens, width = int(x.shape[1]), int(x.shape[2])
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (N, T, D) -> (N, T, 3 D)
        qkv = qkv.reshape(-1, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv[0], qkv[1], qkv[2]  # (N, heads, T, d)
        scores = (queries * (width // self.heads) ** -0.5) @ keys.transpose(-2, -1)  # -> (N, heads, T, T)
        out = scores.softmax(-1) @ values  # -> (N, heads, T, d)
        mixed: Tensor = self.out_proj(out.transpose(1, 2).reshape(-1, tokens, width))
        return mixed


class Block(nn.Module):
    """Attention between the tokens, then a perceptron on each (equations 2 and 3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=EPS)
        self.self_attention = SelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=EPS)
        # torchvision's dropout has probability 0; its place keeps the numbering.
        expand, project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(expand, nn.GELU(), nn.Identity(), project)
        for linear in (expand, project):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.normal_(linear.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attention(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Encoder(nn.Module):
    """Positions, blocks, normalization (equations 1 to 4, figure 1)."""

    def __init__(self, width: int, depth: int, heads: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.pos_embedding = nn.Parameter(torch.empty(1, 1 + side * side, width).normal_(std=0.02))
        self.layers = nn.Sequential()
        for index in range(depth):
            self.layers.add_module(f"encoder_layer_{index}", Block(width, heads))
        self.ln = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        out: Tensor = self.ln(self.layers(x + self.positions(rows, columns)))
        return out

    def positions(self, rows: int, columns: int) -> Tensor:
        """The embedding of the class token and of a grid of patches; another grid is interpolated (section 3.2)."""
        if (rows, columns) == (self.side, self.side):
            return self.pos_embedding
        first, grid = self.pos_embedding[:, :1], self.pos_embedding[:, 1:]
        grid = grid.transpose(1, 2).reshape(1, -1, self.side, self.side)  # (1, T, D) -> (1, D, side, side)
        grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        grid = grid.reshape(1, -1, rows * columns).transpose(1, 2)  # -> (1, rows columns, D)
        return torch.cat((first, grid), dim=1)


class Variant(NamedTuple):
    patch: int
    depth: int
    heads: int
    width: int
    parameters: int


class VisionTransformer(Network):
    stem_layer = "conv_proj"
    head_layers = ("heads.head",)

    def __init__(self, variant: Variant, classes: int, in_channels: int) -> None:
        super().__init__()
        self.patch = self.smallest = self.multiple = variant.patch
        width = variant.width
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(in_channels, width, self.patch, stride=self.patch)
        self.encoder = Encoder(width, variant.depth, variant.heads, SIZE // self.patch)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(width, classes))
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / self.conv_proj.weight[0].numel()))
        for zero in (self.conv_proj.bias, *self.heads.parameters()):
            if zero is not None:
                nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        self.check_size(x)
        rows, columns = int(x.shape[2]) // self.patch, int(x.shape[3]) // self.patch
        x = self.conv_proj(x)  # (N, C, H, W) -> (N, D, rows, columns)
        x = x.reshape(-1, self.class_token.shape[2], rows * columns).transpose(1, 2)  # -> (N, rows columns, D)
        # The class token before the patches -> (N, 1 + rows columns, D); for ONNX plainer than expanding it to a batch.
        x = F.pad(x, (0, 0, 1, 0)) + F.pad(self.class_token, (0, 0, 0, rows * columns))
        x = self.encoder(x, rows, columns)
        logits: Tensor = self.heads(x[:, 0])  # the class token (N, D) -> (N, classes)
        return logits


# Table 1.
VARIANTS = {
    "vit_tiny": Variant(patch=16, depth=12, heads=3, width=192, parameters=5_717_416),
    "vit_small": Variant(16, 12, 6, 384, 22_050_664),
    "vit_b_16": Variant(16, 12, 12, 768, 86_567_656),
    "vit_b_32": Variant(32, 12, 12, 768, 88_224_232),
    "vit_l_16": Variant(16, 24, 16, 1024, 304_326_632),
}

MODELS = tuple(
    Model(
        ModelSpec(
            name=name,
            family="vit",
            size=(SIZE, SIZE),
            parameters=variant.parameters,
            paper="arXiv:2010.11929",
            weights=sources(name),
        ),
        partial(VisionTransformer, variant),
    )
    for name, variant in VARIANTS.items()
)
