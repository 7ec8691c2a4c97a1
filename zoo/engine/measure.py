"""How good a network is on validation's images, and how fast training could be."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo.data.dataset import raising
from zoo.engine.feed import Feed, Forward
from zoo.engine.flops import flops_per_image
from zoo.engine.machine import matmul_peak
from zoo.engine.processes import together
from zoo.events import Listener, Note
from zoo.model.device import place_images
from zoo.model.memory import is_out_of_memory
from zoo.run.inference import all_logits


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Metrics on the val images.

    Attributes:
        images: How many.
        loss: Mean cross entropy, in nats.
        accuracy: Share classified correctly, 0..1.
        balanced_accuracy: Mean recall over the classes that have val images, 0..1.
        f1: Mean F1 score over the classes that have val images or are predicted, 0..1.
        never_predicted: Labels of classes that have val images and are predicted for none.
    """

    images: int
    loss: float
    accuracy: float
    balanced_accuracy: float
    f1: float
    never_predicted: tuple[int, ...]

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Validation:
        """Of logits (N, classes) and labels (N,); the definitions are scikit-learn's."""
        classes = logits.shape[1]
        predicted = logits.argmax(dim=1)
        support = torch.bincount(labels, minlength=classes).double()
        given = torch.bincount(predicted, minlength=classes).double()
        right = torch.bincount(labels[predicted == labels], minlength=classes).double()
        there, counted = support > 0, support + given > 0
        return cls(
            images=len(labels),
            loss=float(cross_entropy(logits, labels)),
            accuracy=float(right.sum() / len(labels)),
            balanced_accuracy=float((right[there] / support[there]).mean()),
            f1=float((2 * right[counted] / (support + given)[counted]).mean()),
            never_predicted=tuple((there & (given == 0)).nonzero().flatten().tolist()),
        )

    @property
    def error(self) -> float:
        """Standard error of the accuracy."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.images)

    def value(self, metric: str) -> float:
        """The metric of that name (as in `Recipe.metric`), so that more is better."""
        return (
            -self.loss if metric == "log-loss" else float(getattr(self, metric.replace("-", "_")))
        )


def validate(model: nn.Module, feed: Feed, forward: Forward, listen: Listener) -> Validation:
    """The metrics in full precision, as `zoo evaluate` computes them.

    Raises:
        DataError: A photo can't be read any more, or has changed.
        TrainingError: Memory is too small for a single image.
    """
    labels: list[Tensor] = []

    def noting_labels() -> Iterator[tuple[Tensor, Tensor]]:
        for batch, batch_labels in raising(feed.val):
            labels.append(batch_labels)
            yield batch, batch_labels

    logits = together(
        lambda: all_logits(
            model,
            noting_labels(),
            lambda batch: feed.outputs(forward, batch),
            lambda text: listen(Note(text=text, warning=True)),
        )
    )
    # All processes must agree on what is best and when to stop.
    found: list[Validation] = broadcast_object_list([Validation.of(logits, torch.cat(labels))])
    return found[0]


def trivial_accuracy(counts: Sequence[int]) -> float:
    """The accuracy, 0..1, of always naming the largest class, by the images of each class."""
    return max(counts) / sum(counts)


@functools.cache
def _peak(device: torch.device, dtype: torch.dtype) -> float:
    return matmul_peak(device, dtype=dtype, seconds=0.1)


def most_images_per_second(model: nn.Module, feed: Feed, accelerator: Accelerator) -> float | None:
    """Images a second if training computed as fast as matrices are multiplied here.

    None where what trains is not fed with images, and where two of them don't fit into memory.
    """
    if feed.image_size is None:
        return None
    device = accelerator.device
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        accelerator.mixed_precision, torch.float32
    )
    images = place_images(torch.zeros(2, 3, *feed.image_size), device)
    try:
        flops = flops_per_image(model, images, backward=True)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return float(accelerator.num_processes * _peak(device, dtype) / flops)
