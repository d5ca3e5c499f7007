"""The weights that are validated and kept: their moving average, and batch-norm statistics that fit it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgecv.train.evaluate import normalize
from edgecv_runtime.preprocess import Normalization

# Values of each channel that give a batch norm its statistics: those that 64 images of 224 pixels leave in the deepest
# map of a network of stride 32, the batch that the field's networks were trained with. Large pictures reach it with few
# images; more would cost a large share of a short training and change nothing.
_ENOUGH = 64 * 7 * 7
_PIXELS = 64 * 224 * 224  # at most, of the images that go through the network at once


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float, steps: int) -> None:
    """Move an exponential average of parameters and buffers towards a model.

    decay: share of the old average, once warm; steps: steps taken before this one. The decay starts at 0.1 and rises as
    (1 + steps) / (10 + steps), as in TensorFlow's ExponentialMovingAverage: the first weights are soon forgotten.
    """
    share = 1 - min(decay, (1 + steps) / (10 + steps))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, share)
        else:
            kept.copy_(new)


@torch.no_grad()
def estimate_statistics(
    model: nn.Module,
    images: NDArray[np.uint8],
    normalization: Normalization,
    *,
    batch: int | None = None,
    between: Callable[[], None] | None = None,
) -> None:
    """Set a model's batch-norm statistics to their mean over some images, everything else in evaluation mode.

    images: (N, H, W, C) uint8, preprocessed; as many are used as give every norm enough values, in whole batches.
    batch: images at once; None: 64, fewer of those that are larger than 224x224.
    between: called before each batch, may raise.
    Source: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021, section 3.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return
    batch = batch or int(np.clip(_PIXELS // (images.shape[1] * images.shape[2]), 2, 64))
    device = next(model.parameters()).device
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    seen: dict[nn.Module, int] = dict.fromkeys(norms, 0)
    hooks = [norm.register_forward_pre_hook(lambda norm, inputs: _count(seen, norm, inputs)) for norm in norms]
    try:
        for start in range(0, max(1, len(images) - batch + 1), batch):  # whole batches, so that all weigh the same
            if between is not None:
                between()
            chunk = torch.from_numpy(np.array(images[start : start + batch]))
            model(normalize(chunk.to(device), normalization))
            if min(filter(None, seen.values()), default=0) >= _ENOUGH:  # auxiliary heads see none
                break
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)


def _count(seen: dict[nn.Module, int], norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Add the values of each channel that a norm is about to see."""
    seen[norm] += inputs[0].numel() // inputs[0].shape[1]
