"""Metrics of a network on the validation images."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from zoo.events import Listener, Note
from zoo.machine.processes import of_each, together
from zoo.runs.inference import all_logits
from zoo.tasks import UNMEASURED, Metrics, Task
from zoo.training.batches import Forward, Loaders


def validate(
    model: nn.Module,
    loaders: Loaders,
    forward: Forward,
    task: Task,
    accelerator: Accelerator,
    listen: Listener,
) -> Metrics:
    """Compute the metrics in full precision, as `zoo evaluate` does; without val images, none.

    Several processes share the images; all return the same metrics.

    Raises:
        DataError: A photo can no longer be read, or has changed.
        TrainingError: Memory is too small for a single image.
    """
    if not len(loaders.val_targets):
        return UNMEASURED
    logits = together(
        lambda: all_logits(
            model,
            loaders.val,
            lambda batch: loaders.outputs(forward, batch),
            lambda text: listen(Note(text=text, warning=True)),
        )
    )
    if accelerator.num_processes > 1:
        logits = _joined(logits, loaders, accelerator)
    # All processes must agree on which epoch is best and when to stop.
    found: list[Metrics] = broadcast_object_list([task.measure(logits, loaders.val_targets)])
    return found[0]


def _joined(logits: Tensor, loaders: Loaders, accelerator: Accelerator) -> Tensor:
    """Return the logits (N, C) of all val images, of which each process has computed some.

    Each row is added to zeros of the other processes, which is exact.
    """
    widths = [width or 0 for width in of_each(accelerator, logits.shape[1])]
    joined = torch.zeros(len(loaders.val_targets), max(widths))
    joined[list(loaders.val_positions)] = logits.reshape(-1, max(widths))
    whole: Tensor = accelerator.reduce(joined.to(accelerator.device), reduction="sum")
    return whole.cpu()
