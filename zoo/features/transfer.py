"""The verdict on transfer: pretrained features against random ones and none, by probes."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from zoo.data.dataset import derive_seed
from zoo.data.sample import Sample
from zoo.features.probe import out_of_fold
from zoo.runs.transfer import Transfer
from zoo.tasks import Task, metric_label
from zoo.tasks.paired import SIGNIFICANT, class_balance, paired_p

#: Maximum number of images before fine-tuning, which takes at least 20 times as long for each.
_MOST = 300

#: Number of images if only a probe is fitted; more if they are at most this share of all.
_FEW, _SHARE = 100, 0.1


def images_for_transfer(train_images: int, *, finetunes: bool) -> int:
    """Return the number of images for the verdict, so that it takes a small part of the run."""
    most = _MOST if finetunes else min(_MOST, max(_FEW, round(train_images * _SHARE)))
    return min(train_images, most)


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


def groups_of(samples: Sequence[Sample]) -> Tensor:
    """Return the number (N,) of each image's group; an image without one is a group of its own."""
    numbers: dict[Hashable, int] = {}
    found = [
        numbers.setdefault(("image", n) if s.group is None else ("group", s.group), len(numbers))
        for n, s in enumerate(samples)
    ]
    return torch.tensor(found, dtype=torch.long)


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
    features: Tensor,
    random: Tensor,
    targets: Tensor,
    groups: Tensor,
    *,
    num_classes: int,
    task: Task,
    metric: str,
) -> Transfer:
    """Compare probes on pretrained features, on random ones and without features.

    The probes are cross-validated on the same folds, and compared image by image. With `metric`
    balanced-accuracy, each class counts the same.

    Args:
        features: (N, C) float32, from the pretrained network.
        random: (N, C) float32, from the same network with random weights.
        targets: (N, ...) as defined by the task.
        groups: (N,) int64, from `groups_of`.
        num_classes: Number of outputs.
        task: Defines loss, scores and metrics.
        metric: The deciding metric of the run, as in `Recipe.metric`.
    """
    shown = shown_metric(task, metric)
    balanced = shown == "balanced_accuracy"
    weights = balancing_weights(task, shown, targets, num_classes)
    found = [
        out_of_fold(rows, targets, num_classes, task=task, groups=groups, class_weights=weights)
        for rows in (features, random)
    ]
    found.append(task.prior(targets, num_classes).expand(len(targets), -1))
    measured = found[0].isfinite().all(dim=1)
    targets = targets[measured]
    logits = [each[measured] for each in found]
    values = [float(task.measure(each, targets).values[shown]) for each in logits]
    scores = [task.scores(each, targets) for each in logits]
    image_weights = class_balance(targets, num_classes) if balanced else None
    p = max(paired_p(scores[0], other, image_weights) for other in scores[1:])
    return Transfer(
        pretrained=values[0],
        random=values[1],
        baseline=values[2],
        images=len(targets),
        p=p,
        helps=p < SIGNIFICANT and values[0] > max(values[1:]),
        metric=shown,
    )


def describe_transfer(transfer: Transfer) -> str:
    """Describe the verdict in a sentence, with what to do if pretrained features do not help."""
    name = metric_label(transfer.metric)
    figures = (
        f"{name} {transfer.pretrained:.0%} against {transfer.random:.0%} with random weights and "
        f"{transfer.baseline:.0%} without features (cross-validated on {transfer.images} train "
        f"images, p = {transfer.p:.2g})"
    )
    if transfer.helps:
        return f"pretrained features help here: {figures}"
    if transfer.random >= transfer.pretrained and transfer.random > transfer.baseline:
        advice = "consider a backbone pretrained on images that are more like these (`zoo compare`)"
    elif transfer.pretrained > max(transfer.random, transfer.baseline):
        advice = "the difference may be chance: consider more images"
    else:
        advice = "consider checking the labels (`zoo data check`), more images or another backbone"
    return f"pretrained features do not clearly help here: {figures}; {advice}"
