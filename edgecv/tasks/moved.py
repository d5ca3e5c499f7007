"""Vary pictures with boxes: mosaic, mirror, zoom and shift; a box goes where its pixels go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from edgecv.recipe_train import Augment

_FILL = 0.447  # grey where no picture lies: 114 / 255, the field's habit
_SEEN = 0.1  # share of a box that must still be seen
_LEAST = 2.0  # pixels of its sides


class Labelled(NamedTuple):
    """The known boxes of one picture, (n, 4) x1, y1, x2, y2 in pixels, and their classes (n,)."""

    boxes: Tensor
    kinds: Tensor


def moved(pixels: Tensor, known: Sequence[Labelled], config: Augment) -> tuple[Tensor, list[Labelled]]:
    """Vary a batch (N, C, H, W) of 0..1 and the boxes of each picture; the size stays.

    A share `config.mosaic` of the pictures becomes a part of four of the batch, side by side, seen smaller. Boxes of
    which less than a tenth is left are dropped. Randomness is drawn from torch's global generator.
    """
    height, width = pixels.shape[2:]
    mirrored = torch.rand(len(pixels)) < (0.5 if config.flip else 0.0)
    pixels = torch.where(mirrored.to(pixels.device)[:, None, None, None], pixels.flip(3), pixels)
    known = [_mirrored(each, width) if flip else each for each, flip in zip(known, mirrored.tolist(), strict=True)]
    if not (config.mosaic or config.zoom or config.shift):
        return pixels, list(known)
    made, left = [], []
    for index in range(len(pixels)):
        if float(torch.rand(())) < config.mosaic:
            others = torch.randint(len(pixels), (3,)).tolist()
            canvas, boxes = _tiled(pixels, known, [index, *others])
            scale = float(torch.empty(()).uniform_(0.5, 1.0))  # at 0.5 all four are seen whole
            start = [float(torch.rand(())) * side * (2 - 1 / scale) for side in (width, height)]
        else:
            canvas, boxes = pixels[index], known[index]
            scale = 1 + config.zoom * float(torch.empty(()).uniform_(-1, 1))
            shifts = [config.shift * float(torch.empty(()).uniform_(-1, 1)) for _ in range(2)]
            start = [
                side * (1 - 1 / scale) / 2 - shift * side / scale
                for side, shift in zip((width, height), shifts, strict=True)
            ]
        made.append(window(canvas, scale, start[0], start[1], (height, width)))
        left.append(_seen(boxes, scale, start, (height, width)))
    return torch.stack(made), left


def window(canvas: Tensor, scale: float, left: float, top: float, size: tuple[int, int]) -> Tensor:
    """A part of a picture (C, H, W), from (left, top) in its pixels on, enlarged by `scale` -> (C, *size)."""
    height, width = canvas.shape[1:]
    # What affine_grid wants: from -1..1 of the output to -1..1 of the canvas.
    across, down = size[1] / scale / width, size[0] / scale / height
    theta = canvas.new_tensor([[across, 0, across - 1 + 2 * left / width], [0, down, down - 1 + 2 * top / height]])
    grid = F.affine_grid(theta[None], [1, len(canvas), *size], align_corners=False)
    return F.grid_sample(canvas[None] - _FILL, grid, align_corners=False)[0] + _FILL


def _tiled(pixels: Tensor, known: Sequence[Labelled], four: list[int]) -> tuple[Tensor, Labelled]:
    """Four pictures of a batch side by side, twice two, with all their boxes."""
    height, width = pixels.shape[2:]
    rows = [torch.cat([pixels[four[row]], pixels[four[row + 1]]], 2) for row in (0, 2)]
    corners = ((0, 0), (width, 0), (0, height), (width, height))
    boxes = [
        known[index].boxes + known[index].boxes.new_tensor(corner * 2)
        for index, corner in zip(four, corners, strict=True)
    ]
    return torch.cat(rows, 1), Labelled(torch.cat(boxes), torch.cat([known[index].kinds for index in four]))


def _mirrored(known: Labelled, width: int) -> Labelled:
    left, top, right, bottom = known.boxes.unbind(1)
    return known._replace(boxes=torch.stack([width - right, top, width - left, bottom], 1))


def _seen(known: Labelled, scale: float, start: Sequence[float], size: tuple[int, int]) -> Labelled:
    """The boxes of a part of a picture, cut off at its edge, without those of which hardly anything is left."""
    whole = (known.boxes - known.boxes.new_tensor([*start, *start])) * scale
    edge = whole.new_tensor([size[1], size[0], size[1], size[0]])
    cut = torch.minimum(whole.clamp(min=0), edge)
    sides = cut[:, 2:] - cut[:, :2]
    share = sides.prod(1) / (whole[:, 2:] - whole[:, :2]).prod(1).clamp(min=1e-6)
    kept = (share >= _SEEN) & (sides >= _LEAST).all(1)
    return Labelled(cut[kept], known.kinds[kept])
