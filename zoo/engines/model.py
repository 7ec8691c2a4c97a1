"""Preprocessing followed by a network, as one module, as exporters convert it."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from zoo.backbone import Preprocess
from zoo.engines.resize import Resize


class ExportableModel(nn.Module):
    """Pixels (N, C, H, W) uint8 to calibrated logits (N, classes).

    Normalisation, then the classifier, then the division of its logits by the temperature. A copy
    in eval mode on the CPU; equivalent to `to_input` followed by the classifier and the division.

    Args:
        classifier: The classifier.
        preprocess: Its preprocessing.
        temperature: Divides the logits, so that their softmax or sigmoid is calibrated.
        with_resize: Take images (N, H, W, C) uint8 of any size, and resize and crop them first.
        probabilities: `softmax` or `sigmoid`: return this of the calibrated logits; None: logits.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(
        self,
        classifier: nn.Module,
        preprocess: Preprocess,
        temperature: float = 1.0,
        *,
        with_resize: bool = False,
        probabilities: str | None = None,
    ) -> None:
        super().__init__()
        self._channels, self._size = preprocess.channels, preprocess.height_width
        self._probabilities = probabilities
        self._dtype = torch.float32
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocess, name))
            self.register_buffer(name, values.view(1, -1, 1, 1))
        self.register_buffer("temperature", torch.tensor(temperature))
        self.resize = Resize(preprocess) if with_resize else None
        classifier = copy.deepcopy(classifier).cpu()
        # Formats store weights contiguously; torch.export warns about other memory formats.
        self.classifier = classifier.to(memory_format=torch.contiguous_format)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the calibrated logits, or probabilities, of images."""
        pixels = images.to(torch.float32) if self.resize is None else self.resize(images)
        pixels = (pixels * (1 / 255) - self.mean) / self.std
        # Makes batches a quarter faster in torch's runtime; others choose their own memory format.
        pixels = pixels.contiguous(memory_format=torch.channels_last).to(self._dtype)
        logits: Tensor = self.classifier(pixels).to(torch.float32) / self.temperature
        if self._probabilities == "softmax":
            return logits.softmax(dim=1)
        return logits.sigmoid() if self._probabilities else logits

    def half(self) -> Self:
        """Convert the classifier to float16; normalisation and output remain float32."""
        self.classifier.half()
        self._dtype = torch.float16
        return self

    def example(self) -> Tensor:
        """Return two images to trace the model with; with one a tracer would fix the batch size."""
        height, width = self._size
        if self.resize is None:
            return torch.zeros(2, self._channels, height, width, dtype=torch.uint8)
        # Sizes that occur nowhere else in the network, so that none is taken for another.
        return torch.zeros(2, height + 19, width + 37, self._channels, dtype=torch.uint8)
