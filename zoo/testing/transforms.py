"""Checks of a transform of train images, on images of noise."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.reduction import ForkingPickler
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo import plugins
from zoo.data.transforms import PixelTransform
from zoo.hookspecs import Factory
from zoo.testing.losses import made
from zoo.testing.subject import CheckFailed, Kind

#: Heights and widths of the images.
SIZES = ((32, 32), (40, 24))

#: Views of each image: a random step may leave some as they are.
VIEWS = 16


@dataclass
class TransformSubject:
    """A transform under test."""

    kind: ClassVar[Kind] = "transform"
    shapes_only: ClassVar[bool] = False

    name: str
    factory: Factory

    @cached_property
    def transform(self) -> PixelTransform:
        """The transform, as a run creates it."""
        transform: PixelTransform = made(self.factory)
        return transform


def check_transform_is_made(subject: TransformSubject) -> None:
    """`make`, called without arguments, gives a function."""
    _ = subject.transform


def check_pixels_keep_size_and_type(subject: TransformSubject) -> None:
    """Pixels (3, H, W) uint8 become pixels of the same size and type, in every view."""
    for pixels in _images():
        for seed in range(VIEWS):
            torch.manual_seed(seed)
            found: object = subject.transform(pixels.clone())
            if isinstance(found, Tensor) and (found.shape, found.dtype) == (
                pixels.shape,
                torch.uint8,
            ):
                continue
            what = (
                f"{tuple(found.shape)} {found.dtype}"
                if isinstance(found, Tensor)
                else type(found).__name__
            )
            raise CheckFailed(
                f"for {tuple(pixels.shape)} torch.uint8 it gives {what}: keep size and type"
            )


def check_one_seed_gives_one_view(subject: TransformSubject) -> None:
    """With the same seed of torch's global generator, it gives the same view of an image."""
    if not _same(_views(subject.transform, 1), _views(subject.transform, 2)):
        raise CheckFailed(
            "with one seed of torch it gives different views: draw from torch's global generator, "
            "not from Python's or NumPy's, and keep nothing from call to call"
        )


def check_transform_can_be_sent_to_processes(subject: TransformSubject) -> None:
    """It can be pickled, as spawned data-loading workers require, and gives the same views."""
    transform = subject.transform
    try:
        sent = ForkingPickler.dumps(transform)
        again: PixelTransform = ForkingPickler.loads(sent)
    except Exception as error:
        raise CheckFailed(
            f"it can't be pickled ({plugins.explain(error)}): return an object of a class at "
            f"module level, not a lambda or an inner function"
        ) from error
    if not _same(_views(transform, 1), _views(again, 1)):
        raise CheckFailed("pickled and read back, it gives other views: keep nothing between calls")


def _images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(256, (3, *size), generator=generator, dtype=torch.int64).to(torch.uint8)
        for size in SIZES
    ]


def _views(transform: Callable[[Tensor], Tensor], seed: int) -> list[Tensor]:
    """Return views, by the same seeds of torch; `seed` is that of other generators."""
    random.seed(seed)
    np.random.seed(seed)
    found = []
    for pixels in _images():
        for n in range(VIEWS):
            torch.manual_seed(n)
            found.append(transform(pixels.clone()))
    return found


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))
