"""Evaluate exactly as the device does: preprocessed uint8 images in, float32 outputs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecv_runtime.errors import ShapeError
from edgecv_runtime.preprocess import Normalization

# At a time, of all pictures: a network's first layers have tens of values for each, and more are no faster.
_PIXELS = 1 << 20


def normalize(images: Tensor, normalization: Normalization) -> Tensor:
    """(N, H, W, C) uint8 -> (N, C, H, W) float32, normalized: what the exported graph does first."""
    return standardize(images.permute(0, 3, 1, 2).float() / 255, normalization)


def standardize(pixels: Tensor, normalization: Normalization) -> Tensor:
    """(N, C, H, W) float32 of 0..1 -> the same minus the mean, over the standard deviation."""
    mean = torch.tensor(normalization.mean, device=pixels.device).view(-1, 1, 1)
    std = torch.tensor(normalization.std, device=pixels.device).view(-1, 1, 1)
    return (pixels - mean) / std


def evaluate(
    model: nn.Module,
    images: NDArray[np.uint8],
    normalization: Normalization,
    *,
    batch: int | None = None,
    between: Callable[[], None] | None = None,
) -> NDArray[np.float32]:
    """Compute a model's output in evaluation mode and float32 -> (N, ...), of a classifier (N, classes).

    images: (N, H, W, C) uint8, preprocessed; batch: images at a time, `at_once` by default; between:
    called before each batch, may raise. The model keeps its device and its mode. Raises ShapeError for another dtype,
    rank or number of channels.
    """
    found = [output.float().cpu() for _, output in batches(model, images, normalization, batch=batch, between=between)]
    result: NDArray[np.float32] = torch.cat(found).numpy()
    return result


def batches(
    model: nn.Module,
    images: NDArray[np.uint8],
    normalization: Normalization,
    *,
    batch: int | None = None,
    between: Callable[[], None] | None = None,
) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """What a model gives in evaluation mode, batch by batch, with the positions of its images; else as `evaluate`."""
    check_images(images, normalization)
    batch = batch or at_once(images)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.eval()
    try:
        for positions in np.array_split(np.arange(len(images)), range(batch, len(images), batch)):
            if between is not None:
                between()
            chunk = torch.from_numpy(images[positions])  # a copy: memory maps are read-only
            with torch.inference_mode():
                outputs = model(normalize(chunk.to(device), normalization))
            yield positions, outputs
    finally:
        model.train(was_training)


def at_once(images: NDArray[np.uint8]) -> int:
    """How many images (N, H, W, C) go through a network at a time where it learns nothing: 256, fewer large ones."""
    return int(np.clip(_PIXELS // (images.shape[1] * images.shape[2]), 1, 256))


def check_images(images: NDArray[np.uint8], normalization: Normalization) -> None:
    """Raise ShapeError for what is not a preprocessed batch with the normalization's number of channels."""
    channels = len(normalization.mean)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != channels or not len(images):
        raise ShapeError(
            f"images wants (N, H, W, {channels}) uint8, got {images.shape} {images.dtype}; "
            "use Preprocess.batch or data.cached"
        )
