"""The verdict on transfer: pretrained features against random ones and none, by probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.dataset import derive_seed
from zoo.features.probe import out_of_fold
from zoo.runs.transfer import Transfer
from zoo.tasks import Task
from zoo.tasks.paired import SIGNIFICANT, class_balance, paired_p

#: Maximum number of images before fine-tuning, which takes at least 20 times as long for each.
_MOST = 300

#: If only a probe is fitted: number of images, at least so many of each class; more if they are at
#: most this share of all.
_FEW, _FEW_OF_EACH, _SHARE = 60, 5, 0.1

#: Maximum number of classes, so that there are several images of each.
_MOST_CLASSES = 30


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Train images that the verdict is measured on.

    Attributes:
        positions: Their positions, in order.
        targets: (N, ...) as defined by the task, for `num_classes`.
        num_classes: Number of classes; images of others are left out.
    """

    positions: list[int]
    targets: Tensor
    num_classes: int


def choose_images(
    targets: Tensor, num_classes: int, task: Task, *, finetunes: bool, seed: int
) -> Chosen:
    """Choose train images for the verdict, so few that it takes a small part of the run's time.

    Args:
        targets: (N, ...) of all train images.
        num_classes: Number of outputs.
        task: Its strata have the same share as in all images.
        finetunes: Whether fine-tuning follows the probe.
        seed: Decides which images and, of more than 30, which classes.
    """
    positions = list(range(len(targets)))
    if targets.ndim == 1 and num_classes > _MOST_CLASSES:
        drawn = torch.Generator().manual_seed(derive_seed(seed, "some classes"))
        some = torch.randperm(num_classes, generator=drawn)[:_MOST_CLASSES].sort().values
        number = torch.full((num_classes,), -1)
        number[some] = torch.arange(len(some))
        targets, num_classes = number[targets], len(some)
        positions = (targets >= 0).nonzero().flatten().tolist()
    fewest = max(_FEW, _FEW_OF_EACH * num_classes, round(len(positions) * _SHARE))
    most = _MOST if finetunes else min(_MOST, fewest)
    found = some_of_each(task.strata(targets[positions]), most, seed)
    positions = [positions[n] for n in found]
    return Chosen(positions=positions, targets=targets[positions], num_classes=num_classes)


def some_of_each(strata: Sequence[int], most: int, seed: int) -> list[int]:
    """Return the positions of at most `most` images, with the same share of each stratum.

    Args:
        strata: Stratum of each image, from `Task.strata`.
        most: Maximum number of images.
        seed: Decides which images.
    """
    if len(strata) <= most:
        return list(range(len(strata)))
    drawn = torch.Generator().manual_seed(derive_seed(seed, "some"))
    order = torch.randperm(len(strata), generator=drawn).tolist()
    order.sort(key=lambda position: strata[position])
    return sorted(order[n * len(order) // most] for n in range(most))


def shown_metric(task: Task, metric: str) -> str:
    """Return the metric by which probes are compared, with underscores.

    It is the task's main metric, or balanced accuracy if that is `metric`, as in `Recipe.metric`.
    """
    return "balanced_accuracy" if metric == "balanced-accuracy" else task.main


def balancing_weights(task: Task, shown: str, targets: Tensor, num_classes: int) -> Tensor | None:
    """Return the class weights with which a probe is fitted for balanced accuracy, else None."""
    if shown != "balanced_accuracy":
        return None
    counts = torch.bincount(targets, minlength=num_classes).clamp_min(1).tolist()
    return task.class_weights(counts, len(targets))


def measure_transfer(
    features: Tensor, random: Tensor, chosen: Chosen, groups: Tensor, *, task: Task, metric: str
) -> Transfer:
    """Compare probes on pretrained features, on random ones and without features.

    The probes are cross-validated on the same folds, and compared image by image. With `metric`
    balanced-accuracy, each class counts the same.

    Args:
        features: (N, C) float32 of the chosen images, from the pretrained network.
        random: (N, C) float32, from the same network with random weights.
        chosen: The images.
        groups: (N,) int64, from `group_indices`.
        task: Defines loss, scores and metrics.
        metric: The deciding metric of the run, as in `Recipe.metric`.
    """
    targets, classes = chosen.targets, chosen.num_classes
    shown = shown_metric(task, metric)
    weights = balancing_weights(task, shown, targets, classes)
    logits = [
        out_of_fold(rows, targets, classes, task=task, groups=groups, class_weights=weights)
        for rows in (features, random)
    ]
    logits.append(task.prior(targets, classes).expand(len(targets), -1))
    measured = logits[0].isfinite().all(dim=1)
    targets = targets[measured]
    logits = [each[measured] for each in logits]
    values = [float(task.measure(each, targets).values[shown]) for each in logits]
    scores = [task.scores(each, targets) for each in logits]
    image_weights = class_balance(targets, classes) if shown == "balanced_accuracy" else None
    units = groups[measured]
    p = max(paired_p(scores[0], other, image_weights, units) for other in scores[1:])
    return Transfer(
        pretrained=values[0],
        random=values[1],
        baseline=values[2],
        images=len(targets),
        classes=classes,
        p=p,
        helps=p < SIGNIFICANT and values[0] > max(values[1:]),
        metric=shown,
    )
