"""What the held-out images of a run say of its probabilities: thresholds and prediction sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from zoo.errors import DataError

#: Maximum number of rows of each table; more held-out images are summarised.
MOST_ROWS = 512

#: Probability with which `error_threshold` keeps its promise.
ASSURANCE = 0.9

#: Shares of the held-out images, most confident first, whose error rate `error_threshold` tests.
_SHARES = tuple(share / 20 for share in range(6, 21))

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**40)]


@dataclass(frozen=True, kw_only=True)
class Confidence:
    """Confidence and correctness of a single-label run on held-out images, in two small tables.

    Attributes:
        images: Number of held-out images.
        thresholds: Probabilities, falling.
        covered: For each threshold, the number of images whose best class has at least it.
        wrong: For each threshold, the number of these that are classified wrongly.
        misfits: Quantiles of 1 - probability of the true class, rising: all, or `MOST_ROWS` of
            them at equal distances, each rounded up to the next one that occurs.
    """

    images: Annotated[int, Field(ge=1, le=2**40)]
    thresholds: Annotated[tuple[_Share, ...], Field(min_length=1, max_length=MOST_ROWS)]
    covered: Annotated[tuple[_Count, ...], Field(min_length=1, max_length=MOST_ROWS)]
    wrong: Annotated[tuple[_Count, ...], Field(min_length=1, max_length=MOST_ROWS)]
    misfits: Annotated[tuple[_Share, ...], Field(min_length=1, max_length=MOST_ROWS)]

    def __post_init__(self) -> None:
        if not len(self.thresholds) == len(self.covered) == len(self.wrong):
            raise ValueError("thresholds, covered and wrong differ in length")
        if len(self.misfits) != min(self.images, MOST_ROWS):
            raise ValueError(f"{len(self.misfits)} misfits of {self.images} images")
        rising = (self.covered, self.wrong, self.misfits, [-t for t in self.thresholds])
        if any(list(values) != sorted(values) for values in rising):
            raise ValueError("a table is not sorted")
        if self.covered[-1] > self.images or any(
            wrong > covered for wrong, covered in zip(self.wrong, self.covered, strict=True)
        ):
            raise ValueError("covered or wrong exceeds the number of images")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold for the probability of the best class, and what it meant on the held-out images.

    Attributes:
        probability: The threshold.
        coverage: Share of the held-out images that reach it, 0..1.
        error: Share of these that are classified wrongly, 0..1.
    """

    probability: float
    coverage: float
    error: float


def confidence_of(probabilities: Tensor, targets: Tensor) -> Confidence:
    """Summarise probabilities (N, classes) of held-out images with class indices (N,)."""
    values, indices = probabilities.double().max(dim=1)
    order = values.argsort(descending=True, stable=True)
    wrong = (indices != targets)[order].cumsum(0).tolist()
    sorted_values = values[order].tolist()
    # Images of the same probability are covered together.
    ends = [
        n
        for n, value in enumerate(sorted_values)
        if n + 1 == len(sorted_values) or sorted_values[n + 1] < value
    ]
    ends = [ends[n] for n in _spread(len(ends))]
    misfits = (1 - probabilities.double().gather(1, targets[:, None]).flatten()).sort().values
    return Confidence(
        images=len(targets),
        # Rounded down, so that the images that define a threshold reach it.
        thresholds=tuple(math.floor(sorted_values[n] * 1e6) / 1e6 for n in ends),
        covered=tuple(n + 1 for n in ends),
        wrong=tuple(wrong[n] for n in ends),
        misfits=tuple(
            min(1.0, math.ceil(float(misfits[n]) * 1e6) / 1e6) for n in _spread(len(misfits))
        ),
    )


def _spread(count: int) -> list[int]:
    """Return at most `MOST_ROWS` of `count` positions, evenly spread, the last among them."""
    rows = min(count, MOST_ROWS)
    return [math.ceil(count * (n + 1) / rows) - 1 for n in range(rows)]


def error_threshold(confidence: Confidence, max_error: float) -> Threshold:
    """Return the lowest threshold for which at most that share of the answers is wrong.

    With probability `ASSURANCE` over the choice of held-out images, the error rate of the answers
    on images from the same source is at most `max_error`: for the most confident 30 % of the
    held-out images, then 35 % and so on, the hypothesis of a higher rate is tested by the binomial
    bound of Clopper and Pearson (1934), up to the first that can't be rejected. Testing in a fixed
    order keeps the probability (Learn then Test, Angelopoulos et al., 2021); shares that are too
    small to reject it even without any mistake are left out beforehand.

    Raises:
        DataError: The held-out images can't show such a rate for any threshold.
    """
    from scipy.stats import beta

    def upper(wrong: int, count: int) -> float:
        if wrong >= count:
            return 1.0
        return float(beta.ppf(ASSURANCE, wrong + 1, count - wrong))

    found, least = None, 1.0
    for share in _SHARES:
        row = next(
            (n for n, c in enumerate(confidence.covered) if c >= share * confidence.images - 1e-9),
            len(confidence.covered) - 1,
        )
        count, wrong = confidence.covered[row], confidence.wrong[row]
        if count == 0 or upper(0, count) > max_error:
            least = min(least, upper(wrong, count) if count else 1.0)
            continue
        bound = upper(wrong, count)
        least = min(least, bound)
        if bound > max_error:
            break
        found = Threshold(
            probability=confidence.thresholds[row],
            coverage=count / confidence.images,
            error=wrong / count,
        )
    if found is None:
        raise DataError(
            f"the run's {confidence.images} held-out images can't show an error rate of "
            f"{max_error:.1%} or less; the lowest that they show is {least:.1%}",
            hint="allow a larger rate, set the threshold itself with `min_confidence`, or train "
            "with more val images or with `folds`",
        )
    return found


def set_threshold(confidence: Confidence, coverage: float) -> float:
    """Return the probability from which on a class is in a prediction set.

    Split conformal prediction with the least ambiguous sets (Sadinle, Lei and Wasserman, 2019):
    for images from the source of the held-out images, the set has the true class with at least that
    probability, on average over images and choices of held-out images, whatever the classifier is.

    Raises:
        DataError: There are too few held-out images for it.
    """
    images = confidence.images
    rank = math.ceil((images + 1) * coverage - 1e-9)
    if rank > images:
        needed = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise DataError(
            f"prediction sets with a coverage of {coverage:.1%} need {needed} held-out images, "
            f"the run has {images}",
            hint="ask for a smaller coverage, or train with more val images or with `folds`",
        )
    # The next of the stored ranks, which is at least as high.
    rows = len(confidence.misfits)
    row = math.ceil(rank * rows / images - 1e-9) - 1
    return 1 - confidence.misfits[row]


def prediction_set(ranked: Sequence[tuple[str, float]], threshold: float) -> tuple[str, ...]:
    """Return the classes of (name, probability), best first, that reach it; at least the best."""
    names = [name for name, probability in ranked if probability >= threshold]
    return tuple(names) if names else (ranked[0][0],)
