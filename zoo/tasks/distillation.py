"""Distillation: the loss of a network that learns from labels and from a teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.tasks.task import Task

#: Smallest share by which targets are divided.
_LEAST = 1e-6


def with_unlabelled(task: Task, targets: Tensor, unlabelled: int, num_classes: int) -> Tensor:
    """Return the targets of labelled images, followed by those of unlabelled ones.

    Args:
        task: The task.
        targets: Targets (N, ...) of the labelled images.
        unlabelled: Number U of unlabelled images.
        num_classes: Number of classes.

    Returns:
        (N + U, classes + 1) float32: shares of the classes, and the share of the image that is
        labelled, which is 0 or 1 until images are mixed.
    """
    shares = task.shares(targets, num_classes)
    labelled = torch.cat([shares, torch.ones(len(shares), 1)], dim=1)
    return torch.cat([labelled, torch.zeros(unlabelled, num_classes + 1)])


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Loss of knowledge distillation (Hinton et al., 2015); a `zoo.tasks.task.Criterion`.

    That of an image is `(1 - weight)` times the loss of the task, and `weight` times the loss of
    distillation; an unlabelled image has the second part only. The mean over a batch is over all of
    its images. Targets are those that `targets` makes.

    Attributes:
        task: The task.
        num_classes: Number of classes.
        weight: Weight of the teacher, above 0 and up to 1.
        temperature: Temperature of distillation, above 0.
    """

    task: Task
    num_classes: int
    weight: float
    temperature: float

    def targets(self, targets: Tensor, teacher: Tensor) -> Tensor:
        """Join the targets of a batch with the teacher's logits.

        Args:
            targets: Targets (N, ...) of the task, or those of `with_unlabelled`; may be mixed.
            teacher: Logits (N, classes) float32.

        Returns:
            (N, 2 * classes + 1) float32: shares of the classes, the share that is labelled, and
            the logits.
        """
        if targets.ndim < 2 or targets.shape[1] == self.num_classes:
            targets = self.task.shares(targets, self.num_classes)
            targets = torch.cat([targets, targets.new_ones(len(targets), 1)], dim=1)
        return torch.cat([targets, teacher], dim=1)

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Compute the training loss (), a mean over all rows."""
        shares, labelled, teacher = self._parts(targets)
        known = shares / labelled.clamp_min(_LEAST)
        by_label = self.task.losses(logits, known, class_weights, label_smoothing)
        by_teacher = self.task.distill_losses(logits, teacher, self.temperature)
        each = (1 - self.weight) * labelled.squeeze(1) * by_label + self.weight * by_teacher
        return each.mean() / self.task.terms(self.num_classes)

    def weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return 1 for each row: class weights multiply a part of its loss."""
        return torch.ones(len(targets), device=targets.device)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return whether each row is predicted correctly (N,), as the teacher does if unlabelled.

        Of mixed images, the larger part decides.
        """
        shares, labelled, teacher = self._parts(targets)
        taught = self.task.probabilities(teacher)
        return self.task.correct(logits, shares + (1 - labelled) * taught)

    def _parts(self, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (shares (N, classes), labelled (N, 1), teacher's logits (N, classes))."""
        sizes = [self.num_classes, 1, self.num_classes]
        shares, labelled, teacher = torch.split(targets, sizes, dim=1)
        return shares, labelled, teacher
