"""Thresholds of probabilities by class, for the best F1 on held-out images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Labels with at least this probability are predicted, unless held-out images suggest another.
THRESHOLD = 0.5

#: Number of held-out images with a label, and without it, below which the default is kept.
LEAST = 3

#: Number of images that the default counts for: the log-odds of a threshold from N images with the
#: label, or without it if these are fewer, are multiplied by N / (N + _PRIOR); see
#: docs/confidence.md.
_PRIOR = 5

#: Smallest distance of a probability to 0 and 1, of which the log-odds are taken.
_EDGE = 1e-6


def f1_thresholds(probabilities: NDArray[Any], truth: NDArray[np.bool_]) -> tuple[float, ...]:
    """Choose for each class the threshold with the best F1 on held-out images, deterministically.

    F1 is the same for all thresholds between two neighbouring probabilities; the one in the middle
    (of their log-odds) is taken. It is shrunk towards 0.5, because the best one of few images is
    mostly chance: of a class with few images, it would do worse than 0.5 on new images.

    Args:
        probabilities: (N, classes), calibrated, of images that the classifier was not trained on.
        truth: (N, classes), whether the image has the label.

    Returns:
        A threshold for each class, above 0 and below 1, of four significant digits: 0.5 for classes
        with fewer than `LEAST` images with or without the label. Empty if this is so of all.
    """
    support = truth.sum(axis=0)
    fewer = np.minimum(support, len(truth) - support)
    chosen = np.flatnonzero(fewer >= LEAST)
    found = np.full(truth.shape[1], THRESHOLD)
    for n in chosen:
        log_odds = _best(probabilities[:, n].astype(np.float64), truth[:, n])
        log_odds *= fewer[n] / (fewer[n] + _PRIOR)
        found[n] = float(f"{1 / (1 + np.exp(-log_odds)):.4g}")
    return tuple(found.tolist()) if len(chosen) else ()


def _best(probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the log-odds in the middle of the thresholds with the best F1."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = np.clip(probabilities[order], _EDGE, 1 - _EDGE)
    right = np.cumsum(truth[order])
    f1 = 2 * right / (np.arange(1, len(ranked) + 1) + right[-1])
    log_odds = np.log(ranked) - np.log1p(-ranked)
    below = np.append(log_odds[1:], np.log(_EDGE) - np.log1p(-_EDGE))
    # A threshold can't separate images of the same probability.
    f1[below == log_odds] = -1
    best = int(f1.argmax())
    return float(log_odds[best] + below[best]) / 2
