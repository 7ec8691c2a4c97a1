"""Metrics of a network on the validation images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from zoo.data.dataset import raising
from zoo.events import Listener, Note
from zoo.machine.processes import together
from zoo.runs.inference import all_logits
from zoo.tasks import UNMEASURED, Metrics, Task
from zoo.training.batches import Forward, Loaders


def validate(
    model: nn.Module, loaders: Loaders, forward: Forward, task: Task, listen: Listener
) -> Metrics:
    """Compute the metrics in full precision, as `zoo evaluate` does; without val images, none.

    Raises:
        DataError: A photo can no longer be read, or has changed.
        TrainingError: Memory is too small for a single image.
    """
    if not len(loaders.val):
        return UNMEASURED
    targets: list[Tensor] = []

    def record_targets() -> Iterator[tuple[Tensor, Tensor]]:
        for batch, batch_targets in raising(loaders.val):
            targets.append(batch_targets)
            yield batch, batch_targets

    logits = together(
        lambda: all_logits(
            model,
            record_targets(),
            lambda batch: loaders.outputs(forward, batch),
            lambda text: listen(Note(text=text, warning=True)),
        )
    )
    # All processes must agree on which epoch is best and when to stop.
    found: list[Metrics] = broadcast_object_list([task.measure(logits, torch.cat(targets))])
    return found[0]
