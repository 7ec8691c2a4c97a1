"""Test-time augmentation: predictions averaged over several views of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.recipe import Recipe
from zoo.runs.figures import Figures

#: The views of an image: it and its mirror image; or it, its four corners and its centre.
Tta = Literal["hflip", "five-crop"]

#: Side of the crops of `five-crop`, as a fraction of that of the image.
CROP = 7 / 8


@dataclass(frozen=True, kw_only=True)
class TtaGain:
    """What test-time augmentation changes on labelled images.

    Attributes:
        tta: The augmentation.
        without: Figures of the same images without it.
        only_with: Number of images that are predicted correctly only with it.
        only_without: Number of images that are predicted correctly only without it.
        p: p-value of the difference: the exact test of McNemar or, with groups, that of
            `zoo.tasks.paired.paired_p`.
    """

    tta: str
    without: Figures
    only_with: int
    only_without: int
    p: float


def check_tta(tta: str | None) -> None:
    """Check the name of a test-time augmentation; None is for none.

    Raises:
        DataError: There is no such augmentation.
    """
    if tta is not None and tta not in get_args(Tta):
        raise DataError(f"tta is {tta!r}", hint=f"give one of {', '.join(get_args(Tta))}")


def doubt_of_tta(tta: Tta | None, recipe: Recipe) -> str | None:
    """Return why an augmentation may not suit a run, in a sentence; None if nothing is known."""
    if tta == "hflip" and recipe.hflip is False:
        return (
            "the run was trained without mirrored images (`hflip=false`), because mirroring may "
            "change what they show: `tta=hflip` may make predictions worse"
        )
    return None


def views_of(pixels: Tensor, tta: Tta | None) -> list[Tensor]:
    """Return the views of images, the images themselves first.

    Args:
        pixels: Prepared images (N, C, H, W) uint8.
        tta: The augmentation; None for the images alone.

    Returns:
        Tensors (N, C, H, W) uint8. Crops are resized to the size of the images.
    """
    if tta is None:
        return [pixels]
    if tta == "hflip":
        return [pixels, pixels.flip(-1)]
    from torchvision.transforms import v2

    size = list(pixels.shape[-2:])
    crops = v2.functional.five_crop(pixels, [round(CROP * side) for side in size])
    return [pixels, *(v2.functional.resize(crop, size, antialias=True) for crop in crops)]


def averaged(views: Sequence[Tensor]) -> Tensor:
    """Return the mean of features or logits (N, ...) over views.

    Logits are averaged, not probabilities: temperature and thresholds then apply as they do to a
    single view, and the logits remain those of the features if the head is linear.
    """
    return torch.stack(list(views)).mean(dim=0)
