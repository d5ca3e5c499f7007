"""The optimizer and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from edgecv.recipe_train import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig, device: torch.device) -> Optimizer:
    """AdamW or SGD with Nesterov momentum; weight decay on matrices and kernels, not on norms, biases or scales."""
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    groups = [
        {"params": [tensor for tensor in trained if tensor.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [tensor for tensor in trained if tensor.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")  # one kernel for all tensors
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, fused=fused)
    return SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0 over the whole run: linear warm-up, then half a cosine to 0."""
    warm = round(config.warmup * steps_per_epoch)
    if step < warm:
        return config.lr * (step + 1) / warm
    rest = config.epochs * steps_per_epoch - warm
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / rest))


def steps_per_epoch(images: int, batch: int) -> int:
    """How many steps deal out all images evenly, at most `batch` to each.

    There is no odd rest: with batch 64, 130 images are 44 + 43 + 43. Where a step would be left with one image, which
    batch norms cannot use, one step fewer is taken.
    """
    steps = -(-images // batch)
    return steps - 1 if batch > 1 and steps > 1 and images // steps == 1 else steps
