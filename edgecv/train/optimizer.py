"""The optimizer and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from edgecv.train.config import TrainConfig


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
    warm = round(config.warmup_epochs * steps_per_epoch)
    if step < warm:
        return config.lr * (step + 1) / warm
    rest = config.epochs * steps_per_epoch - warm
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / rest))
