"""How pictures are moved in training, as one affine map a picture: what is drawn on them follows exactly.

Coordinates are continuous, as in edgecv_runtime.geometry: the pixel of column i covers i to i + 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecv.recipe_train import Augment

_SQUEEZE = 4 / 3  # how far a crop's width to height may differ from the picture's, either way


def draw(config: Augment, count: int, given: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Where each point of the new pictures lies in the given ones -> (count, 2, 3) of pixels, rows x and y.

    given, size: (height, width) of the pictures before and after. Randomness is drawn from torch's global generator,
    for what is asked for alone; nothing asked for scales the whole picture to the new size.
    """
    height, width = given
    high, wide = torch.full((count,), float(height)), torch.full((count,), float(width))
    if config.scale is not None:
        area = torch.empty(count).uniform_(*config.scale)
        squeeze = torch.empty(count).uniform_(-math.log(_SQUEEZE), math.log(_SQUEEZE)).exp().sqrt()
        high, wide = (
            (height * area.sqrt() / squeeze).clamp(max=height),
            (width * area.sqrt() * squeeze).clamp(max=width),
        )
    left, top = (width - wide) / 2, (height - high) / 2
    if config.scale is not None:
        left, top = 2 * left * torch.rand(count), 2 * top * torch.rand(count)
    if config.pad:
        left = left + torch.randint(-config.pad, config.pad + 1, (count,))
        top = top + torch.randint(-config.pad, config.pad + 1, (count,))
    # From the outside in: the crop's window, then what turns the picture around its middle.
    found = _matrix(wide / size[1], 0, left, 0, high / size[0], top)
    if config.flip:
        flipped = torch.rand(count) < 0.5
        found = found @ _matrix(torch.where(flipped, -1.0, 1.0), 0, torch.where(flipped, float(size[1]), 0.0), 0, 1, 0)
    if config.rotate or config.shift or config.zoom:
        found = found @ _turned(config, count, size)
    return found[:, :2]


def warp(pictures: Tensor, moves: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Pictures (N, C, H, W) moved -> (N, C, *size); what lies outside of them is 0.

    moves: as `draw` gives them. mode: "bilinear", or "nearest" for what must not be mixed.
    """
    height, width = pictures.shape[-2:]
    # Normalized coordinates reach from -1 to 1 over a picture.
    inner = torch.tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]])
    outer = torch.tensor([[size[1] / 2, 0, size[1] / 2], [0, size[0] / 2, size[0] / 2], [0, 0, 1]])
    whole = torch.cat([moves, torch.tensor([0.0, 0.0, 1.0]).expand(len(moves), 1, 3)], 1)
    theta = (inner @ whole @ outer)[:, :2].to(pictures.device)
    grid = F.affine_grid(theta, [len(pictures), 1, *size], align_corners=False)
    return F.grid_sample(pictures, grid, mode=mode, padding_mode="zeros", align_corners=False)


def is_still(config: Augment) -> bool:
    """Whether nothing of a config moves a picture."""
    return not (config.pad or config.scale or config.flip or config.rotate or config.shift or config.zoom)


def _turned(config: Augment, count: int, size: tuple[int, int]) -> Tensor:
    """A turn, a change of size and a shift around the middle, each back from the new picture to the old."""
    height, width = size
    angle = torch.empty(count).uniform_(-1, 1) * math.radians(config.rotate)
    zoom = 1 + torch.empty(count).uniform_(-1, 1) * config.zoom
    across, down = (torch.empty(count).uniform_(-1, 1) * config.shift * side for side in (width, height))
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    middle = _matrix(1, 0, torch.full((count,), width / 2), 0, 1, height / 2)
    back = _matrix(1, 0, -width / 2 - across, 0, 1, -height / 2 - down)
    return middle @ _matrix(cos, -sin, 0, sin, cos, 0) @ back


def _matrix(*entries: Tensor | float) -> Tensor:
    """Six entries, of one picture or of all -> (count, 3, 3)."""
    count = max(len(entry) for entry in entries if isinstance(entry, Tensor))
    columns = [torch.as_tensor(entry, dtype=torch.float32).expand(count) for entry in (*entries, 0, 0, 1)]
    return torch.stack(columns, 1).view(count, 3, 3)
