"""Temperature scaling: one number that makes a classifier's probabilities match its error rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import FailFast, Field
from torch import Tensor

from zoo.runs.confidence import Confidence, confidence_of
from zoo.tasks import Task

#: Smallest and largest temperature.
LIMITS = (0.05, 20.0)

#: A temperature, as it is read from a file.
Temperature = Annotated[float, Field(ge=LIMITS[0], le=LIMITS[1], allow_inf_nan=False)]

#: Thresholds by class, as they are read from a file.
Thresholds = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)], ...], FailFast()
]

#: Mean of the logarithm of the temperature before any held-out image is seen, and its deviation. A
#: probe is regularised by cross-validation; fine-tuning on a few images makes a network
#: overconfident. Rounded from the best temperatures of runs on small sets; see docs/confidence.md.
_PROBE, _FINE_TUNED, _DEVIATION = 0.0, 0.65, 0.5

#: Number of held-out images below which the prior matters, and a run says so.
FEW = 30


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What held-out images say of a classifier's probabilities.

    Attributes:
        images: Number of held-out images.
        temperature: Divides the logits before softmax or sigmoid.
        confidence: How sure and how right the classifier then is; None for multi-label.
        thresholds: Multi-label: the probability from which on each label is predicted; empty if
            there are too few images for any.
    """

    images: Annotated[int, Field(ge=1, le=2**40)]
    temperature: Temperature
    confidence: Confidence | None = None
    thresholds: Thresholds = ()


def calibrate(logits: Tensor, targets: Tensor, task: Task, *, probe: bool) -> Calibration:
    """Fit the temperature, and with it the tables of confidence or the thresholds of labels.

    Arguments are as in `fit_temperature`.
    """
    temperature = fit_temperature(logits, targets, task, probe=probe)
    confidence = None
    if task.exclusive:
        confidence = confidence_of(task.probabilities(logits / temperature), targets)
    return Calibration(
        images=len(targets),
        temperature=temperature,
        confidence=confidence,
        thresholds=task.fit_thresholds(logits / temperature, targets),
    )


def fit_temperature(logits: Tensor, targets: Tensor, task: Task, *, probe: bool) -> float:
    """Fit the temperature by which logits are divided (Guo et al., 2017), deterministically.

    The temperature is the one of highest posterior density: the likelihood is the task's, of
    held-out images, and the prior of its logarithm is normal. With many images, the prior has no
    influence; with few, the likelihood alone would choose a temperature near 0 where all of them
    happen to be classified correctly.

    Args:
        logits: (N, classes) float32 of images that the classifier was not trained on; N may be 0.
        targets: (N, ...) as defined by the task.
        task: Defines the likelihood.
        probe: Whether the classifier is a linear probe.

    Returns:
        The temperature, within `LIMITS`, rounded to four decimals.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()
    mean = _PROBE if probe else _FINE_TUNED

    def objective(log_temperature: float) -> float:
        losses = task.losses(logits / math.exp(log_temperature), targets)
        return float(losses.sum()) + ((log_temperature - mean) / _DEVIATION) ** 2 / 2

    low, high = map(math.log, LIMITS)
    found = minimize_scalar(objective, bounds=(low, high), method="bounded")
    return round(min(max(math.exp(found.x), LIMITS[0]), LIMITS[1]), 4)
