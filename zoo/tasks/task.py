"""Interface of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of a model on labelled images.

    Attributes:
        images: Number of images.
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
        """Return a metric by its name in `Recipe.metric`, negated if lower is better."""
        return -self.loss if metric == "log-loss" else self.values[metric.replace("-", "_")]


#: Metrics of a run without val images.
UNMEASURED = Metrics(images=0, values={}, error=0.0)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Performance of a model that ignores its input.

    Attributes:
        what: Description of the model.
        value: Its value of the task's main metric, 0..1.
        error: Standard error of that value, on this number of images.
        loss: Mean loss, in nats, of predicting the same probability for each class.
    """

    what: str
    value: float
    error: float
    loss: float


def metric_label(name: str) -> str:
    """Return the name of a metric as it is printed."""
    return {"map": "mAP", "auroc": "AUROC", "f1": "F1", "ece": "calibration error"}.get(
        name, name.replace("_", " ").replace("-", " ")
    )


class Criterion(Protocol):
    """What a training step minimises and counts."""

    def loss(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Compute the training loss (), a mean weighted by `weights`.

        Args:
            logits: (N, classes) float32.
            targets: (N, ...).
            class_weights: (classes,), or None.
            label_smoothing: 0..1.
        """

    def weights(self, targets: Tensor, class_weights: Tensor | None) -> Tensor:
        """Return the weight (N,) of each row in `loss`."""

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return whether each row is predicted correctly, (N,) bool."""


class Task(Criterion, Protocol):
    """Interface of a task: targets, loss, metrics and predictions."""

    @property
    def name(self) -> str:
        """Name, as in `Recipe.task`."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that can select the best epoch, as in `Recipe.metric`; the default is first."""

    @property
    def main(self) -> str:
        """Metric, with underscores, that is shown in training and compared with a baseline.

        Higher is better.
        """

    @property
    def exclusive(self) -> bool:
        """Whether each image has exactly one label."""

    @property
    def metric_if_imbalanced(self) -> str | None:
        """Metric that selects the best epoch if classes are strongly imbalanced; None: the same."""

    @property
    def figures(self) -> tuple[str, ...]:
        """Metrics, with underscores, that are reported with their intervals, in this order."""

    @property
    def activation(self) -> str:
        """Name of the function that makes probabilities of logits."""

    @property
    def problem_type(self) -> str | None:
        """Value of `problem_type` in the config.json of transformers; None: its default."""

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Probability from which on each class is predicted, if an image may have several.

        Empty: 0.5 for all classes.
        """

    def targets(self, labels: Sequence[tuple[int, ...]], num_classes: int) -> Tensor:
        """Convert the labels of N images to targets (N, ...)."""

    def strata(self, targets: Tensor) -> list[int]:
        """Return the stratum of each target; strata are spread evenly over folds."""

    def losses(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Compute the negative log-likelihood (N,) of each row, in nats; arguments as of `loss`."""

    def distill_losses(self, logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Compute the distillation loss (N,) of each row (Hinton et al., 2015), in nats.

        It is multiplied by the square of the temperature, because the gradients of softened targets
        are smaller by this factor.

        Args:
            logits: (N, classes) float32.
            teacher: Logits (N, classes) float32 of another network for the same images.
            temperature: Above 0; divides both logits.
        """

    def terms(self, num_classes: int) -> int:
        """Return the number of terms whose sum each of `losses` is, and `loss` the mean."""

    def shares(self, targets: Tensor, num_classes: int) -> Tensor:
        """Return targets, which may be mixed, as shares of classes (N, classes) float32."""

    def class_weights(self, counts: Sequence[int], images: int) -> Tensor:
        """Compute weights (classes,) that compensate for class imbalance.

        Args:
            counts: Number of images of each class.
            images: Number of all images.
        """

    def probabilities(self, logits: Tensor) -> Tensor:
        """Compute probabilities (N, classes)."""

    def logits(self, probabilities: Tensor, least: float) -> Tensor:
        """Return logits (N, classes) that give these probabilities, each taken as >= `least`."""

    def decide(self, logits: Tensor) -> Tensor:
        """Return predictions, in the form of targets.

        With `thresholds`, logits are those divided by the temperature.
        """

    def fit_thresholds(self, logits: Tensor, targets: Tensor) -> tuple[float, ...]:
        """Choose `thresholds` on images that the classifier was not trained on.

        Args:
            logits: (N, classes), divided by the temperature.
            targets: (N, ...).
        """

    def with_thresholds(self, thresholds: Sequence[float]) -> Task:
        """Return the task with these `thresholds`."""

    def answers(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return what calibration is measured on: A answers for each image, 1 or one by class.

        Returns:
            The probability of each answer, (N, A), and whether it applies, (N, A) bool. Each of
            `losses` is a sum of A terms, of which `loss` is the mean.
        """

    def questions(
        self, probabilities: Tensor, targets: Tensor
    ) -> list[tuple[int | None, Tensor, Tensor]]:
        """Return the questions with exclusive answers that an image's labels answer.

        Returns:
            For each question its label (None: it is about all), the probabilities (N, answers) and
            the given answers (N,) int64. Answers are the classes, or no and yes.
        """

    def scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return a score (N,) float64 of each row, for paired tests; higher is better."""

    def prior(self, targets: Tensor, num_classes: int) -> Tensor:
        """Return the logits (classes,) of always predicting the frequencies of the classes."""

    def measure(self, logits: Tensor, targets: Tensor) -> Metrics:
        """Compute the metrics of logits (N, classes)."""

    def baseline(self, counts: Sequence[int], images: int) -> Baseline:
        """Return the performance of ignoring the images; arguments as in `class_weights`."""
