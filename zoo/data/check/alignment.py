"""Whether an image is a part of another: comparison of small images at all offsets and scales."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.image import ValueRange, image_from_bytes
from zoo.data.sample import Sample

#: Side in pixels of the images that are compared; half of that in the first pass.
SIDE = 64

#: Heights and widths that a part is scaled to in the first pass: 69 to 100 % of the whole.
_SIZES = (32, 30, 28, 26, 24, 22)

#: Correlation with parts of the same shape below which other shapes are not tried.
_HOPELESS = 0.6

#: Minimum correlation of a copy (docs/data.md).
CLEAR = 0.95

#: Correlation in the first pass below which there is no second one.
_UNLIKELY = 0.8

#: Heights and widths around those of the first pass that the second one tries.
_AROUND = range(-2, 3)

#: Pairs compared together.
_BATCH = 256


def small_images(samples: Sequence[Sample], value_range: ValueRange | None = None) -> Tensor:
    """Decode images and squash each to (3, SIDE, SIDE) float32.

    Raises:
        DataError: An image can't be read, or has changed since it was first read.
    """

    def small(sample: Sample) -> np.ndarray:
        image = image_from_bytes(
            sample.read(), sample.where, decode_at=4 * SIDE, value_range=value_range
        )
        shrunk = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
        return np.asarray(shrunk, np.float32)

    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(small, samples))
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


def alignment(one: Tensor, other: Tensor) -> Tensor:
    """Compute how well one of two images matches a part of the other, for pairs of images.

    Each is scaled to several heights and widths and compared with the other at all offsets by
    normalised cross-correlation (Lewis, 1995).

    Args:
        one: (N, 3, SIDE, SIDE) float32.
        other: The same shape.

    Returns:
        (N,), the highest correlation of each pair, -1..1.
    """
    found = [
        _alignment(a, b)
        for a, b in zip(torch.split(one, _BATCH), torch.split(other, _BATCH), strict=True)
    ]
    return torch.cat(found) if found else torch.empty(0)


def _alignment(one: Tensor, other: Tensor) -> Tensor:
    first, first_shape = _part(one, other)
    second, second_shape = _part(other, one)
    best = torch.maximum(first, second)
    for row in torch.nonzero((best > _UNLIKELY) & (best < CLEAR)).flatten().tolist():
        is_first = bool(first[row] >= second[row])
        whole, part = (one, other) if is_first else (other, one)
        shape = (first_shape if is_first else second_shape)[row].tolist()
        height, width = (2 * side for side in shape)
        best[row] = max(
            float(_correlation(whole[row : row + 1], part[row : row + 1], (h, w)))
            for h in (height + change for change in _AROUND)
            for w in (width + change for change in _AROUND)
            if max(h, w) <= SIDE
        )
    return best


def _part(whole: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest correlation (N,) of `part` with any part of `whole`, and its shape (N, 2).

    The images are halved first.
    """
    whole, part = (torch.nn.functional.avg_pool2d(each, 2) for each in (whole, part))
    best = whole.new_full((len(whole),), -1.0)
    shape = torch.full((len(whole), 2), _SIZES[0])

    def attempt(rows: Tensor, height: int, width: int) -> None:
        found = _correlation(whole[rows], part[rows], (height, width))
        better = found > best[rows]
        best[rows[better]] = found[better]
        shape[rows[better]] = torch.tensor([height, width])

    for size in _SIZES:
        attempt(torch.arange(len(whole)), size, size)
    likely = torch.nonzero(best > _HOPELESS).flatten()
    for height in _SIZES:
        for width in _SIZES:
            if height != width and len(likely):
                attempt(likely, height, width)
    return best, shape


def _correlation(whole: Tensor, part: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the highest correlation (N,) of `part`, scaled to `shape`, over all offsets."""
    side = whole.shape[-1]
    scaled = torch.nn.functional.interpolate(part, shape, mode="bilinear", antialias=True)
    scaled = scaled - scaled.mean(dim=(2, 3), keepdim=True)
    norm = scaled.square().sum(dim=(1, 2, 3)).sqrt()
    spectrum = torch.fft.rfft2(whole) * torch.fft.rfft2(scaled, s=(side, side)).conj()
    height, width = (side - each + 1 for each in shape)
    # At these offsets the part lies inside the whole, so that the correlation does not wrap around.
    products = torch.fft.irfft2(spectrum.sum(dim=1), s=(side, side))[:, :height, :width]
    mean = torch.nn.functional.avg_pool2d(whole, shape, stride=1)
    square = torch.nn.functional.avg_pool2d(whole.square(), shape, stride=1)
    variance = (square - mean.square()).clamp_min(0).sum(dim=1) * (shape[0] * shape[1])
    # Plain images have no features to compare.
    found = products / (variance.sqrt() * norm[:, None, None]).clamp_min(1.0)
    best: Tensor = found.flatten(1).amax(dim=1)
    return best
