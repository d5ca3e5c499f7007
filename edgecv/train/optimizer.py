"""The optimizer and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from edgecv.recipe_train import TrainConfig
from edgecv_runtime.errors import BadInput

_BACKBONE = "backbone."  # what the names of a backbone's parameters begin with


def make_optimizer(model: nn.Module, config: TrainConfig, device: torch.device) -> Optimizer:
    """AdamW or SGD with Nesterov momentum; weight decay on matrices and kernels, not on norms, biases or scales.

    A group's "share" is that of the learning rate which is its own: `config.backbone_lr` for the backbone. Raises
    BadInput where a share is asked for and there is no backbone.
    """
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    body = {name for name in trained if config.backbone_lr != 1 and name.startswith(_BACKBONE)}
    if config.backbone_lr != 1 and not body:
        raise BadInput(
            f"train.backbone_lr={config.backbone_lr:g}, and {type(model).__name__} has no backbone: leave it out"
        )
    groups = []
    for share, names in ((1.0, trained.keys() - body), (config.backbone_lr, body)):
        for decay, is_matrix in ((config.weight_decay, True), (0.0, False)):
            params = [trained[name] for name in trained if name in names and (trained[name].ndim > 1) is is_matrix]
            groups += [{"params": params, "weight_decay": decay, "share": share}] if params or share == 1 else []
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
