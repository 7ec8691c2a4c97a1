"""Multi-label classification: sigmoid and binary cross entropy for each label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from zoo.data.split import rarest_labels
from zoo.tasks.task import Baseline, Metrics
from zoo.tasks.thresholds import THRESHOLD, f1_thresholds


@dataclass(frozen=True)
class MultiLabel:
    """Multi-label task; targets (N, classes) float32 are 0 or 1, metrics as in scikit-learn."""

    name: str = "multi-label"
    metrics: tuple[str, ...] = ("map", "f1", "accuracy", "log-loss")
    main: str = "map"
    exclusive: bool = False
    metric_if_imbalanced: str | None = None
    figures: tuple[str, ...] = ("map", "f1", "accuracy", "auroc", "log_loss", "ece")
    activation: str = "sigmoid"
    problem_type: str | None = "multi_label_classification"
    thresholds: tuple[float, ...] = ()

    def targets(self, labels: Sequence[tuple[int, ...]], num_classes: int) -> Tensor:
        """Return indicators (N, classes) float32."""
        targets = torch.zeros(len(labels), num_classes)
        for row, present in zip(targets, labels, strict=True):
            row[list(present)] = 1
        return targets

    def strata(self, targets: Tensor) -> list[int]:
        """Return the rarest label of each image, -1 for an image without labels."""
        rarest = rarest_labels([tuple(row.nonzero().flatten().tolist()) for row in targets.cpu()])
        return [-1 if label is None else label for label in rarest]

    def losses(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Compute the sum of the binary cross entropies of the classes, (N,)."""
        smoothed = targets * (1 - label_smoothing) + label_smoothing / 2
        each = binary_cross_entropy_with_logits(
            logits, smoothed, reduction="none", pos_weight=class_weights
        )
        return each.sum(dim=1)

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Compute the mean binary cross entropy () over rows and classes."""
        each = self.losses(logits, targets, class_weights, label_smoothing)
        return each.mean() / self.terms(logits.shape[1])

    def weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return 1 for each row, because class weights apply to positive targets."""
        return torch.ones(len(targets), device=targets.device)

    def distill_losses(self, logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Compute the sum of binary cross entropies with softened sigmoids, times T squared."""
        taught = (teacher.to(logits) / temperature).sigmoid()
        each = binary_cross_entropy_with_logits(logits / temperature, taught, reduction="none")
        return each.sum(dim=1) * temperature**2

    def terms(self, num_classes: int) -> int:
        """Return the number of classes."""
        return num_classes

    def shares(self, targets: Tensor, num_classes: int) -> Tensor:
        """Return the targets as they are."""
        return targets

    def class_weights(self, counts: Sequence[int], images: int) -> Tensor:
        """Return negatives / positives of each class, the weight of its positive targets."""
        return torch.tensor([(images - count) / max(1, count) for count in counts])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Apply the sigmoid function."""
        return logits.sigmoid()

    def logits(self, probabilities: Tensor, least: float) -> Tensor:
        """Return the log-odds of the probabilities."""
        absent = (1 - probabilities).clamp_min(least)
        return probabilities.clamp_min(least).log() - absent.log()

    def decide(self, logits: Tensor) -> Tensor:
        """Return 1 for each class whose probability is at least its threshold, (N, classes)."""
        least = torch.tensor(self.thresholds or THRESHOLD, dtype=logits.dtype, device=logits.device)
        return (logits.sigmoid() >= least).to(torch.float32)

    def fit_thresholds(self, logits: Tensor, targets: Tensor) -> tuple[float, ...]:
        """Return the threshold of each class with the best F1, shrunk towards 0.5."""
        return f1_thresholds(self.probabilities(logits.double()).numpy(), targets.numpy() > 0.5)

    def with_thresholds(self, thresholds: Sequence[float]) -> MultiLabel:
        """Return the task with these thresholds."""
        return replace(self, thresholds=tuple(thresholds))

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return whether all labels of an image are predicted and no other (N,)."""
        # Targets of mixed images (mixup, CutMix) are fractions.
        return (self.decide(logits) == (targets >= 0.5)).all(dim=1)

    def answers(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability of each label, and whether the image has it."""
        return self.probabilities(logits), targets >= 0.5

    def questions(
        self, probabilities: Tensor, targets: Tensor
    ) -> list[tuple[int | None, Tensor, Tensor]]:
        """Return a question for each label: whether the image has it."""
        return [
            (label, torch.stack([1 - column, column], dim=1), targets[:, label].long())
            for label, column in enumerate(probabilities.T)
        ]

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the log-likelihood (N,) of each row: rare labels count before they are decided."""
        return -self.losses(logits, targets).double()

    def prior(self, targets: Tensor, num_classes: int) -> Tensor:
        """Return the log-odds of each label's frequency, with one more image of either kind."""
        present = targets.sum(dim=0)
        return ((present + 1) / (len(targets) - present + 1)).log()

    def measure(self, logits: Tensor, targets: Tensor) -> Metrics:
        """Compute mean average precision, macro F1, exact-match accuracy and mean loss.

        Average precision is over the classes that have images, F1 over those that have images or
        are predicted.
        """
        from sklearn.metrics import average_precision_score

        predicted, truth = self.decide(logits), targets.double()
        support, given = truth.sum(dim=0), predicted.sum(dim=0).double()
        right = (predicted * truth).sum(dim=0)
        there, counted = support > 0, support + given > 0
        precision = 0.0 if bool(logits.isfinite().all()) else math.nan
        if bool(there.any()) and not math.isnan(precision):
            scores = average_precision_score(
                truth[:, there].numpy(), logits[:, there].numpy(), average=None
            )
            precision = float(scores.mean()) if there.sum() > 1 else float(scores)
        f1 = (2 * right[counted] / (support + given)[counted]).mean() if counted.any() else 0.0
        return Metrics(
            images=len(targets),
            values={
                "loss": float(self.loss(logits, targets)),
                "map": precision,
                "f1": float(f1),
                "accuracy": float(self.correct(logits, targets).double().mean()),
            },
            error=math.sqrt(precision * (1 - precision) / len(targets)),
            never_predicted=tuple((there & (given == 0)).nonzero().flatten().tolist()),
        )

    def baseline(self, counts: Sequence[int], images: int) -> Baseline:
        """Return the baseline of random ranking; its average precision is a label's frequency."""
        present = [count / images for count in counts if count]
        value = sum(present) / max(1, len(present))
        return Baseline(
            what="ranking images at random",
            value=value,
            error=math.sqrt(value * (1 - value) / images),
            loss=math.log(2),
        )


MULTI_LABEL = MultiLabel()
