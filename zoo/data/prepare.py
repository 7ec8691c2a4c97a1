"""Deterministic preprocessing of an image, which is the same in every epoch and can be cached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, functional

from zoo.backbone import Preprocess


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Resizing and cropping of an image to (H, W, C) uint8; deterministic, so cacheable.

    Attributes:
        preprocess: Preprocessing of the backbone.
        smallest_crop: None: resize and center crop to the input size, as in validation. A fraction
            (0..1]: downscale the whole image, never upscale, keeping the aspect ratio, to the
            smallest size at which that fraction of a square has as many pixels as the input.
    """

    preprocess: Preprocess
    smallest_crop: float | None = None

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize and crop an image of the channels in `preprocess`."""
        size = self.cover
        if size is None:
            pixels = np.asarray(_middle(image, self.preprocess))
        else:
            pixels = _reduced(image, size, InterpolationMode(self.preprocess.interpolation))
        return pixels if pixels.ndim == 3 else pixels[..., None]

    @property
    def cover(self) -> tuple[int, int] | None:
        """(height, width) that the downscaled image covers; None with a center crop."""
        if self.smallest_crop is None:
            return None
        height, width = (round(s / self.smallest_crop**0.5) for s in self.preprocess.height_width)
        return height, width

    @property
    def decode_at(self) -> int | None:
        """Minimum pixels per side when decoding a JPEG at a fraction of its size.

        Twice the required size, as in Pillow's `thumbnail`, so that the resize that follows smooths
        artefacts. None for validation, which decodes at full size.
        """
        return None if self.cover is None else 2 * max(self.cover)

    def about(self) -> dict[str, Any]:
        """Return everything that determines the result besides the image, as JSON-ready data."""
        preprocess = self.preprocess
        made: dict[str, Any] = {
            "pillow": PIL.__version__,
            "interpolation": preprocess.interpolation,
        }
        if preprocess.channels != 3:
            made["channels"] = preprocess.channels
        if preprocess.value_range is not None:
            made["value_range"] = list(preprocess.value_range)
        if self.cover is not None:
            return {**made, "torch": torch.__version__, "cover": list(self.cover)}
        border = {"mean": list(preprocess.mean)} if preprocess.crop_mode == "border" else {}
        return {
            **made,
            "crop_mode": preprocess.crop_mode,
            "resize": list(preprocess.resize),
            "crop": list(preprocess.height_width),
            **border,
        }


def _middle(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Resize and center crop for validation, as the backbone's library does."""
    interpolation = InterpolationMode(preprocess.interpolation)
    height, width = preprocess.resize
    if preprocess.crop_mode == "border":
        image = _fit_inside(image, size=(height, width), preprocess=preprocess)
    elif preprocess.crop_mode == "squash":
        image = functional.resize(image, [height, width], interpolation)
    elif height == width:
        image = functional.resize(image, [height], interpolation)
    else:
        image = _cover(image, (height, width), preprocess.interpolation)
    cropped: Image.Image = functional.center_crop(image, list(preprocess.height_width))
    return cropped


def _reduced(
    image: Image.Image, size: tuple[int, int], interpolation: InterpolationMode
) -> np.ndarray:
    """Downscale to the smallest size that covers (height, width), keeping the aspect ratio."""
    shrink = min(image.height / size[0], image.width / size[1])
    if shrink <= 1:
        return np.asarray(image)
    from torchvision.transforms import v2

    # torch's antialiased kernel matches Pillow's within one level of 255, in a fifth of the time.
    pixels = v2.functional.resize(
        v2.functional.pil_to_tensor(image),
        [round(image.height / shrink), round(image.width / shrink)],
        interpolation,
    )
    reduced: np.ndarray = pixels.permute(1, 2, 0).numpy()
    return reduced


def _cover(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Resize to the smallest size that covers (height, width), keeping the aspect ratio."""
    shrink = min(image.height / size[0], image.width / size[1])
    return _resize(image, shrink, interpolation)


def _fit_inside(
    image: Image.Image, *, size: tuple[int, int], preprocess: Preprocess
) -> Image.Image:
    """Resize to fit inside (height, width), keeping the aspect ratio; pad to the crop with mean."""
    shrink = max(image.height / size[0], image.width / size[1])
    image = _resize(image, shrink, preprocess.interpolation)
    height, width = preprocess.height_width
    across, down = max(0, width - image.width), max(0, height - image.height)
    border = (across // 2, down // 2, across - across // 2, down - down // 2)
    return ImageOps.expand(image, border, tuple(round(255 * m) for m in preprocess.mean))


def _resize(image: Image.Image, shrink: float, interpolation: str) -> Image.Image:
    size = (round(image.width / shrink), round(image.height / shrink))
    return image.resize(size, Image.Resampling[interpolation.upper()])
