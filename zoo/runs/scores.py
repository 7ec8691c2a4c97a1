"""Scores of labelled images: what a classifier computed of each, and predictions.parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import ImageDataset, Loaded, eval_loader, share_of
from zoo.data.decoded import DecodedImages
from zoo.data.sample import Sample
from zoo.data.transforms import to_input
from zoo.errors import RunError
from zoo.io.text import clip
from zoo.machine.processes import rank_and_count, rows_on_main, together
from zoo.models.head import head_leaves
from zoo.models.replay import tensors_in
from zoo.runs.inference import all_logits, check_finite, eval_batch_size, warn
from zoo.runs.tta import Tta, averaged, views_of
from zoo.runs.write import PREDICTIONS, ModelInfo, write_file
from zoo.tasks import Task

#: Columns of predictions.parquet besides the probabilities.
COLUMNS = frozenset(
    {"name", "split", "group", "label", "predicted", "correct", "probability", "distance"}
)

#: Values of N images by column: numbers as an array, since with many classes Python's own would
#: take gigabytes, and anything else as a sequence.
Columns: TypeAlias = Mapping[str, Sequence[Any] | NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a classifier computed of the labelled images of a split.

    Attributes:
        split: `train`, `val` or `test`.
        samples: The images.
        targets: (N, ...) as defined by the task.
        logits: (N, classes) float32.
        features: (N, C) float32, the input of the head; see `features_and_logits`.
    """

    split: str
    samples: Sequence[Sample]
    targets: Tensor
    logits: Tensor
    features: Tensor

    @property
    def groups(self) -> list[str | None]:
        """Group of each image, or None."""
        return [sample.group for sample in self.samples]


def features_and_logits(
    model: nn.Module,
    backbone: Backbone,
    batches: Iterable[Loaded],
    preprocess: Preprocess,
    *,
    tta: Tta | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute features (N, C) and logits (N, classes) of all batches, float32 on the CPU.

    The features of an image are the input of the head's first leaf, averaged over positions if it
    has one row for each of several positions.

    Args:
        model: The classifier; it is put into eval mode and left in it.
        backbone: Declares where the head is.
        batches: Tuples (pixels (N, C, H, W) uint8, ignored), as of `eval_batches`.
        preprocess: Preprocessing of the backbone, for the normalisation.
        tta: Test-time augmentation: averages over the views of each image; None: not used.

    Raises:
        RunError: A logit is NaN or infinite.
        TrainingError: Memory is too small for one image.
    """
    return without_and_with(model, backbone, batches, preprocess, tta)[-1]


def without_and_with(
    model: nn.Module,
    backbone: Backbone,
    batches: Iterable[Loaded],
    preprocess: Preprocess,
    tta: Tta | None,
    say: Callable[[str], None] = warn,
) -> list[tuple[Tensor, Tensor]]:
    """Compute features and logits without and, in the same pass, with test-time augmentation.

    Arguments and errors are those of `features_and_logits`; `say` is called with a warning if the
    batch size had to be reduced for lack of memory.

    Returns:
        Features (N, C) and logits (N, classes) of the images alone; then, with `tta`, those that
        are averaged over views.
    """
    device = next(model.parameters()).device
    both = FeaturesAndLogits(model, backbone)
    width = 0

    def compute(pixels: Tensor) -> Tensor:
        nonlocal width
        views = []
        for view in views_of(pixels, tta):
            features, logits = both.pair(to_input(view, preprocess, device))
            width = features.shape[1]
            views.append(torch.cat([features, logits], dim=1))
        return views[0] if tta is None else torch.cat([views[0], averaged(views)], dim=1)

    rows = all_logits(model, batches, compute, say)
    found = []
    for part in rows.chunk(1 if tta is None else 2, dim=1):
        check_finite(part[:, width:])
        found.append((part[:, :width].contiguous(), part[:, width:].contiguous()))
    return found


def divided_scores(
    model: nn.Module,
    backbone: Backbone,
    decoded: DecodedImages,
    classes: int,
    say: Callable[[str], None] = warn,
    *,
    tta: Tta | None = None,
) -> list[tuple[Tensor, Tensor]] | None:
    """Compute features and logits of images like `without_and_with`.

    Several processes divide the batches; each is the one that a single process would compute, so
    that results are equal.

    Args:
        model: As in `features_and_logits`.
        backbone: As in `features_and_logits`.
        decoded: The images, the same ones in every process.
        classes: Number of classes.
        say: As in `without_and_with`.
        tta: As in `without_and_with`.

    Returns:
        What `without_and_with` returns of all images, in the main process; None in the others.

    Raises:
        DataError: A photo can no longer be read, or has changed; raised in every process, as are
            the errors of `features_and_logits`.
    """
    preprocess = decoded.prepare.preprocess
    size, (rank, processes) = eval_batch_size(preprocess), rank_and_count()
    share = partial(share_of, len(decoded), size, processes=processes)
    batches = eval_loader(ImageDataset(decoded), batch_size=size, positions=share(rank))
    found = together(lambda: without_and_with(model, backbone, batches, preprocess, tta, say))
    rows = rows_on_main(torch.cat([each for pair in found for each in pair], dim=1), share)
    if rows is None:
        return None
    parts = rows.chunk(len(found), dim=1)
    return [(each[:, :-classes].contiguous(), each[:, -classes:].contiguous()) for each in parts]


class FeaturesAndLogits(nn.Module):
    """Model input (N, C, H, W) float32 to features and logits, (N, F + classes) float32.

    The features are those of `features_and_logits`.
    """

    def __init__(self, classifier: nn.Module, backbone: Backbone) -> None:
        super().__init__()
        self.classifier = classifier
        self._path, leaf = next(iter(head_leaves(classifier, backbone).items()))
        self._channels_last = isinstance(leaf, nn.Linear)

    def forward(self, images: Tensor) -> Tensor:
        """Compute features and logits, side by side."""
        return torch.cat(self.pair(images), dim=1)

    def pair(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute features (N, F) and logits (N, classes)."""
        seen: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.append(tensors_in(inputs)[0].float())

        hook = self.classifier.get_submodule(self._path).register_forward_pre_hook(keep)
        try:
            logits: Tensor = self.classifier(images).float()
        finally:
            hook.remove()
        rows = seen[0]
        if rows.ndim > 2:
            rows = (
                rows.flatten(1, -2).mean(dim=1)
                if self._channels_last
                else rows.flatten(2).mean(dim=2)
            )
        return rows, logits


def rows_of(scores: Scores, info: ModelInfo, task: Task) -> Columns:
    """Return the columns of predictions.parquet for a split.

    Returns:
        N values by column: `name`, `split`, `group`, `label`, `predicted`, `correct`,
        `probability` (of the predicted class; multi-label: the highest), `distance` (from the
        training images, 1 at the limit of what is familiar; None if unknown), and `p_CLASS` for
        each class. Labels are names, multi-label lists of them.
    """
    class_names, known = info.class_names, info.familiarity
    logits = scores.logits / info.temperature
    probabilities = task.probabilities(logits)
    predicted = task.decide(logits)
    by_class = np.ascontiguousarray(probabilities.numpy().T)
    return {
        "name": [sample.name for sample in scores.samples],
        "split": [scores.split] * len(scores.samples),
        "group": scores.groups,
        "label": names_of(scores.targets, class_names, task),
        "predicted": names_of(predicted, class_names, task),
        "correct": task.correct(logits, scores.targets).numpy(),
        "probability": probabilities.max(dim=1).values.numpy(),
        "distance": [None] * len(scores.samples)
        if known is None
        else known.distances(scores.features).numpy(),
        **{f"p_{name}": column for name, column in zip(class_names, by_class, strict=True)},
    }


def names_of(targets: Tensor, class_names: Sequence[str], task: Task) -> list[Any]:
    """Return the label of each target (N, ...); multi-label: the list of its labels."""
    if task.exclusive:
        return [class_names[n] for n in targets.tolist()]
    return [[class_names[n] for n in row.nonzero().flatten().tolist()] for row in targets]


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the columns of several sets of images, those of the first set first."""
    found: dict[str, Sequence[Any] | NDArray[Any]] = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        arrays = [each for each in columns if isinstance(each, np.ndarray)]
        if len(arrays) == len(columns):
            found[name] = np.concatenate(arrays)
        else:
            found[name] = [value for each in columns for value in values_of(each)]
    return found


def values_of(column: Sequence[Any] | NDArray[Any]) -> Sequence[Any]:
    """Return the values of a column as Python's own."""
    return column.tolist() if isinstance(column, np.ndarray) else column


def write_predictions(
    folder: Path,
    columns: Columns,
    class_names: Sequence[str],
    *,
    name: str = PREDICTIONS,
) -> None:
    """Write predictions.parquet atomically; the class names are in its schema's metadata.

    Raises:
        RunError: If it can't be written.
    """
    write_file(folder / name, parquet_bytes(columns, class_names))


def parquet_bytes(columns: Columns, class_names: Sequence[str]) -> memoryview:
    """Return the content of predictions.parquet."""
    import pyarrow
    from pyarrow import parquet

    # Without a type, a column without any group would be one of nulls.
    groups = pyarrow.array(columns["group"], pyarrow.string())
    table = pyarrow.table({**columns, "group": groups})
    names = json.dumps(list(class_names), ensure_ascii=False)
    table = table.replace_schema_metadata({"class_names": names})
    content = io.BytesIO()
    # A dictionary of numbers, which hardly ever repeat, takes time and makes the file larger.
    texts = [name for name, column in columns.items() if not isinstance(column, np.ndarray)]
    parquet.write_table(table, content, compression="zstd", use_dictionary=texts)
    return content.getbuffer()


def read_columns(file: Path) -> Columns:
    """Read a predictions.parquet, which may come from an untrusted source.

    Returns:
        N values by column, as from `rows_of`.

    Raises:
        RunError: If there is no such file, it is damaged, or it lacks a column.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
        columns = {
            name: column.to_numpy()
            if pyarrow.types.is_floating(column.type) and not column.null_count
            else column.to_pylist()
            for name, column in zip(table.column_names, table.columns, strict=True)
        }
    except (OSError, pyarrow.ArrowException) as error:
        raise RunError(f"can't read {file}: {clip(str(error))}") from error
    if missing := COLUMNS - columns.keys():
        raise RunError(f"{file} lacks the columns {', '.join(sorted(missing))}")
    return columns
