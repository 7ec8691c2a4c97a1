"""Image to input tensor: the backbone's own preprocessing, and augmentation for training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from zoo.backbone import Preprocess

Augment = Literal["none", "light", "strong"]
Transform = Callable[[Image.Image], Tensor]
_Step = Callable[..., Any]


def eval_transform(preprocess: Preprocess) -> Transform:
    """RGB image to a normalised (3, H, W) float32 tensor, as the backbone was validated with."""
    interpolation = InterpolationMode(preprocess.interpolation)
    height, width = preprocess.resize
    if preprocess.crop_mode == "border":
        fit: list[_Step] = [partial(_fit_inside, size=(height, width), preprocess=preprocess)]
    elif preprocess.crop_mode == "squash":
        fit = [v2.Resize([height, width], interpolation)]
    elif height == width:
        fit = [v2.Resize(height, interpolation)]
    else:
        fit = [partial(_cover, size=(height, width), interpolation=preprocess.interpolation)]
    return _compose([*fit, v2.CenterCrop(preprocess.height_width), *_to_input(preprocess)])


def train_transform(preprocess: Preprocess, augment: Augment, hflip: bool) -> Transform:
    """As `eval_transform`, with random changes drawn from torch's global generator.

    Args:
        preprocess: Size, interpolation and normalisation.
        augment: `none`; `light`: a random crop of half to all of the picture, resized (Szegedy et
            al., 2015); `strong`: crops from a fifth on, TrivialAugment (Müller and Hutter, 2021)
            and random erasing (Zhong et al., 2020).
        hflip: Mirror every other picture (not for `none`).
    """
    if augment == "none":
        return eval_transform(preprocess)
    flip: list[_Step] = [v2.RandomHorizontalFlip()] if hflip else []
    interpolation = InterpolationMode(preprocess.interpolation)
    size = preprocess.height_width
    if augment == "light":
        crop = v2.RandomResizedCrop(size, scale=(0.5, 1.0), interpolation=interpolation)
        return _compose([crop, *flip, *_to_input(preprocess)])
    crop = v2.RandomResizedCrop(size, scale=(0.2, 1.0), interpolation=interpolation)
    return _compose(
        [crop, *flip, v2.TrivialAugmentWide(), *_to_input(preprocess), v2.RandomErasing(p=0.1)]
    )


def _compose(steps: list[_Step]) -> Transform:
    composed: Transform = v2.Compose(steps)
    return composed


def _to_input(preprocess: Preprocess) -> list[_Step]:
    return [
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(preprocess.mean), list(preprocess.std)),
    ]


def _cover(image: Image.Image, *, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Resize, aspect ratio kept, to the smallest picture that covers (height, width)."""
    shrink = min(image.height / size[0], image.width / size[1])
    return _resize(image, shrink, interpolation)


def _fit_inside(
    image: Image.Image, *, size: tuple[int, int], preprocess: Preprocess
) -> Image.Image:
    """Resize, aspect ratio kept, to fit inside (height, width); pad to the crop with the mean."""
    shrink = max(image.height / size[0], image.width / size[1])
    image = _resize(image, shrink, preprocess.interpolation)
    height, width = preprocess.height_width
    across, down = max(0, width - image.width), max(0, height - image.height)
    border = (across // 2, down // 2, across - across // 2, down - down // 2)
    return ImageOps.expand(image, border, tuple(round(255 * m) for m in preprocess.mean))


def _resize(image: Image.Image, shrink: float, interpolation: str) -> Image.Image:
    size = (round(image.width / shrink), round(image.height / shrink))
    return image.resize(size, Image.Resampling[interpolation.upper()])
