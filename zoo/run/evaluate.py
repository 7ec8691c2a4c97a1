"""How good a run is on labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.data.demo import demo_splits
from zoo.data.folder import VAL, Splits, find_split_folder, read_labelled, read_splits
from zoo.errors import DataError
from zoo.run.inference import predict_logits

if TYPE_CHECKING:
    from zoo.run.read import Run


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Precision, recall and F1 (0..1) of one class, and its number of images."""

    name: str
    precision: float
    recall: float
    f1: float
    images: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        source: Which images these are, in words.
        images: How many.
        accuracy: Share classified correctly, 0..1.
        loss: Mean cross entropy, in nats.
        classes: Metrics per class, in the order of the labels.
        confusion: `confusion[i][j]`: images of class i that were taken for class j.
        unreadable: What was wrong with each image that was left out.
    """

    source: str
    images: int
    accuracy: float
    loss: float
    classes: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    unreadable: tuple[str, ...]


def evaluate(
    run: Run, data: Path | None, *, split: str = "val", strict: bool = False
) -> Evaluation:
    """Evaluate a run.

    Args:
        run: From `zoo.load`.
        data: A labelled folder; None for the data that the run was trained on.
        split: `val`: the folder's val (or valid, validation, test) subfolder if it has one; the
            images that training held out, if it is the folder the run was trained on; else all.
            `all`: every class folder of `data` itself.
        strict: Make an unreadable image an error.

    Raises:
        DataError: No folder, no images, or classes that the model lacks.
    """
    import torch
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    splits, source = _images(run, data, split, strict)
    labels = [sample.label for sample in splits.val]
    logits = predict_logits(run.model, run.loader(splits.val))
    predicted = logits.argmax(dim=1).tolist()
    indices = list(range(len(run.class_names)))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=indices, zero_division=0.0
    )
    return Evaluation(
        source=source,
        images=len(labels),
        accuracy=sum(p == t for p, t in zip(predicted, labels, strict=True)) / len(labels),
        loss=float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels))),
        classes=tuple(
            ClassMetrics(
                name=name,
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
                images=int(support[i]),
            )
            for i, name in enumerate(run.class_names)
        ),
        confusion=tuple(
            tuple(int(count) for count in row)
            for row in confusion_matrix(labels, predicted, labels=indices)
        ),
        unreadable=splits.unreadable,
    )


def _images(run: Run, data: Path | None, split: str, strict: bool) -> tuple[Splits, str]:
    recipe = run.info.recipe
    held_out = f"the {recipe.val_split:.0%} that training held out"
    if data is None and recipe.data is None:
        splits = demo_splits(val_split=recipe.val_split, seed=recipe.seed)
        return splits, f"the demo's digits, {held_out}"
    root = data if data is not None else Path(str(recipe.data))
    if split == "all":
        return read_labelled(root, run.class_names, strict=strict), f"all of {root}"
    val_dir = find_split_folder(root, VAL)
    if val_dir is not None:
        return read_labelled(val_dir, run.class_names, strict=strict), f"{val_dir}"
    if recipe.data is not None and root.resolve() == Path(recipe.data).resolve():
        splits = read_splits(root, val_split=recipe.val_split, seed=recipe.seed, strict=strict)
        if splits.class_names != run.class_names:
            raise DataError(
                f"{root} has other classes than when the run was trained on it: "
                f"{', '.join(splits.class_names)} instead of {', '.join(run.class_names)}"
            )
        return splits, f"{root}, {held_out}"
    return read_labelled(root, run.class_names, strict=strict), f"all of {root}"
