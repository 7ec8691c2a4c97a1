"""Transforms: augmentation of single uint8 images, and normalisation of batches."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.backbone import Preprocess
from zoo.data.prepare import Prepare
from zoo.errors import DataError
from zoo.io.text import clip
from zoo.machine.device import place_images

if TYPE_CHECKING:
    from torchvision.transforms import InterpolationMode, v2

Augment = Literal["none", "light", "strong", "rand-augment", "auto-augment"]

#: A custom transform: pixels (C, H, W) uint8 to pixels of the same shape and type, such as one of
#: torchvision's. Random draws are from torch's global generator.
PixelTransform = Callable[[Tensor], Tensor]

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


def followed_by(transform: Transform, step: PixelTransform, name: str) -> Transform:
    """Return the transform with a custom step after its own.

    Args:
        transform: The transform.
        step: Custom transform of pixels.
        name: Name of `step`. What is computed of its views is cached for this process only, since
            its code may change while its name does not.
    """
    return replace(
        transform,
        augment=_Followed(before=transform.augment, step=step, name=name),
        about=[transform.about, name, uuid.uuid4().hex],
    )


@dataclass(frozen=True, kw_only=True)
class _Followed:
    """Augmentation by a custom step, after zoo's own."""

    before: Callable[[np.ndarray], np.ndarray] | None
    step: PixelTransform
    name: str

    def __call__(self, image: np.ndarray) -> np.ndarray:
        pixels = image if self.before is None else self.before(image)
        given = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        found: object = self.step(given)
        if not isinstance(found, Tensor) or (found.shape, found.dtype) != (
            given.shape,
            torch.uint8,
        ):
            what = f"{tuple(found.shape)} {found.dtype}" if isinstance(found, Tensor) else found
            raise DataError(
                f"the transform {self.name} gave {clip(str(what))}, not a tensor of "
                f"{tuple(given.shape)} torch.uint8",
                hint="let it keep size and type of the image",
            )
        view: np.ndarray = found.permute(1, 2, 0).numpy()
        return view


def albumentations(transform: Callable[..., Mapping[str, Any]]) -> PixelTransform:
    """Adapt a transform of albumentations, such as a `Compose`, for `zoo.finetune(transform=...)`.

    Each call seeds it from torch's global generator, so that a view of an image depends on the
    run's seed, the epoch and the image alone.

    Args:
        transform: Called with `image=`, (H, W, C) uint8; gives a mapping with `image`, of the same
            size and type. Its `set_random_seed` is called, if it has one.
    """
    return _Albumentations(transform)


@dataclass(frozen=True)
class _Albumentations:
    """A transform of albumentations, as one of pixels (C, H, W)."""

    transform: Callable[..., Mapping[str, Any]]

    def __call__(self, pixels: Tensor) -> Tensor:
        seed = int(torch.randint(2**31, ()))
        if (reseed := getattr(self.transform, "set_random_seed", None)) is not None:
            reseed(seed)
        image = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
        found = np.ascontiguousarray(self.transform(image=image)["image"])
        return torch.from_numpy(found).permute(2, 0, 1)


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
