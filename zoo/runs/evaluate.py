"""Evaluate a run on labelled images: figures with intervals, confusion matrix, predictions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.data.decoded import DecodedImages
from zoo.data.issue import STRICT_KINDS, Issue, because
from zoo.data.scan import Scan, decode_all, partial_scan
from zoo.data.sources import Source, frequent, issues_of, open_source, source_of
from zoo.data.sources.grouped import FOLDER
from zoo.data.sources.layout import is_val_name, normal_name
from zoo.data.split import Splits, group_indices, names_sha256, read_labelled, read_splits
from zoo.data.transforms import eval_transform
from zoo.errors import DataError
from zoo.io.text import listed
from zoo.machine.processes import exchange, local_main_first
from zoo.runs.figures import Figures, figures, unmeasured
from zoo.runs.inference import eval_batches
from zoo.runs.scores import Columns, Scores, divided_scores, rows_of, without_and_with
from zoo.runs.tta import Tta, TtaGain, check_tta, doubt_of_tta
from zoo.runs.write import ModelInfo, task_of
from zoo.tasks import Task
from zoo.tasks.paired import paired_p

Split = Literal["val", "train", "test", "all"]

#: Parts of the note on images that a run was trained on.
_LEARNT, _LOWER = "the run was trained on", "expect lower figures on others"


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Precision, recall, F1 score (0..1; 0 where undefined) and number of images of one class."""

    name: str
    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        source: Description of the evaluated images.
        images: Number of images.
        accuracy: Fraction predicted correctly, 0..1; multi-label: with exactly the right labels.
        loss: Mean loss, in nats, of the calibrated probabilities.
        metrics: All of the task's metrics, 0..1, by name.
        classes: Metrics per class, in the order of the labels.
        confusion: Confusion matrix; `confusion[i][j]` is the number of images of class i predicted
            as class j. Empty if the task is multi-label.
        issues: Skipped files and notes on the data, without duplicates.
        figures: Metrics in all and by class with their confidence intervals, and the baseline.
        rows: The columns of predictions.parquet, N values each, of numbers in
            an array; `split` is the one asked for. With test-time augmentation, `tta` too.
        tta: What test-time augmentation changes; None if it was not asked for. All other
            attributes are those with it.
    """

    source: str
    images: int
    accuracy: float
    loss: float
    metrics: Mapping[str, float]
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    issues: tuple[Issue, ...]
    figures: Figures
    rows: Columns = field(repr=False, compare=False)
    tta: TtaGain | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which labelled images are read, and how.

    Attributes:
        split: `val`: for the training data, the validation images of the run; for other data, the
            val (or valid, validation) subfolder if there is one beside train, else the test
            subfolder, else all images. `train`: the run's training images, or the train subfolder.
            `test`: the test subfolder. `all`: every labelled image.
        strict: Raise an error for unreadable images, wrong extensions and links out of the folder.
        follow_links: Also follow links that lead out of the data folder. For the training data they
            are followed anyway if training followed them.
        allow_network: Also read addresses in a table that are not of the table's own server. For
            the training data they are read anyway if training read them.
        group_by: How to find groups, as in the recipe, for other data than the run's.
    """

    split: Split = "val"
    strict: bool = False
    follow_links: bool = False
    allow_network: bool = False
    group_by: str | None = None


def evaluate(
    model: nn.Module,
    backbone: Backbone,
    info: ModelInfo,
    data: Path | None,
    reading: Reading,
    *,
    tta: Tta | None = None,
) -> Evaluation:
    """Evaluate a classifier.

    Args:
        model: The classifier.
        backbone: The declaration of its backbone.
        info: Class names, preprocessing, and the recipe that the classifier was trained with.
        data: A labelled folder or table; None for the data that the run was trained on.
        reading: Which images of it are read, and how.
        tta: Test-time augmentation, as in `Run.predict`, which is compared with none.

    Raises:
        DataError: If there is no such folder, it has no images, or the model lacks a class.
    """
    check_tta(tta)
    splits, source = images_of(info, data, reading)
    decoded = DecodedImages(splits.val, eval_transform(info.preprocess).prepare)
    found = without_and_with(model, backbone, eval_batches(decoded), info.preprocess, tta)
    return _evaluation(info, splits, source, reading.split, found, tta)


def evaluate_together(
    model: nn.Module,
    backbone: Backbone,
    info: ModelInfo,
    data: Path | None,
    reading: Reading,
    *,
    tta: Tta | None = None,
) -> Evaluation | None:
    """Evaluate like `evaluate` in several processes, each of which computes a share.

    One process of each machine reads and checks the images before the others.

    Returns:
        The same as from one process, in the main one; None in the others.

    Raises:
        DataError: As in `evaluate`, or the processes see other images; raised in every process.
    """
    check_tta(tta)
    splits, source = local_main_first(partial(images_of, info, data, reading))
    order = "\0".join(sample.name for sample in splits.val)
    names = exchange(sha256(os.fsencode(order)).hexdigest())
    if len(set(names)) > 1:
        other = ", ".join(str(n) for n, each in enumerate(names) if each != names[0])
        error = DataError(
            f"process {other} of {len(names)} sees other images than process 0",
            hint="give all of them the same files, or one folder that all of them see",
        )
        error.shared = True
        raise error
    decoded = DecodedImages(splits.val, eval_transform(info.preprocess).prepare)
    found = divided_scores(model, backbone, decoded, len(info.class_names), tta=tta)
    return None if found is None else _evaluation(info, splits, source, reading.split, found, tta)


def _evaluation(
    info: ModelInfo,
    splits: Splits,
    source: str,
    split: Split,
    found: Sequence[tuple[Tensor, Tensor]],
    tta: Tta | None,
) -> Evaluation:
    """Return the evaluation of the val split, from what `without_and_with` computed of it."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    features, logits = found[-1]
    task, indices = task_of(info), list(range(len(info.class_names)))
    targets = task.targets(splits.indices(splits.val), len(indices))
    scores = Scores(
        split=split, samples=splits.val, targets=targets, logits=logits, features=features
    )
    rows = rows_of(scores, info, task)
    logits = logits / info.temperature
    gain = None
    if tta is not None:
        rows = {**rows, "tta": [tta] * len(targets)}
        gain = _gain(
            tta, found[0][1] / info.temperature, replace(scores, logits=logits), info, task
        )
    predicted = task.decide(logits)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets.numpy(), predicted.numpy(), labels=indices, zero_division=0.0
    )
    confusion = []
    if task.exclusive:
        confusion = confusion_matrix(targets.numpy(), predicted.numpy(), labels=indices).tolist()
    metrics = dict(task.measure(logits, targets).values)
    missing = unmeasured(info.class_names, support)
    reasons = (missing, doubt_of_tta(tta, info.recipe))
    notes = [Issue(kind="note", reason=reason) for reason in reasons if reason is not None]
    return Evaluation(
        source=source,
        images=len(targets),
        accuracy=metrics["accuracy"],
        loss=metrics.pop("loss"),
        metrics=metrics,
        classes=tuple(
            ClassMetrics(
                name=name,
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
                images=int(support[i]),
            )
            for i, name in enumerate(info.class_names)
        ),
        confusion=tuple(map(tuple, confusion)),
        issues=(*splits.issues, *notes),
        figures=figures(logits, targets, info.class_names, task, scores.groups),
        rows=rows,
        tta=gain,
    )


def _gain(tta: Tta, plain: Tensor, scores: Scores, info: ModelInfo, task: Task) -> TtaGain:
    """Compare predictions with an augmentation and without; `plain` are the logits without it.

    All logits are those divided by the temperature.
    """
    better, worse = (task.correct(each, scores.targets) for each in (scores.logits, plain))
    groups = group_indices(scores.samples)
    return TtaGain(
        tta=tta,
        without=figures(plain, scores.targets, info.class_names, task, scores.groups),
        only_with=int((better & ~worse).sum()),
        only_without=int((worse & ~better).sum()),
        p=paired_p(better.double(), worse.double(), groups=torch.tensor(groups)),
    )


def images_of(info: ModelInfo, data: Path | None, reading: Reading) -> tuple[Splits, str]:
    """Return the images that `evaluate(...)` uses, as val split, and a description of them.

    Raises:
        DataError: If there is no such data, or it does not fit the run.
    """
    recipe, split, group_by = info.recipe, reading.split, reading.group_by
    if split not in get_args(Split):
        raise DataError(f"split is {split!r}", hint=f"give one of {', '.join(get_args(Split))}")
    given = recipe.data if data is None else str(data)
    own = data is None or (
        recipe.data is not None and os.path.realpath(data) == os.path.realpath(recipe.data)
    )
    if own and group_by not in (None, recipe.group_by):
        raise DataError(
            f"the run's data is not grouped by {group_by!r}: its groups have decided its split",
            hint="leave `group_by` out, or name other images by `data`",
        )
    whole = open_source(
        given,
        task=info.task,
        follow_links=reading.follow_links or (own and recipe.follow_links),
        group_by=recipe.group_by if own else group_by,
        subfolders=recipe.group_by == FOLDER,
        allow_network=reading.allow_network or (own and recipe.allow_network),
        val=recipe.val if own else None,
        test=recipe.test if own else None,
    )
    source = frequent(whole, recipe.min_count) if own else whole
    if own and split in ("val", "train"):
        return _of_training(info, source, split, strict=reading.strict)
    wanted = _wanted(source, split)
    splits = read_labelled(
        source, wanted, info.class_names, strict=reading.strict, scan=_scan(info)
    )
    if own and "train" in wanted:
        splits = _with_note(splits, f"{_LEARNT} some of these images: {_LOWER}")
    if wanted == list(source.splits):
        return splits, f"all of {source.name}"
    return splits, f"{source.name}, {' and '.join(wanted)} images"


def splits_of(info: ModelInfo, *, scan: Scan | None = None) -> Splits:
    """Read the images that a run was trained on, and split them as it did.

    Raises:
        DataError: They are no longer there, or have other classes.
    """
    return _split_again(info, source_of(info.recipe), scan=scan)


def _scan(info: ModelInfo) -> Scan:
    return partial(decode_all, channels=info.preprocess.channels)


def _split_again(
    info: ModelInfo, source: Source, *, strict: bool = False, scan: Scan | None = None
) -> Splits:
    recipe = info.recipe
    splits = read_splits(
        source,
        val_split=recipe.val_split,
        seed=recipe.seed,
        fold=recipe.held_out_fold,
        strict=strict,
        scan=partial_scan(recipe.scan, scan or _scan(info)),
    )
    if splits.class_names != tuple(map(normal_name, info.class_names)):
        raise DataError(
            f"{source.name} has other classes than when the run was trained on it: "
            f"{listed(splits.class_names)} instead of {listed(info.class_names)}",
            hint="`split=all` measures them as they are, `data` names other images",
        )
    return splits


def _wanted(source: Source, split: Split) -> list[str]:
    """Return the names of the source's splits that `split` refers to."""
    there = list(source.splits)
    if split == "all":
        return there
    if split != "val":
        if split not in there:
            raise DataError(f"{source.name} has no {split} split")
        return [split]
    refused = [issue for issue in issues_of(source) if issue.kind in STRICT_KINDS]
    of_val = [issue for issue in refused if issue.name and is_val_name(issue.name)]
    if "val" not in there and of_val:
        raise DataError(f"no val images in {source.name}{because(of_val)}")
    return [next(name for name in ("val", "test", "train") if name in there)]


def _of_training(
    info: ModelInfo, source: Source, split: Split, *, strict: bool
) -> tuple[Splits, str]:
    """Reproduce the run's training or validation split of a source from its recipe."""
    splits = _split_again(info, source, strict=strict)
    if split == "val" and not splits.val:
        raise DataError(
            "the run was trained on all images of its data, which has no val images",
            hint="give other `data`, or measure the images it was trained on with `split=train`",
        )
    changed = names_sha256(splits.val) != info.val_sha256
    if split == "train":
        text = f"{source.name}, training images"
        if changed:
            text += "; the data has changed since training: some images may be new"
        splits = _with_note(splits, f"{_LEARNT} these images: {_LOWER}")
        return replace(splits, val=splits.train), text
    text = f"{source.name}, validation images"
    if changed:
        text += "; the data has changed since training: some images may have been trained on"
    return splits, text


def _with_note(splits: Splits, reason: str) -> Splits:
    return replace(splits, issues=(*splits.issues, Issue(kind="note", reason=reason)))
