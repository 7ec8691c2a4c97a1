"""Measure and extrapolate how accuracy grows with the number of images, by probes on parts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.dataset import derive_seed
from zoo.data.sample import Sample
from zoo.features.probe import Probe, logits_of_parts
from zoo.runs.growth import Growth
from zoo.tasks import Task

#: Parts of the train images that probes are fitted to, besides all of them.
PARTS = (0.1, 0.2, 0.5)

#: Number of probes of each part.
DRAWS = 3

#: Minimum number of images per class in a part, on average.
_FEWEST = 2

#: Maximum of rows x features x classes: above it the probes would take more than a second.
MOST_WORK = 3e7

#: Replicates of the bootstrap, and exponents that are tried for the curve.
_REPLICATES, _EXPONENTS = 300, np.linspace(0.1, 1.5, 29)


def measure_growth(
    full: Probe,
    samples: Sequence[Sample],
    learnt: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    *,
    num_classes: int,
    task: Task,
    seed: int,
) -> Growth | None:
    """Fit probes to parts of the train images and extrapolate their accuracy.

    The error is fitted by an inverse power law with an offset, `a + b * images ** -c` (Cortes et
    al., 1993), by least squares. The interval of the gain is that of a bootstrap over val images
    and probes.

    Args:
        full: The probe that is fitted to all train images.
        samples: The train images; those of a group are in a part together.
        learnt: Features (N, C) and targets (N, ...) of the train images.
        val: Features and targets of the val images.
        num_classes: Number of outputs.
        task: Defines loss and accuracy.
        seed: Decides which images a part has.

    Returns:
        None if the work is too large, or there is no part that has enough images of each class.
    """
    features, targets = learnt
    if features.numel() * num_classes > MOST_WORK:
        return None
    strata = task.strata(targets)
    counts, right = [], []
    for part in PARTS:
        if part * len(targets) < _FEWEST * num_classes:
            continue
        drawn = [_part(samples, strata, part, derive_seed(seed, "part", n)) for n in range(DRAWS)]
        # A class that a part lacks would make it a different task.
        if any(len({strata[n] for n in each}) < len(set(strata)) for each in drawn):
            continue
        chosen = torch.zeros(len(targets), DRAWS, dtype=torch.bool)
        for n, each in enumerate(drawn):
            chosen[each, n] = True
        images = round(int(chosen.sum()) / DRAWS)
        # The losses of a part are fewer: the same penalty for each is a larger one for their mean.
        penalty = full.penalty * len(targets) / images
        logits = logits_of_parts(learnt, chosen, penalty, val[0], num_classes, task)
        counts.append(images)
        right.append(np.stack([_correct(each, val[1], task) for each in logits.unbind(dim=1)]))
    if not counts:
        return None
    counts.append(len(targets))
    right.append(_correct(full.logits(val[0]).cpu(), val[1], task)[None])
    curve = gain = None
    if len(counts) >= 3:
        curve, gain = _extrapolate(np.array(counts, dtype=np.float64), right, seed)
    return Growth(
        images=tuple(counts),
        accuracy=tuple(tuple(each.mean(axis=1).tolist()) for each in right),
        curve=curve,
        gain=gain,
    )


def _correct(logits: Tensor, targets: Tensor, task: Task) -> NDArray[np.float64]:
    right: NDArray[np.float64] = task.correct(logits, targets).double().numpy()
    return right


def _part(samples: Sequence[Sample], strata: Sequence[int], part: float, seed: int) -> list[int]:
    """Return the positions of a random part of the images, with that part of each stratum."""
    units: dict[Hashable, list[int]] = {}
    for n, sample in enumerate(samples):
        units.setdefault(n if sample.group is None else sample.group, []).append(n)
    members = list(units.values())
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(members), generator=generator).tolist()
    order.sort(key=lambda unit: strata[members[unit][0]])
    count = max(1, round(part * len(order)))
    chosen = [order[n * len(order) // count] for n in range(count)]
    return sorted(n for unit in chosen for n in members[unit])


def _extrapolate(
    counts: NDArray[np.float64], right: Sequence[NDArray[np.float64]], seed: int
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Return the curve, and the gain with its interval.

    Args:
        counts: (P,) number of images of each part.
        right: (probes, V) of each part, whether each val image is predicted correctly.
        seed: Of the bootstrap.
    """
    errors = np.array([[1 - each.mean() for each in right]])
    curve = _curves(counts, errors)[0]
    random = np.random.default_rng(derive_seed(seed, "bootstrap"))
    images = right[0].shape[1]
    weights = random.multinomial(images, np.full(images, 1 / images), _REPLICATES) / images
    columns = []
    for each in right:
        by_probe = weights @ each.T
        drawn = random.integers(len(each), size=by_probe.shape)
        columns.append(1 - np.take_along_axis(by_probe, drawn, axis=1).mean(axis=1))
    gains = _gain(_curves(counts, np.stack(columns, axis=1)), counts[-1])
    low, high = np.quantile(gains, (0.025, 0.975))
    a, b, c = (float(value) for value in curve)
    return (a, b, c), (float(_gain(curve[None], counts[-1])[0]), float(low), float(high))


def _gain(curves: NDArray[np.float64], images: float) -> NDArray[np.float64]:
    _, b, c = curves.T
    gain: NDArray[np.float64] = b * (images**-c - (2 * images) ** -c)
    return gain


def _curves(counts: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit (a, b, c) (R, 3) with a and b of at least 0 to errors (R, P), by least squares."""
    found = np.zeros((len(errors), 3))
    best = np.full(len(errors), np.inf)
    mean = errors.mean(axis=1)
    for exponent in _EXPONENTS:
        x = counts**-exponent
        spread = x - x.mean()
        free = np.maximum(0, (errors - mean[:, None]) @ spread / (spread @ spread))
        offset = mean - free * x.mean()
        # Where the offset would be negative, it is 0 and the slope that of a line through 0.
        free = np.where(offset < 0, errors @ x / (x @ x), free)
        offset = np.maximum(0, offset)
        residual = ((errors - offset[:, None] - free[:, None] * x) ** 2).sum(axis=1)
        better = residual < best
        best[better] = residual[better]
        found[better] = np.stack([offset, free, np.full(len(errors), exponent)], axis=1)[better]
    return found
