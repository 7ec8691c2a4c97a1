"""Intervals of a share, and tests of whether two classifiers differ on the same images."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

#: Difference from which two classifiers count as different.
SIGNIFICANT = 0.05

#: Random sign flips of a permutation test.
_FLIPS = 9_999

#: Rows of signs that are drawn at a time.
_FLIPS_AT_ONCE = 500


def wilson_interval(right: float, images: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a share (Wilson, 1927).

    Args:
        right: Number of images predicted correctly; a fraction for a mean of other scores.
        images: Number of images, above 0.
        confidence: Probability that the interval contains the share.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / images
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images**2))
    half /= 1 + z * z / images
    # At 0 and 1 the interval ends there, but for rounding.
    low = 0.0 if share == 0 else max(0.0, centre - half)
    high = 1.0 if share == 1 else min(1.0, centre + half)
    return low, high


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of the exact test of McNemar (1947)."""
    differing = only_first + only_second
    tail = sum(math.comb(differing, k) for k in range(min(only_first, only_second) + 1))
    # Integers until the last step: 2 ** differing may be too large for a float.
    return min(1.0, tail / int(2 ** (differing - 1))) if differing else 1.0


def paired_p(
    first: Tensor,
    second: Tensor,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
) -> float:
    """Return the two-sided p-value of the difference between the scores of the same images.

    It is the exact test of McNemar if scores are 0 or 1 and weights are equal; else a permutation
    test that flips the signs of differences at random (Fisher, 1935), always the same ones. Images
    of a group are not independent: the differences of a group are added up, and count as one.

    Args:
        first: Scores (N,) by one classifier.
        second: Scores (N,) by the other, of the same images.
        weights: Weights (N,) of the images; None: all are equal.
        groups: (N,) int64, index of the group of each image; None: each is one of its own.
    """
    differences = (first - second).double().cpu()
    if weights is not None:
        differences = differences * weights.double().cpu()
    if groups is not None:
        numbers = torch.unique(groups, return_inverse=True)[1]
        sums = torch.zeros(int(numbers.max()) + 1, dtype=differences.dtype)
        differences = sums.index_add(0, numbers, differences)
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    sizes = differences.abs()
    if bool((sizes == sizes[0]).all()):
        return mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))
    generator = torch.Generator().manual_seed(0)
    # A flip that only reorders the same sum must not be less by rounding.
    least = float(differences.sum().abs()) * (1 - 1e-9)
    reached = 0
    for start in range(0, _FLIPS, _FLIPS_AT_ONCE):
        shape = (min(_FLIPS_AT_ONCE, _FLIPS - start), len(differences))
        signs = torch.randint(0, 2, shape, generator=generator).double() * 2 - 1
        reached += int(((signs @ differences).abs() >= least).sum())
    return (1 + reached) / (1 + _FLIPS)


def class_balance(targets: Tensor, num_classes: int) -> Tensor:
    """Return weights (N,) with which each class counts the same; targets are class indices."""
    counts = torch.bincount(targets, minlength=num_classes).clamp_min(1)
    return 1 / counts[targets].double()
