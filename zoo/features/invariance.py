"""Whether an augmentation preserves the labels of the images, by cross-validated probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zoo.features.probe import held_out_logits
from zoo.tasks import SINGLE_LABEL, Task

#: Number of standard errors by which accuracy on changed images must be lower to count as lower.
_ERRORS = 2.0


@dataclass(frozen=True, kw_only=True)
class Change:
    """Effect of a change of the images on the cross-validation of a probe.

    Attributes:
        loss_without: Log-loss on unchanged held-out images, if fitted to unchanged images.
        loss_with: Log-loss on unchanged held-out images, if fitted to changed images too.
        accuracy: Accuracy on unchanged held-out images, if fitted to unchanged images, 0..1.
        accuracy_changed: Accuracy on changed held-out images, if fitted to unchanged images, 0..1.
        error: Standard error of the difference between the two accuracies, paired by image.
    """

    loss_without: float
    loss_with: float
    accuracy: float
    accuracy_changed: float
    error: float

    @property
    def worse_when_trained(self) -> bool:
        """Whether fitting to changed images too makes the probe worse."""
        return self.loss_with > self.loss_without

    @property
    def worse_when_evaluated(self) -> bool:
        """Whether the probe is significantly less accurate on changed images."""
        return self.accuracy - self.accuracy_changed > _ERRORS * self.error


def measure_change(
    features: Tensor,
    changed: Tensor,
    targets: Tensor,
    num_classes: int,
    penalty: float,
    task: Task = SINGLE_LABEL,
    groups: Sequence[int] | None = None,
) -> Change:
    """Measure the effect of a change.

    If labels depend on what is changed (arrows to the left and to the right, mirrored), a probe
    that is fitted to changed images too is worse on unchanged ones, and a probe that is not
    misclassifies changed ones.

    Args:
        features: (N, C) float32 of the unchanged images.
        changed: (N, C) of the same images, changed.
        targets: (N, ...) as defined by the task.
        num_classes: Number of outputs.
        penalty: Penalty of the probe.
        task: Defines the loss and correct predictions.
        groups: Index of the group of each image. Default: each image is a group of its own.
    """
    plain, of_changed = held_out_logits(
        [features], targets, num_classes, penalty, [features, changed], task, groups
    )
    (learnt,) = held_out_logits(
        [features, changed], targets, num_classes, penalty, [features], task, groups
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
