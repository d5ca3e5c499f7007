"""The first batches of a training as the network saw them: what augmentation and normalization did is looked at."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from edgecv.train.checkpoint import storing
from edgecv_runtime import files
from edgecv_runtime.preprocess import Image, Normalization

BATCHES, TILES = 2, 16
_GAP = 2  # pixels between tiles


def keep(folder: Path, batch: int, pixels: Tensor, normalization: Normalization, color: str) -> None:
    """Write what went into the network as `batch-1.png`, `batch-2.png`, ...

    batch: counted from 0. pixels: (N, C, H, W), normalized; color: the order of their channels, "RGB", "BGR" or "GRAY".
    """
    import cv2

    shown = mosaic(pixels, normalization)
    _, data = cv2.imencode(".png", np.ascontiguousarray(shown[:, :, ::-1] if color == "RGB" else shown))
    path = folder / f"batch-{batch + 1}.png"
    with storing(path):
        files.write(path, np.asarray(data).tobytes())


def mosaic(pixels: Tensor, normalization: Normalization) -> Image:
    """The first images of a batch side by side, not normalized: (N, C, H, W) -> (rows, columns, C) uint8."""
    count, channels, height, width = min(len(pixels), TILES), *pixels.shape[1:]
    plain = pixels[:count].float().cpu().permute(0, 2, 3, 1).numpy()  # (n, H, W, C)
    plain = plain * np.array(normalization.std, np.float32) + np.array(normalization.mean, np.float32)
    tiles = np.rint(255 * plain.clip(0, 1)).astype(np.uint8)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + _GAP), index % columns * (width + _GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet
