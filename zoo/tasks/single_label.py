"""Single-label classification: softmax and cross entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, one_hot

from zoo.tasks.task import Baseline, Metrics

#: Smallest frequency of a class whose logarithm is taken.
_RAREST = 1e-9


@dataclass(frozen=True)
class SingleLabel:
    """Single-label task; targets are class indices (N,) int64, metrics as in scikit-learn.

    In training with mixup or CutMix, targets are probabilities (N, classes) float32.
    """

    name: str = "single-label"
    metrics: tuple[str, ...] = ("accuracy", "balanced-accuracy", "f1", "log-loss")
    main: str = "accuracy"
    exclusive: bool = True
    metric_if_imbalanced: str | None = "balanced-accuracy"
    figures: tuple[str, ...] = ("accuracy", "balanced_accuracy", "f1", "auroc", "log_loss", "ece")
    activation: str = "softmax"
    problem_type: str | None = None
    thresholds: tuple[float, ...] = ()

    def targets(self, labels: Sequence[tuple[int, ...]], num_classes: int) -> Tensor:
        """Return class indices (N,) int64."""
        return torch.tensor([label for (label,) in labels], dtype=torch.long)

    def strata(self, targets: Tensor) -> list[int]:
        """Return the class of each image."""
        strata: list[int] = targets.tolist()
        return strata

    def losses(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Compute the cross entropy (N,) of each row."""
        return cross_entropy(
            logits, targets, class_weights, reduction="none", label_smoothing=label_smoothing
        )

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Compute the mean cross entropy ()."""
        return cross_entropy(logits, targets, class_weights, label_smoothing=label_smoothing)

    def weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return the class weight of each row; 1 for mixed images, as in `cross_entropy`."""
        if class_weights is None or targets.ndim == 2:
            return torch.ones(len(targets), device=targets.device)
        return class_weights[targets]

    def distill_losses(self, logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Compute the Kullback-Leibler divergence of softened softmax outputs, times T squared."""
        student, taught = (
            (each / temperature).log_softmax(dim=1) for each in (logits, teacher.to(logits))
        )
        each = kl_div(student, taught, reduction="none", log_target=True)
        return each.sum(dim=1) * temperature**2

    def terms(self, num_classes: int) -> int:
        """Return 1."""
        return 1

    def shares(self, targets: Tensor, num_classes: int) -> Tensor:
        """Return 1 for the class of each image; mixed targets as they are."""
        return targets if targets.ndim == 2 else one_hot(targets, num_classes).to(torch.float32)

    def class_weights(self, counts: Sequence[int], images: int) -> Tensor:
        """Return inverse frequencies, with mean 1 over the images (scikit-learn's `balanced`)."""
        return torch.tensor([images / (len(counts) * count) for count in counts])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Apply the softmax function."""
        return logits.softmax(dim=1)

    def logits(self, probabilities: Tensor, least: float) -> Tensor:
        """Return the logarithms of the probabilities."""
        return probabilities.clamp_min(least).log()

    def decide(self, logits: Tensor) -> Tensor:
        """Return the most probable class (N,)."""
        return logits.argmax(dim=1)

    def fit_thresholds(self, logits: Tensor, targets: Tensor) -> tuple[float, ...]:
        """Return none: the most probable class is predicted."""
        return ()

    def with_thresholds(self, thresholds: Sequence[float]) -> SingleLabel:
        """Return the task as it is; there are none."""
        return self

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return whether the top class is the target (N,), or a mixed image's largest target."""
        right = targets.argmax(dim=1) if targets.ndim == 2 else targets
        return logits.argmax(dim=1) == right

    def answers(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability of the top class, and whether it is the target, (N, 1) each."""
        top = self.probabilities(logits).max(dim=1, keepdim=True).values
        return top, self.correct(logits, targets)[:, None]

    def questions(
        self, probabilities: Tensor, targets: Tensor
    ) -> list[tuple[int | None, Tensor, Tensor]]:
        """Return one question: which class it is."""
        return [(None, probabilities, targets)]

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return 1 for each row that is predicted correctly, else 0 (N,)."""
        return self.correct(logits, targets).double()

    def prior(self, targets: Tensor, num_classes: int) -> Tensor:
        """Return the logarithms of the class frequencies."""
        counts = torch.bincount(targets, minlength=num_classes)
        return (counts / len(targets)).clamp_min(_RAREST).log()

    def measure(self, logits: Tensor, targets: Tensor) -> Metrics:
        """Compute accuracy, balanced accuracy, macro F1 and mean loss.

        Balanced accuracy is over the classes that have images, F1 over those that have images or
        are predicted.
        """
        classes = logits.shape[1]
        predicted = logits.argmax(dim=1)
        support = torch.bincount(targets, minlength=classes).double()
        given = torch.bincount(predicted, minlength=classes).double()
        right = torch.bincount(targets[predicted == targets], minlength=classes).double()
        there, counted = support > 0, support + given > 0
        accuracy = float(right.sum() / len(targets))
        return Metrics(
            images=len(targets),
            values={
                "loss": float(cross_entropy(logits, targets)),
                "accuracy": accuracy,
                "balanced_accuracy": float((right[there] / support[there]).mean()),
                "f1": float((2 * right[counted] / (support + given)[counted]).mean()),
            },
            error=math.sqrt(accuracy * (1 - accuracy) / len(targets)),
            never_predicted=tuple((there & (given == 0)).nonzero().flatten().tolist()),
        )

    def baseline(self, counts: Sequence[int], images: int) -> Baseline:
        """Return the baseline of always predicting the largest class."""
        share = max(counts) / images
        return Baseline(
            what="always naming the largest class",
            value=share,
            error=math.sqrt(share * (1 - share) / images),
            loss=math.log(len(counts)),
        )


SINGLE_LABEL = SingleLabel()
