"""The contract of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of a model on labelled images.

    Attributes:
        images: How many.
        values: `loss` (mean, in nats) and the task's metrics, 0..1, by name with underscores.
        error: Standard error of the task's main metric.
        never_predicted: Indices of classes that have images and are predicted for none.
    """

    images: int
    values: Mapping[str, float]
    error: float
    never_predicted: tuple[int, ...] = ()

    @property
    def loss(self) -> float:
        """Mean loss, in nats."""
        return self.values["loss"]

    def value(self, metric: str) -> float:
        """The metric of that name (as in `Recipe.metric`), negated if less is better."""
        return -self.loss if metric == "log-loss" else self.values[metric.replace("-", "_")]


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What a model reaches that ignores its input.

    Attributes:
        what: Such a model, in words.
        value: Its value of the task's main metric, 0..1.
        error: Standard error of that on the images at hand.
        loss: Mean loss, in nats, of giving each class the same probability.
    """

    what: str
    value: float
    error: float
    loss: float


def metric_label(name: str) -> str:
    """A metric's name as it is printed."""
    return {"map": "mAP"}.get(name, name.replace("_", " ").replace("-", " "))


class Task(Protocol):
    """How labels become targets, the loss, the metrics, and what a prediction is."""

    @property
    def name(self) -> str:
        """As in `Recipe.task`."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those that can decide which epoch is best, as in `Recipe.metric`; first the default."""

    @property
    def main(self) -> str:
        """The metric, with underscores, that is shown in training and compared with a baseline.

        More is better.
        """

    def targets(self, labels: Sequence[tuple[int, ...]], num_classes: int) -> Tensor:
        """Targets (N, ...) of the labels of N images."""

    def strata(self, targets: Tensor) -> list[int]:
        """For each target a number; images of one number are spread evenly over folds."""

    def losses(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The negative log-likelihood (N,) of each row, in nats.

        Args:
            logits: (N, classes) float32.
            targets: (N, ...).
            class_weights: (classes,), or None.
            label_smoothing: 0..1.
        """

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The training loss (), arguments as in `losses`: a mean weighted by `weights`."""

    def weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        """The weight (N,) of each row in `loss`."""

    def class_weights(self, counts: Sequence[int], images: int) -> Tensor:
        """Weights (classes,) that make up for imbalance.

        Args:
            counts: Images of each class.
            images: How many there are in all.
        """

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (N, classes)."""

    def decide(self, logits: Tensor) -> Tensor:
        """Predictions, as targets are."""

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Whether each row is predicted correctly, (N,) bool."""

    def measure(self, logits: Tensor, targets: Tensor) -> Metrics:
        """The metrics of logits (N, classes)."""

    def baseline(self, counts: Sequence[int], images: int) -> Baseline:
        """What ignoring the images reaches; arguments as in `class_weights`."""
