"""Suspected labels, by confident learning on the held-out probabilities of a linear probe."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.dataset import derive_seed
from zoo.features.probe import FOLDS, Origin, Probe, fit_probe, out_of_fold
from zoo.tasks import Task

#: Minimum number of images of a class whose labels are judged, so that each fold has one.
LEAST = FOLDS


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A label that is probably wrong.

    Attributes:
        position: Position of the image.
        label: Class index of the given label; for multi-label, of the label that is judged.
        suggested: Class index of the suggested label; for multi-label, 1 if the label should be
            added and 0 if it should be removed.
        probability: Probability of the suggestion, for an image that the probe was not fitted to.
        score: Probability of what is given; the lower, the more suspicious.
    """

    position: int
    label: int
    suggested: int
    probability: float
    score: float


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """The suspected labels of a dataset."""

    ranked: tuple[Suspect, ...]
    probabilities: Tensor
    not_judged: tuple[int, ...]


def find_suspects(
    features: Tensor,
    targets: Tensor,
    num_classes: int,
    *,
    task: Task,
    groups: Tensor | None = None,
    seed: int = 0,
    held_out: Tensor | None = None,
) -> Suspects:
    """Find labels that are probably wrong, by confident learning (Northcutt et al., 2021).

    A label is suspected if the image is an off-diagonal entry of the confident joint: among the
    classes whose held-out probability is at least the mean probability of that class over the
    images that are given it, the most probable one is not the given one. Suspects are ranked by the
    probability of the given label. In multi-label datasets, each label is judged separately.

    This is done twice: the second time, the probes are not fitted to the suspects of the first,
    whose labels would make them less sure of all others.

    Args:
        features: (N, C) float32.
        targets: (N, ...) as defined by the task.
        num_classes: Number of classes.
        task: The task.
        groups: (N,) int64; images of a group are in the same fold. Default: no groups.
        seed: Determines the folds.
        held_out: `Probe.held_out` of a probe that was fitted to the same arguments, if there is
            one and it is of all rows.

    Raises:
        TrainingError: A feature is not finite.
    """
    if groups is None:
        groups = torch.arange(len(features))
    logits = _held_out(features, targets, num_classes, task, groups, seed, held_out)
    probabilities = task.probabilities(logits)
    first = _ranked(probabilities, targets, task)
    kept = torch.ones(len(features), dtype=torch.bool)
    kept[[each.position for each in first]] = False
    not_judged = _too_few(probabilities, targets, task)
    if first and _too_few(probabilities[kept], targets[kept], task) == not_judged:
        logits[kept] = _held_out(
            features[kept], targets[kept], num_classes, task, groups[kept], seed
        )
        probe = _fit(features[kept], targets[kept], num_classes, task, groups[kept], seed)
        logits[~kept] = probe.logits(features[~kept]).cpu()
    probabilities = task.probabilities(logits)
    return Suspects(
        ranked=tuple(_ranked(probabilities, targets, task)),
        probabilities=probabilities,
        not_judged=not_judged,
    )


def _ranked(probabilities: Tensor, targets: Tensor, task: Task) -> list[Suspect]:
    """Return the suspects, the most suspicious first."""
    found = [
        Suspect(
            position=n,
            label=int(given[n]) if label is None else label,
            suggested=suggested,
            probability=float(answers[n, suggested]),
            score=float(answers[n, given[n]]),
        )
        for label, answers, given in task.questions(probabilities, targets)
        for n, suggested in confident_errors(answers, given)
    ]
    return sorted(found, key=lambda each: (each.score, each.position, each.label))


def _too_few(probabilities: Tensor, targets: Tensor, task: Task) -> tuple[int, ...]:
    """Return the classes, or labels, with too few images of an answer to be judged."""
    found: list[int] = []
    for label, answers, given in task.questions(probabilities, targets):
        counts = torch.bincount(given, minlength=answers.shape[1])
        few = torch.nonzero(counts < LEAST).flatten().tolist()
        found += few if label is None else [label] * bool(few)
    return tuple(found)


def confident_errors(probabilities: Tensor, given: Tensor) -> list[tuple[int, int]]:
    """Return the off-diagonal entries of the confident joint (Northcutt et al., 2021, section 3.1).

    Classes with less than `LEAST` images are neither judged nor suggested.

    Args:
        probabilities: (N, classes), held out.
        given: (N,) int64, the given class of each image.

    Returns:
        (position, suggested class) of each.
    """
    classes = probabilities.shape[1]
    counts = torch.bincount(given, minlength=classes)
    sums = torch.zeros(classes).index_add_(
        0, given, probabilities.gather(1, given[:, None]).flatten()
    )
    thresholds = torch.where(counts >= LEAST, sums / counts.clamp_min(1), torch.inf)
    confident = probabilities >= thresholds
    best = probabilities.masked_fill(~confident, -1).max(dim=1)
    wrong = (best.values >= 0) & (best.indices != given) & (counts[given] >= LEAST)
    return [(n, int(best.indices[n])) for n in torch.nonzero(wrong).flatten().tolist()]


def _held_out(
    features: Tensor,
    targets: Tensor,
    num_classes: int,
    task: Task,
    groups: Tensor,
    seed: int,
    known: Tensor | None = None,
) -> Tensor:
    """Return held-out logits (N, classes) of all images.

    `out_of_fold` holds out a single fold of a large dataset; the others are then held out one by
    one.
    """
    if known is None:
        known = out_of_fold(features, targets, num_classes, task=task, groups=groups, seed=seed)
    logits = known.clone()
    missing = logits.isnan().any(dim=1)
    if not missing.any():
        return logits
    names = torch.unique(groups[missing])
    generator = torch.Generator().manual_seed(derive_seed(seed, "folds"))
    names = names[torch.randperm(len(names), generator=generator)]
    for part in names.chunk(FOLDS - 1):
        held_out = torch.isin(groups, part)
        rest = ~held_out
        probe = _fit(features[rest], targets[rest], num_classes, task, groups[rest], seed)
        logits[held_out] = probe.logits(features[held_out]).cpu()
    return logits


def _fit(
    features: Tensor, targets: Tensor, num_classes: int, task: Task, groups: Tensor, seed: int
) -> Probe:
    origin = Origin(images=torch.arange(len(features)), groups=groups)
    return fit_probe(features, targets, num_classes, task=task, origin=origin, seed=seed)
