"""Image to base: the part of the input's making that is the same in every epoch."""

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
    """RGB image to its base, (H, W, 3) uint8: the same pixels each time, so that they can be kept.

    Attributes:
        preprocess: The backbone's.
        smallest_crop: None: the base is the middle that validation sees, (height, width) of the
            input. A share (0..1]: it is the whole picture, reduced, aspect ratio kept, but never
            below the size at which a crop of that share of a square still has as many pixels as
            the input; never enlarged.
    """

    preprocess: Preprocess
    smallest_crop: float | None = None

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The base of an RGB image."""
        size = self.cover
        if size is None:
            return np.asarray(_middle(image, self.preprocess))
        return _reduced(image, size, InterpolationMode(self.preprocess.interpolation))

    @property
    def cover(self) -> tuple[int, int] | None:
        """(height, width) that a reduced whole picture covers; None where it is the middle."""
        if self.smallest_crop is None:
            return None
        height, width = (round(s / self.smallest_crop**0.5) for s in self.preprocess.height_width)
        return height, width

    @property
    def decode_at(self) -> int | None:
        """Pixels a side from which on a JPEG may be decoded at a fraction of its size.

        Twice what is needed, as in Pillow's `thumbnail`: the resize that follows smooths what the
        fraction leaves. None for validation's base, which is the full decoding's.
        """
        return None if self.cover is None else 2 * max(self.cover)

    def about(self) -> dict[str, Any]:
        """All that decides a base besides the image, as JSON-ready data."""
        preprocess = self.preprocess
        made: dict[str, Any] = {
            "pillow": PIL.__version__,
            "interpolation": preprocess.interpolation,
        }
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
    """What validation sees: resized and cropped as the backbone's library does."""
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
    """The smallest picture, aspect ratio kept, that covers (height, width); never enlarged."""
    shrink = min(image.height / size[0], image.width / size[1])
    if shrink <= 1:
        return np.asarray(image)
    from torchvision.transforms import v2

    # torch's kernel is antialiased as Pillow's is, within one level of 255, in a fifth of its time.
    pixels = v2.functional.resize(
        v2.functional.pil_to_tensor(image),
        [round(image.height / shrink), round(image.width / shrink)],
        interpolation,
    )
    reduced: np.ndarray = pixels.permute(1, 2, 0).numpy()
    return reduced


def _cover(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
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
