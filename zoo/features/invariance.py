"""Whether a random change of the training images keeps their labels, by cross-validated probes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from zoo.features.probe import held_out_logits
from zoo.tasks import SINGLE_LABEL, Task

#: Standard errors by which accuracy must be lower on changed images to count as lower.
_ERRORS = 2.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a change of the images does, in cross-validation of a probe.

    Attributes:
        loss_without: Log-loss on held-out images as they are, learnt from images as they are.
        loss_with: The same, learnt from changed images too.
        accuracy: Share of the held-out images classified correctly as they are, 0..1.
        accuracy_changed: Share of them when they are changed, learnt from images as they are.
        error: Standard error of the difference between the two, image by image.
    """

    loss_without: float
    loss_with: float
    accuracy: float
    accuracy_changed: float
    error: float

    @property
    def worse_learnt(self) -> bool:
        """Whether learning from changed images makes the probe worse."""
        return self.loss_with > self.loss_without

    @property
    def worse_asked(self) -> bool:
        """Whether the probe is less often right about changed images, beyond chance."""
        return self.accuracy - self.accuracy_changed > _ERRORS * self.error


def measure_change(
    features: Tensor,
    changed: Tensor,
    targets: Tensor,
    num_classes: int,
    penalty: float,
    task: Task = SINGLE_LABEL,
) -> Change:
    """What a change does.

    Where labels depend on what is changed (arrows to the left and to the right, mirrored), a probe
    that learns from changed images is worse on those as they are, and one that does not is wrong
    about changed ones.

    Args:
        features: (N, C) float32 of the images as they are.
        changed: (N, C) of the same images, changed.
        targets: (N, ...) as the task has them.
        num_classes: Outputs.
        penalty: Of the probe.
        task: Gives loss and right answers.
    """
    plain, of_changed = held_out_logits(
        [features], targets, num_classes, penalty, [features, changed], task
    )
    (learnt,) = held_out_logits(
        [features, changed], targets, num_classes, penalty, [features], task
    )
    seen = plain.isfinite().all(dim=1)
    plain, of_changed, learnt, targets = (t[seen] for t in (plain, of_changed, learnt, targets))
    right, right_changed = (
        task.correct(logits, targets).double() for logits in (plain, of_changed)
    )
    return Change(
        loss_without=float(task.loss(plain, targets)),
        loss_with=float(task.loss(learnt, targets)),
        accuracy=float(right.mean()),
        accuracy_changed=float(right_changed.mean()),
        error=float((right - right_changed).std(correction=0)) / math.sqrt(len(right)),
    )
