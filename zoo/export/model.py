"""The exported model of a run, normalisation followed by the classifier, and its metadata."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib import metadata

import torch
from torch import Tensor, nn

from zoo.backbone import CHANNELS, Preprocess
from zoo.hookspecs import DISTRIBUTION
from zoo.runs.read import Run
from zoo.weights import tensors_sha256

#: Metadata of model.safetensors that are useful for prediction, and copied to the export.
_KEPT = (
    "backbone",
    "class_names",
    "preprocess",
    "task",
    "temperature",
    "val_metrics",
    "weights_source",
)


class ExportableModel(nn.Module):
    """Pixels (N, C, H, W) uint8 to calibrated logits (N, classes).

    Normalisation, then the classifier, then the division of its logits by the temperature. A copy
    in eval mode on the CPU; equivalent to `to_input` followed by the classifier and the division.

    Args:
        classifier: The classifier.
        preprocess: Its preprocessing.
        temperature: Divides the logits, so that their softmax or sigmoid is calibrated.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(
        self, classifier: nn.Module, preprocess: Preprocess, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self._shape = (preprocess.channels, *preprocess.height_width)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocess, name))
            self.register_buffer(name, values.view(1, -1, 1, 1))
        self.register_buffer("temperature", torch.tensor(temperature))
        classifier = copy.deepcopy(classifier).cpu()
        # Formats store weights contiguously; torch.export warns about other memory formats.
        self.classifier = classifier.to(memory_format=torch.contiguous_format)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute the calibrated logits of images."""
        scaled = images.to(torch.float32) * (1 / 255)
        pixels = (scaled - self.mean) / self.std
        # Makes batches a quarter faster in torch's runtime; has no effect in others.
        logits: Tensor = self.classifier(pixels.contiguous(memory_format=torch.channels_last))
        return logits / self.temperature

    def example(self) -> Tensor:
        """Return two images to trace the model with; with one a tracer would fix the batch size."""
        return torch.zeros(2, *self._shape, dtype=torch.uint8)


def metadata_of(run: Run) -> Mapping[str, str]:
    """Return the metadata of the exported file, with structured values as JSON.

    `sha256` is that of the run's weights, as in its model.safetensors.
    """
    known = run.info.to_metadata()
    preprocess = run.info.preprocess
    channels, (height, width) = preprocess.channels, preprocess.height_width
    return {
        **{name: known[name] for name in _KEPT},
        "input": f"images: (N, {channels}, {height}, {width}) uint8, {CHANNELS[channels]}, resized "
        "and cropped as preprocess says; mean and std are applied by the model",
        "output": f"logits: (N, {len(run.class_names)}) float32, already divided by the "
        f"temperature: their {run.task.activation} is the calibrated probability",
        "sha256": tensors_sha256(run.model.state_dict()),
        "zoo_version": metadata.version(DISTRIBUTION),
    }
