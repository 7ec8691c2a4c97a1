"""Base to input: augmentation of uint8 pixels, an image at a time; normalisation, a batch."""

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

Augment = Literal["none", "light", "strong"]

#: Share of the picture that the smallest random crop keeps.
SMALLEST_CROP: dict[Augment, float] = {"light": 0.25, "strong": 0.2}

#: The same where smaller crops lose what the picture shows.
MILD_CROP = 0.6

#: Share of the pictures that are mirrored.
_MIRRORED = 0.5


@dataclass(frozen=True, kw_only=True)
class Transform:
    """How an image becomes the pixels that a model gets, (H, W, 3) uint8, in two halves.

    Attributes:
        prepare: RGB image to its base; the same each time.
        augment: Base to pixels, with changes drawn from torch's global generator; None where the
            base is what the model gets.
        about: All that decides what `augment` does, as JSON-ready data; None without it.
    """

    prepare: Prepare
    augment: Callable[[np.ndarray], np.ndarray] | None = None
    about: list[Any] | None = None


def eval_transform(preprocess: Preprocess) -> Transform:
    """As the backbone was validated."""
    return Transform(prepare=Prepare(preprocess=preprocess))


def mirrored_transform(preprocess: Preprocess) -> Transform:
    """As the backbone was validated, then mirrored."""
    return Transform(prepare=Prepare(preprocess=preprocess), augment=_mirrored, about=["mirrored"])


def _mirrored(base: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(base[:, ::-1])


def train_transform(
    preprocess: Preprocess, augment: Augment, hflip: bool, crop_scale: float | None = None
) -> Transform:
    """With random changes for training.

    Args:
        preprocess: Size, interpolation and normalisation.
        augment: `none`: as `eval_transform`; `light`: a random crop, resized (Szegedy et al.,
            2015); `strong`: also TrivialAugment (Müller and Hutter, 2021) and random erasing (Zhong
            et al., 2020) with the mean colour, which normalises to 0 but for rounding.
        hflip: Mirror every other picture (not for `none`).
        crop_scale: Share (0..1] of the picture that the smallest crop keeps; default: as
            `SMALLEST_CROP` has it.
    """
    if augment == "none":
        return eval_transform(preprocess)
    from torchvision.transforms import InterpolationMode, v2

    smallest = SMALLEST_CROP[augment] if crop_scale is None else crop_scale
    steps: list[Callable[..., Any]] = []
    if augment == "strong":
        colour = tuple(round(255 * m) for m in preprocess.mean)
        # TrivialAugment is four times as fast on Pillow's images as on tensors.
        steps = [v2.ToPILImage(), v2.TrivialAugmentWide(), v2.PILToTensor()]
        steps += [v2.RandomErasing(p=0.1, value=colour)]
    return Transform(
        prepare=Prepare(preprocess=preprocess, smallest_crop=smallest),
        augment=RandomView(
            box=v2.RandomResizedCrop(preprocess.height_width, scale=(smallest, 1.0)),
            hflip=hflip,
            interpolation=InterpolationMode(preprocess.interpolation),
            steps=tuple(steps),
        ),
        about=[augment, hflip, smallest],
    )


def to_input(images: Tensor, preprocess: Preprocess, device: torch.device) -> Tensor:
    """A batch of pixels as a model's input: moved to the device, scaled to 0..1, normalised.

    Args:
        images: (N, 3, H, W) uint8. Moved as they are, a quarter of the input's bytes.
        preprocess: Mean and std.
        device: Where the model is.

    Returns:
        (N, 3, H, W) float32, laid out as `zoo.machine.device.place` lays out the model; value by
        value what v2.ToDtype(scale=True) and v2.Normalize give.
    """
    count, channels, height, width = images.shape
    # With mean and std repeated along a row, each step is one pass over channels-last memory,
    # where v2.Normalize takes four times as long.
    rows = images.to(device, non_blocking=True).permute(0, 2, 3, 1).reshape(count, height, -1)
    mean, std = (
        torch.tensor(values).repeat(width).to(device, non_blocking=True)
        for values in (preprocess.mean, preprocess.std)
    )
    rows = rows.to(torch.float32).mul_(1 / 255).sub_(mean).div_(std)
    return place_images(rows.view(count, height, width, channels).permute(0, 3, 1, 2), device)


@dataclass(frozen=True, kw_only=True)
class RandomView:
    """A random crop of a base, resized to the input's size, perhaps mirrored, then changed further.

    Attributes:
        box: Draws where to crop, and knows the input's size.
        hflip: Mirror every other picture.
        interpolation: Of the resizing.
        steps: What is changed then, of pixels (3, H, W) uint8.
    """

    box: v2.RandomResizedCrop
    hflip: bool
    interpolation: InterpolationMode
    steps: tuple[Callable[..., Any], ...]

    def __call__(self, base: np.ndarray) -> np.ndarray:
        """The view (H, W, 3) uint8 of a base (H, W, 3) uint8."""
        from torchvision.transforms import v2

        height, width, channels = base.shape
        # An image without memory: where to crop is drawn from its size alone.
        box = self.box.make_params([torch.empty(1).expand(channels, height, width)])
        top, left = box["top"], box["left"]
        mirrored = self.hflip and bool(torch.rand(1) < _MIRRORED)
        cropped = base[top : top + box["height"], left : left + box["width"]]
        pixels = v2.functional.resize(
            # torch's fast kernel for uint8 takes channels-last memory without gaps.
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
