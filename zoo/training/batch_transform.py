"""Batch transforms, which mix the images of a batch and their targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.recipe import Recipe

#: Maps (images (N, C, H, W) uint8, targets (N, ...), seed) to (images (N, C, H, W) float32 from 0
#: to 255, targets (N, classes) float32).
BatchTransform = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def batch_transform(recipe: Recipe, num_classes: int) -> BatchTransform | None:
    """Create mixup (Zhang et al., 2018), CutMix (Yun et al., 2019) or one of both for each batch.

    Args:
        recipe: Its `mixup` and `cutmix` are the alphas; 0 turns the transform off.
        num_classes: Width of the targets.

    Returns:
        The transform; None if both are off.
    """
    from torchvision.transforms import v2

    wanted = ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
    chosen = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in wanted if alpha]
    if not chosen:
        return None
    mix = v2.RandomChoice(chosen)

    def transform(images: Tensor, targets: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        mixed, soft = mix(images.to(torch.float32), targets)
        return mixed, soft

    return transform
