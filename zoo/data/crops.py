"""Random crops of a whole batch, resized and mirrored where the model is: two multiplications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.backbone import Interpolation, Preprocess
from zoo.data.dataset import ImageDataset, Index
from zoo.data.transforms import RandomView

#: What an image contributes: its crop (H, W, 3) uint8, and whether it is to be mirrored.
Crop = tuple[np.ndarray, bool]


class Crops(NamedTuple):
    """A batch of crops, each in the upper left of a canvas that has room for all.

    Attributes:
        pixels: (N, H, W, 3) uint8; what lies beside a crop counts for nothing.
        sizes: (N, 2) int64: height and width of each crop.
        mirrored: (N,) bool.
    """

    pixels: Tensor
    sizes: Tensor
    mirrored: Tensor


class CropDataset(Dataset[Any]):  # torch has a loader yield what its data set holds
    """Crops in place of views: the same ones of the same images, not yet resized.

    Args:
        images: Whose.
        view: How they are changed; one that only crops and mirrors.
    """

    def __init__(self, images: ImageDataset, view: RandomView) -> None:
        self.images = images
        self.view = view

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Index) -> tuple[Crop, Tensor]:
        _, position = index
        base = self.images.bases[position]
        return self.images.draw(index, self.view.crop, base), self.images.targets[position]

    @staticmethod
    def stack(rows: Sequence[Crop]) -> Crops:
        """A batch."""
        sizes = [crop.shape[:2] for crop, _ in rows]
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        pixels = np.zeros((len(rows), height, width, 3), dtype=np.uint8)
        for canvas, (crop, _) in zip(pixels, rows, strict=True):
            canvas[: crop.shape[0], : crop.shape[1]] = crop
        mirrored = torch.tensor([mirror for _, mirror in rows])
        return Crops(torch.from_numpy(pixels), torch.tensor(sizes), mirrored)


def resize_crops(crops: Crops, preprocess: Preprocess) -> Tensor:
    """Crops as pixels (N, 3, H, W) uint8 of the input's size, on their device.

    Resizing with antialiasing, as Pillow does it, is linear along each side: a matrix an image and
    side, so that a batch takes two multiplications of matrices, whatever the sizes of its crops.
    Equal to `v2.functional.resize` within a level or two of 255, which rounds between the sides.

    Args:
        crops: Of a batch.
        preprocess: The backbone's; its interpolation is `bilinear` or `bicubic`.
    """
    size, interpolation = preprocess.height_width, preprocess.interpolation
    count, height, width, channels = crops.pixels.shape
    down = _weights(crops.sizes[:, 0], height, size[0], interpolation)
    across = _weights(crops.sizes[:, 1], width, size[1], interpolation)
    across = torch.where(crops.mirrored[:, None, None], across.flip(1), across)
    columns = crops.pixels.transpose(1, 2).to(torch.float32).reshape(count, width, -1)
    narrowed = (across @ columns).view(count, size[1], height, channels).transpose(1, 2)
    resized = (down @ narrowed.reshape(count, height, -1)).view(count, *size, channels)
    # Channels lie last in memory, as `place` lays out models.
    return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 3, 1, 2)


def _weights(sides: Tensor, longest: int, size: int, interpolation: Interpolation) -> Tensor:
    """(N, size, longest): how much each pixel of a side counts for each of the resized one's."""
    scale = (sides / size)[:, None, None]
    pixels = torch.arange(longest, device=sides.device) + 0.5
    centres = (torch.arange(size, device=sides.device) + 0.5)[:, None] * scale
    distance = ((pixels - centres) / scale.clamp(min=1)).abs()
    weights = _cubic(distance) if interpolation == "bicubic" else (1 - distance).clamp(min=0)
    weights = weights * (pixels < sides[:, None, None])
    return weights / weights.sum(dim=2, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, as Pillow has it."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
