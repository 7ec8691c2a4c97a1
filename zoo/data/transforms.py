"""Transforms: augmentation of single uint8 images, and normalisation of batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.backbone import Preprocess
from zoo.data.prepare import Prepare
from zoo.machine.device import place_images

if TYPE_CHECKING:
    from torchvision.transforms import InterpolationMode, v2

Augment = Literal["none", "light", "strong", "rand-augment", "auto-augment"]

#: Fraction of the image area that the smallest random crop keeps.
SMALLEST_CROP: dict[Augment, float] = {
    "light": 0.25,
    "strong": 0.2,
    "rand-augment": 0.2,
    "auto-augment": 0.2,
}

#: Default probability of random erasing; 0 for the others.
ERASING: dict[Augment, float] = {"strong": 0.1}

#: The same for data in which smaller crops would cut off the subject.
MILD_CROP = 0.6

#: Probability of a horizontal flip.
_MIRRORED = 0.5


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Transform of an image to pixels (H, W, C) uint8: a deterministic and a random step.

    Attributes:
        prepare: Deterministic resizing and cropping of an image.
        augment: Random augmentation of the prepared image, drawing from torch's global generator;
            None without augmentation.
        about: Everything that determines `augment`, as JSON-ready data; None without it.
    """

    prepare: Prepare
    augment: Callable[[np.ndarray], np.ndarray] | None = None
    about: list[Any] | None = None


def eval_transform(preprocess: Preprocess) -> Transform:
    """Return the transform that the backbone was validated with."""
    return Transform(prepare=Prepare(preprocess=preprocess))


def mirrored_transform(preprocess: Preprocess) -> Transform:
    """Return the validation transform followed by a horizontal flip."""
    return Transform(prepare=Prepare(preprocess=preprocess), augment=_mirrored, about=["mirrored"])


def _mirrored(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


def train_transform(
    preprocess: Preprocess,
    augment: Augment,
    hflip: bool,
    crop_scale: float | None = None,
    random_erasing: float | None = None,
) -> Transform:
    """Return the training transform.

    Args:
        preprocess: Input size, interpolation and normalisation.
        augment: `none`: as `eval_transform`; `light`: a random crop, resized (Szegedy et al.,
            2015); `strong`: also TrivialAugment (Müller and Hutter, 2021); `rand-augment`: also
            RandAugment (Cubuk et al., 2020), 2 operations of magnitude 9 of 31; `auto-augment`:
            also AutoAugment's policy for ImageNet (Cubuk et al., 2019).
        hflip: Flip horizontally with probability 0.5 (not for `none`).
        crop_scale: Fraction (0..1] of the image area that the smallest crop keeps; default:
            `SMALLEST_CROP`.
        random_erasing: Probability (0..1) of random erasing (Zhong et al., 2020) with the mean
            colour, which normalises to 0 up to rounding; default: `ERASING`.
    """
    if augment == "none":
        return eval_transform(preprocess)
    from torchvision.transforms import InterpolationMode, v2

    smallest = SMALLEST_CROP[augment] if crop_scale is None else crop_scale
    erasing = ERASING.get(augment, 0.0) if random_erasing is None else random_erasing
    policies: dict[str, Callable[[], Any]] = {
        "strong": v2.TrivialAugmentWide,
        "rand-augment": v2.RandAugment,
        "auto-augment": v2.AutoAugment,
    }
    steps: list[Callable[..., Any]] = []
    if augment in policies:
        # TrivialAugment is four times as fast on Pillow's images as on tensors.
        steps = [v2.ToPILImage(), policies[augment](), v2.PILToTensor()]
    if erasing:
        colour = tuple(round(255 * m) for m in preprocess.mean)
        steps += [v2.RandomErasing(p=erasing, value=colour)]
    return Transform(
        prepare=Prepare(preprocess=preprocess, smallest_crop=smallest),
        augment=RandomView(
            box=v2.RandomResizedCrop(preprocess.height_width, scale=(smallest, 1.0)),
            hflip=hflip,
            interpolation=InterpolationMode(preprocess.interpolation),
            steps=tuple(steps),
        ),
        about=[augment, hflip, smallest, erasing],
    )


def to_input(images: Tensor, preprocess: Preprocess, device: torch.device) -> Tensor:
    """Convert a batch of pixels to model input: move to the device, scale to 0..1, normalise.

    Args:
        images: (N, C, H, W) uint8, moved as such: a quarter of the bytes of float32; or float32
            from 0 to 255. They are not changed.
        preprocess: Mean and std.
        device: Device of the model.

    Returns:
        (N, C, H, W) float32 in the memory format of `zoo.machine.device.place`; the values are
        those of v2.ToDtype(scale=True) and v2.Normalize.
    """
    count, channels, height, width = images.shape
    # With mean and std repeated along a row, each step is one pass over channels-last memory,
    # where v2.Normalize takes four times as long.
    rows = images.to(device, non_blocking=True).permute(0, 2, 3, 1).reshape(count, height, -1)
    mean, std = (
        torch.tensor(values).repeat(width).to(device, non_blocking=True)
        for values in (preprocess.mean, preprocess.std)
    )
    rows = rows.to(torch.float32, copy=True).mul_(1 / 255).sub_(mean).div_(std)
    return place_images(rows.view(count, height, width, channels).permute(0, 3, 1, 2), device)


@dataclass(frozen=True, kw_only=True)
class RandomView:
    """Augmentation: random resized crop, optional horizontal flip, further steps."""

    box: v2.RandomResizedCrop
    hflip: bool
    interpolation: InterpolationMode
    steps: tuple[Callable[..., Any], ...]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Augment a decoded image, (H, W, C) uint8 to (H, W, C) uint8."""
        from torchvision.transforms import v2

        height, width, channels = image.shape
        # An expanded tensor takes no memory; the crop depends on the image size alone.
        box = self.box.make_params([torch.empty(1).expand(channels, height, width)])
        top, left = box["top"], box["left"]
        mirrored = self.hflip and bool(torch.rand(1) < _MIRRORED)
        cropped = image[top : top + box["height"], left : left + box["width"]]
        pixels = v2.functional.resize(
            # torch's fast uint8 kernel needs contiguous channels-last memory.
            torch.from_numpy(cropped.copy()).permute(2, 0, 1),
            self.box.size,
            self.interpolation,
        )
        if mirrored:
            pixels = v2.functional.horizontal_flip(pixels)
        for step in self.steps:
            pixels = step(pixels)
        view: np.ndarray = pixels.permute(1, 2, 0).numpy()
        return view
