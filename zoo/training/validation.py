"""How good a network is on validation's images, and how fast training could be."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from zoo.data.dataset import raising
from zoo.events import Listener, Note
from zoo.machine.device import place_images
from zoo.machine.memory import is_out_of_memory
from zoo.machine.processes import together
from zoo.machine.speed import matmul_peak
from zoo.runs.inference import all_logits
from zoo.tasks import Metrics, Task
from zoo.training.batches import Feed, Forward
from zoo.training.flops import flops_per_image


def validate(
    model: nn.Module, feed: Feed, forward: Forward, task: Task, listen: Listener
) -> Metrics:
    """The metrics in full precision, as `zoo evaluate` computes them.

    Raises:
        DataError: A photo can't be read any more, or has changed.
        TrainingError: Memory is too small for a single image.
    """
    targets: list[Tensor] = []

    def noting_targets() -> Iterator[tuple[Tensor, Tensor]]:
        for batch, batch_targets in raising(feed.val):
            targets.append(batch_targets)
            yield batch, batch_targets

    logits = together(
        lambda: all_logits(
            model,
            noting_targets(),
            lambda batch: feed.outputs(forward, batch),
            lambda text: listen(Note(text=text, warning=True)),
        )
    )
    # All processes must agree on what is best and when to stop.
    found: list[Metrics] = broadcast_object_list([task.measure(logits, torch.cat(targets))])
    return found[0]


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
