"""Resizing and cropping as operators of tensors, for exported models of images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess

#: Half the width of each filter of Pillow, in pixels of the smaller image.
_RADIUS = {"bilinear": 1.0, "bicubic": 2.0}

#: 1 in Pillow's fixed-point weights.
_ONE = 2.0**22

#: The parameter of Pillow's bicubic filter (Keys, 1981).
_A = -0.5


class Resize(nn.Module):
    """Images (N, H, W, C) uint8 to pixels (N, C, height, width) float32, 0..255, as in validation.

    The same as `zoo.data.prepare.Prepare`: Pillow's antialiased resize and torchvision's centre
    crop. A resize is a product with a matrix of filter weights for each axis, rounded after each
    axis as Pillow does, because the resize operators of the formats differ in their filters and
    coordinates, and some formats have none with antialiasing. Pixels differ from Pillow's by one
    level of 255 where rounding decides; of `nearest`, where a centre lies between two pixels; and
    by more at sharp edges where Pillow 13 begins with the columns, which it does for some images
    whose height is reduced: those about three times as high as wide, or reduced much more in height
    than in width.
    """

    fill: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self._preprocess = preprocess
        padding = preprocess.mean if preprocess.crop_mode == "border" else ()
        fill = torch.tensor([round(255 * m) for m in padding] or [0] * preprocess.channels)
        self.register_buffer("fill", fill.to(torch.float32).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Resize and crop images of one size."""
        down, across = (torch.arange(side, dtype=torch.float64) for side in images.shape[1:3])
        height, width = down[-1] + 1, across[-1] + 1
        resized = self._resized(height, width)
        crop = self._preprocess.height_width
        rows, row_is_inside = self._weights(down, height, resized[0], crop[0])
        columns, column_is_inside = self._weights(across, width, resized[1], crop[1])
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        pixels = _rounded(torch.matmul(pixels, columns.transpose(0, 1)))
        pixels = _rounded(torch.matmul(rows, pixels))
        return torch.where(row_is_inside[:, None] & column_is_inside, pixels, self.fill)

    def _resized(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Return the height and width before the crop, 0-dimensional, as `Prepare` decides them."""
        wanted_height, wanted_width = self._preprocess.resize
        mode = self._preprocess.crop_mode
        if mode == "squash":
            return torch.full_like(height, wanted_height), torch.full_like(width, wanted_width)
        if mode == "center" and wanted_height == wanted_width:
            short = torch.minimum(height, width)
            return _scaled(height, wanted_height, short), _scaled(width, wanted_width, short)
        ratios = height / wanted_height, width / wanted_width
        shrink = torch.maximum(*ratios) if mode == "border" else torch.minimum(*ratios)
        return torch.round(height / shrink), torch.round(width / shrink)

    def _weights(
        self, positions: Tensor, side: Tensor, resized: Tensor, crop: int
    ) -> tuple[Tensor, Tensor]:
        """Return the weights of one axis.

        Args:
            positions: (S,) float64, 0 to S - 1.
            side: S, 0-dimensional.
            resized: The size of the resized image along the axis, 0-dimensional.
            crop: The size of the crop along the axis.

        Returns:
            The weights (crop, S) float32 of the positions in each pixel of the crop, and whether
            the pixel is inside the image (crop,).
        """
        start = torch.where(
            resized >= crop, torch.round((resized - crop) / 2), -torch.floor((crop - resized) / 2)
        )
        pixels = torch.arange(crop, dtype=torch.float64) + start
        scale = side / resized
        centres = ((pixels + 0.5) * scale)[:, None]
        interpolation = self._preprocess.interpolation
        if interpolation == "nearest":
            weights = (torch.floor(centres) == positions).to(torch.float32)
        else:
            # An image that is enlarged is interpolated, one that is reduced averaged.
            stretch = torch.clamp(scale, min=1.0)
            reach = _RADIUS[interpolation] * stretch
            distances = torch.abs(positions - centres + 0.5) / stretch
            raw = _bicubic(distances) if interpolation == "bicubic" else torch.relu(1 - distances)
            first, end = torch.floor(centres - reach + 0.5), torch.floor(centres + reach + 0.5)
            raw = torch.where((positions >= first) & (positions < end), raw, torch.zeros_like(raw))
            # The sum is 0 only outside the image.
            sums = torch.clamp(raw.sum(dim=1, keepdim=True), min=1e-6)
            weights = (torch.round(raw / sums * _ONE) / _ONE).to(torch.float32)
        return weights, (pixels >= 0) & (pixels < resized)


def _scaled(side: Tensor, wanted: int, short: Tensor) -> Tensor:
    """Return floor(wanted * side / short), exactly, also where floats have 32 bits."""
    whole = torch.div(side.to(torch.int64) * wanted, short.to(torch.int64), rounding_mode="floor")
    return whole.to(torch.float64)


def _bicubic(distances: Tensor) -> Tensor:
    near = ((_A + 2) * distances - (_A + 3)) * distances * distances + 1
    far = (((distances - 5) * distances + 8) * distances - 4) * _A
    return torch.where(
        distances < 1, near, torch.where(distances < 2, far, torch.zeros_like(distances))
    )


def _rounded(pixels: Tensor) -> Tensor:
    """Round half up to 0..255, as Pillow's fixed-point arithmetic does."""
    return torch.clamp(torch.floor(pixels + 0.5), 0, 255)
