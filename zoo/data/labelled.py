"""Labelled images as plain torch datasets, and transforms of single images to model input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from zoo.backbone import Preprocess
from zoo.data.columns import Columns
from zoo.data.dataset import ImageDataset
from zoo.data.image import image_from_bytes, to_channels
from zoo.data.sample import Sample
from zoo.data.transforms import Transform, to_input
from zoo.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """Transform of a Pillow image to the input of a network, (C, H, W) float32, normalised.

    Random augmentation draws from torch's global generator.

    Attributes:
        transform: Resizing, cropping and augmentation.
        preprocess: Input size, number of channels and normalisation.
    """

    transform: Transform
    preprocess: Preprocess

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform an image of any mode.

        Raises:
            DataError: The image can't be used, or is not a Pillow image.
        """
        if not isinstance(image, Image.Image):
            raise DataError(f"an image must be a Pillow image, got {type(image).__name__}")
        channels, value_range = self.preprocess.channels, self.preprocess.value_range
        try:
            upright = to_channels(image, channels, value_range=value_range)
        except ValueError as error:
            raise DataError(f"an image can't be used: {error}") from error
        pixels = self.transform.prepare(upright)
        if self.transform.augment is not None:
            pixels = self.transform.augment(pixels)
        batch = ImageDataset.stack([pixels])
        return to_input(batch, self.preprocess, torch.device("cpu"))[0].contiguous()


class LabelledImages(Dataset[tuple[Any, Tensor]]):
    """Dataset of (image, target) pairs, for any torch `DataLoader`.

    Attributes:
        samples: The samples, in order.
        targets: (N,) int64, the index of each label in `class_names`; multi-label: (N, classes)
            float32, 1 for each label of an image.
        class_names: Names of the classes.
        preprocess: How images are preprocessed for the backbone.
        transform: Called with each image, an upright Pillow image with as many channels as the
            backbone takes; None: the dataset gives that image. May be replaced.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        targets: Tensor,
        *,
        class_names: tuple[str, ...],
        preprocess: Preprocess,
        transform: Callable[[Image.Image], Any] | None = None,
    ) -> None:
        self.samples = samples if isinstance(samples, Columns) else tuple(samples)
        self.targets = targets
        self.class_names = class_names
        self.preprocess = preprocess
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        sample, decode_at = self.samples[index], None
        if isinstance(self.transform, ImageTransform):
            decode_at = self.transform.transform.prepare.decode_at
        image = image_from_bytes(
            sample.read(),
            sample.where,
            decode_at=decode_at,
            value_range=self.preprocess.value_range,
            channels=self.preprocess.channels,
        )
        return image if self.transform is None else self.transform(image), self.targets[index]


class Datasets(NamedTuple):
    """The splits of a source; empty where it has none.

    Attributes:
        train: Images to train on, augmented.
        val: Held-out images, for all choices.
        test: Held-out images, for the final figures only.
    """

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages


class Transforms(NamedTuple):
    """The transforms of a backbone.

    Attributes:
        train: With augmentation.
        eval: As for validation and prediction.
    """

    train: ImageTransform
    eval: ImageTransform
