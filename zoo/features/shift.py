"""Classifier two-sample test (Lopez-Paz and Oquab, 2017): do test images differ from others?"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.data.dataset import derive_seed
from zoo.data.split import group_indices
from zoo.features.probe import FOLDS
from zoo.features.transfer import some_of_each
from zoo.runs.scores import Scores
from zoo.runs.shift import SHIFTED, Shift
from zoo.tasks import Task

#: Maximum number of images of each set, and minimum.
MOST_IMAGES, LEAST_IMAGES = 300, 10

#: Random permutations.
_PERMUTATIONS = 999

#: Penalty of the squared weights, relative to the mean squared length of a row of features.
_PENALTY = 1.0


def measure_shift(known: Scores, test: Scores, task: Task, *, seed: int) -> Shift | None:
    """Test whether a classifier can tell test images from others of the same classes.

    The classifier is a ridge regression of the set that an image is in (Fisher's discriminant) on
    its features, both centred by class, and predicts the images of folds that it has not seen. The
    p-value is that of a permutation test of the covariance of set and prediction: sets are permuted
    among the groups of a class in a fold, and all classifiers fitted anew. So class frequencies,
    which differ likewise in each permutation, and groups, which are in one fold and one set, do not
    count.

    Args:
        known: Scores of val or train images; their features must not depend on which of the images
            the network was trained on.
        test: Scores of test images.
        task: Defines the strata, in the place of classes.
        seed: Determines folds, permutations, and which images are used of many.

    Returns:
        None if the sets have too few images in common classes, or so few that can change places,
        as with one val image of each class, that no p-value could be below `SHIFTED`.
    """
    sets = (known, test)
    chosen = [some_of_each(task.strata(each.targets), MOST_IMAGES, seed) for each in sets]
    features = torch.cat([s.features[rows] for s, rows in zip(sets, chosen, strict=True)])
    targets = torch.cat([s.targets[rows] for s, rows in zip(sets, chosen, strict=True)])
    samples = [s.samples[n] for s, rows in zip(sets, chosen, strict=True) for n in rows]
    in_test = torch.arange(len(samples)) >= len(chosen[0])
    strata = torch.tensor(task.strata(targets))
    common = torch.isin(strata, strata[~in_test]) & torch.isin(strata, strata[in_test])
    if min(int((common & in_test).sum()), int((common & ~in_test).sum())) < LEAST_IMAGES:
        return None
    groups = torch.tensor(group_indices(samples))[common]
    strata, in_test = torch.unique(strata[common], return_inverse=True)[1], in_test[common]
    random = torch.Generator().manual_seed(derive_seed(seed, "shift"))
    fold = _folds(in_test, strata, groups, random)
    labels = _permuted(in_test, FOLDS * strata + fold, groups, random)
    if torch.unique(labels, dim=1).shape[1] <= 1 / SHIFTED:
        return None
    centred = torch.nn.functional.one_hot(strata).double()
    means = centred / centred.sum(dim=0)

    def by_class(values: Tensor) -> Tensor:
        return values - centred @ (means.T @ values)

    rows = by_class(features[common].double())
    rows = rows / rows.square().mean(dim=0).sqrt().clamp_min(1e-12)
    expected = by_class(labels.double())
    predicted = _out_of_fold(rows @ rows.T / rows.shape[1], expected, fold)
    statistic = (predicted * expected).sum(dim=0)
    # A permutation that is the same assignment must not be less by rounding.
    reached = int((statistic[1:] >= statistic[0] - 1e-9 * statistic[0].abs()).sum())
    return Shift(
        known=known.split,
        separation=round(_separation(predicted[:, 0], in_test, strata), 4),
        p=(1 + reached) / (1 + _PERMUTATIONS),
    )


def _folds(in_test: Tensor, strata: Tensor, groups: Tensor, random: torch.Generator) -> Tensor:
    """Return the fold (N,) of each image: those of a group together, strata and sets spread."""
    numbers = torch.unique(groups, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    first = torch.full((count,), len(numbers)).scatter_reduce(
        0, numbers, torch.arange(len(numbers)), "amin"
    )
    keys = torch.rand(count, generator=random, dtype=torch.float64)
    rank = (2 * strata[first] + in_test[first] + keys).argsort().argsort()
    return (rank % FOLDS)[numbers]


def _permuted(in_test: Tensor, strata: Tensor, groups: Tensor, random: torch.Generator) -> Tensor:
    """Return the sets (N, 1 + permutations) of images: the true ones, then permuted ones.

    The images of a group in a set stay together, and change places with a group whose first image
    is of the same stratum.
    """
    units, of_unit = torch.unique(
        torch.stack([groups, in_test.long()], dim=1), dim=0, return_inverse=True
    )
    first = torch.full((len(units),), len(strata)).scatter_reduce(
        0, of_unit, torch.arange(len(strata)), "amin"
    )
    stratum, label = strata[first], in_test[first]
    places = stratum.argsort(stable=True)
    keys = torch.rand(len(units), _PERMUTATIONS, generator=random, dtype=torch.float64)
    order = (stratum[:, None] + keys).argsort(dim=0)
    shuffled = torch.empty(len(units), _PERMUTATIONS, dtype=torch.bool)
    shuffled.scatter_(0, order, label[places][:, None].expand_as(order))
    return torch.cat([label[:, None], shuffled], dim=1)[of_unit]


def _out_of_fold(kernel: Tensor, expected: Tensor, fold: Tensor) -> Tensor:
    """Predict (N, P) values from the kernel (N, N) of features by ridge regressions on folds."""
    penalty = _PENALTY * kernel.diagonal().mean().clamp_min(1e-12)
    predicted = torch.zeros_like(expected)
    for number in range(FOLDS):
        held_out = fold == number
        rest = ~held_out
        system = kernel[rest][:, rest]
        system = system + penalty * torch.eye(len(system), dtype=system.dtype)
        weights = torch.linalg.solve(system, expected[rest])
        predicted[held_out] = kernel[held_out][:, rest] @ weights
    return predicted


def _separation(predicted: Tensor, in_test: Tensor, strata: Tensor) -> float:
    """Return the share of pairs of one stratum that are ordered correctly; ties count half."""
    right = pairs = 0.0
    for stratum in torch.unique(strata).tolist():
        own = strata == stratum
        differences = predicted[own & in_test][:, None] - predicted[own & ~in_test]
        right += float((differences > 0).sum()) + float((differences == 0).sum()) / 2
        pairs += differences.numel()
    return right / pairs
