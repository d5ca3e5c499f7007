"""Vary training images on tensors, by kornia; on the GPU too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecv.recipe_train import Augment
from edgecv_runtime.errors import Unavailable
from edgecv_runtime.preprocess import Preprocess

_GROUP = 16  # RandAugment draws its operations once a group: kornia would draw them once a batch


def augmentation(config: Augment, size: tuple[int, int]) -> nn.Module:
    """The augmentations of a config, one after the other: (N, C, H, W) of 0..1 -> (N, C, *size) of 0..1.

    Randomness is drawn from torch's global generator.
    """
    try:
        from kornia import augmentation as kornia
        from kornia.augmentation.auto import RandAugment
    except ImportError as exc:
        raise Unavailable("training needs kornia", extra="train") from exc

    steps: list[nn.Module] = []
    if config.pad:
        steps.append(kornia.RandomCrop(size, padding=config.pad))
    if config.scale:
        steps.append(kornia.RandomResizedCrop(size, scale=config.scale))
    if config.flip:
        steps.append(kornia.RandomHorizontalFlip())
    if config.rotate or config.shift or config.zoom:
        shift = (config.shift, config.shift) if config.shift else None
        zoom = (1 - config.zoom, 1 + config.zoom) if config.zoom else None
        steps.append(kornia.RandomAffine(config.rotate, translate=shift, scale=zoom, p=1.0))
    if config.randaugment:
        steps.append(_InGroups(RandAugment(n=config.randaugment, m=config.magnitude)))
    if config.color:
        steps.append(Color(config.color))
    return nn.Sequential(*steps, _Clamp())


def training_view(preprocess: Preprocess, config: Augment) -> Preprocess:
    """How training images are preprocessed: larger by 8/7 where random crops will be cut from them."""
    if not config.scale:
        return preprocess
    height, width = (round(side * 256 / 224) for side in preprocess.size)
    return Preprocess(
        size=(height, width),
        mode=preprocess.mode,
        resize=min(height, width) if preprocess.mode == "crop" else None,
        interpolation=preprocess.interpolation,
        color=preprocess.color,
        fill=preprocess.fill,
    )


def mixed(pixels: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Blend each image and its target with another of the batch (mixup, Zhang et al. 2018).

    pixels: (N, C, H, W); targets: (N, classes) probabilities; one blend a batch, drawn from Beta(alpha, alpha).
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    other = torch.randperm(len(pixels)).to(pixels.device)
    return torch.lerp(pixels[other], pixels, share), torch.lerp(targets[other], targets, share)


class Color(nn.Module):
    """Vary brightness, contrast and saturation of each picture, in this order and each by a factor of 1 - most to
    1 + most; (N, 1 or 3, H, W) of 0..1, which they stay. Places do not change.
    """

    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, pixels: Tensor) -> Tensor:
        if not self.most:
            return pixels
        drawn = 1 + self.most * torch.empty(3, len(pixels), 1, 1, 1).uniform_(-1, 1)
        brightness, contrast, saturation = drawn.to(pixels.device)
        pixels = (pixels * brightness).clamp(0, 1)
        middle = pixels.mean((1, 2, 3), keepdim=True)
        pixels = torch.lerp(middle, pixels, contrast).clamp(0, 1)
        return torch.lerp(pixels.mean(1, keepdim=True), pixels, saturation).clamp(0, 1)


class _InGroups(nn.Module):
    """Applies a module to a few images at a time, and to grey ones as if they were coloured."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixels: Tensor) -> Tensor:
        coloured = pixels.expand(-1, 3, -1, -1)  # (N, 1 or 3, H, W) -> (N, 3, H, W)
        varied = torch.cat([self.inner(group) for group in torch.split(coloured, _GROUP)])
        return varied[:, : pixels.shape[1]]


class _Clamp(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.clamp(0, 1)
