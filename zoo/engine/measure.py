"""How good a network is on validation's images, and how fast training could be."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo.engine.events import Listener, Note
from zoo.engine.feed import Feed, Forward
from zoo.engine.flops import flops_per_image
from zoo.engine.machine import matmul_peak
from zoo.model.device import place_images
from zoo.run.inference import all_logits


def validate(
    model: nn.Module, feed: Feed, forward: Forward, listen: Listener
) -> tuple[float, float]:
    """(mean cross entropy, accuracy) in full precision, as `zoo evaluate` computes them.

    Raises:
        TrainingError: Memory is too small for a single image.
    """
    labels: list[Tensor] = []

    def noting_labels() -> Iterator[tuple[Tensor, Tensor]]:
        for batch, batch_labels in feed.val:
            labels.append(batch_labels)
            yield batch, batch_labels

    logits = all_logits(
        model,
        noting_labels(),
        lambda batch: feed.outputs(forward, batch),
        lambda text: listen(Note(text=text, warning=True)),
    )
    truth = torch.cat(labels)
    accuracy = (logits.argmax(dim=1) == truth).double().mean()
    # All processes must agree on what is best and when to stop.
    loss, accuracy = broadcast_object_list([float(cross_entropy(logits, truth)), float(accuracy)])
    return loss, accuracy


@functools.cache
def _peak(device: torch.device, dtype: torch.dtype) -> float:
    return matmul_peak(device, dtype=dtype, seconds=0.1)


def most_images_per_second(model: nn.Module, feed: Feed, accelerator: Accelerator) -> float | None:
    """Images a second if training computed as fast as matrices are multiplied here."""
    if feed.image_size is None:
        return None
    device = accelerator.device
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(
        accelerator.mixed_precision, torch.float32
    )
    images = place_images(torch.zeros(2, 3, *feed.image_size), device)
    flops = flops_per_image(model, images, backward=True)
    return float(accelerator.num_processes * _peak(device, dtype) / flops)
