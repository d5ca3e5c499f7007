"""Evaluate exactly as the device does: preprocessed uint8 images in, float32 logits out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgecv_runtime.errors import ShapeError
from edgecv_runtime.preprocess import Normalization


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
    batch: int = 256,
    between: Callable[[], None] | None = None,
) -> NDArray[np.float32]:
    """Compute a model's logits in evaluation mode and float32 -> (N, classes) float32.

    images: (N, H, W, C) uint8, preprocessed; batch: images at a time; between: called before each batch, may raise.
    The model keeps its device and its mode. Raises ShapeError for another dtype, rank or number of channels.
    """
    check_images(images, normalization)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    was_training = model.training
    model.eval()
    logits: list[Tensor] = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                if between is not None:
                    between()
                chunk = torch.from_numpy(np.array(images[start : start + batch]))  # a copy: memory maps are read-only
                logits.append(model(normalize(chunk.to(device), normalization)).float().cpu())
    finally:
        model.train(was_training)
    result: NDArray[np.float32] = torch.cat(logits).numpy()
    return result


def check_images(images: NDArray[np.uint8], normalization: Normalization) -> None:
    """Raise ShapeError for what is not a preprocessed batch with the normalization's number of channels."""
    channels = len(normalization.mean)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != channels or not len(images):
        raise ShapeError(
            f"images wants (N, H, W, {channels}) uint8, got {images.shape} {images.dtype}; "
            "use Preprocess.batch or data.cached"
        )
