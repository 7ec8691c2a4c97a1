"""metrics.csv of a run, read back and checked."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping

from zoo.io.text import clip
from zoo.runs.write import ModelInfo
from zoo.tasks import metric_label

#: What the rows are checked by; there are others.
_NEEDED = ("epoch", "val_accuracy")


def check_metrics(text: str, info: ModelInfo) -> str:
    """Check that the rows are numbers, an epoch each, and tell of the model's what it says.

    Args:
        text: Of metrics.csv.
        info: As in model.safetensors.

    Returns:
        What was found, in words.

    Raises:
        ValueError: Something is wrong with them.
    """
    try:
        rows = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ValueError(f"it is no CSV: {error}") from error
    if not rows or len(set(rows[0])) < len(rows[0]) or not set(_NEEDED) <= set(rows[0]):
        raise ValueError(f"its first line does not name the columns {' and '.join(_NEEDED)}")
    columns, values = rows[0], rows[1:]
    for line, row in enumerate(values, 2):
        if len(row) != len(columns):
            raise ValueError(f"line {line} has {len(row)} cells, not {len(columns)}")
        for column, cell in zip(columns, row, strict=True):
            if cell and not _is_number(cell):
                raise ValueError(f"line {line}: {clip(column, 50)} is {clip(cell, 50)!r}")
    epochs = [row[columns.index("epoch")] for row in values]
    first = 1 if epochs[:1] == ["1"] else 0  # Without a probe there is no line for it.
    if not epochs or epochs != [str(n) for n in range(first, first + len(epochs))]:
        raise ValueError(f"its epochs don't follow each other: {clip(', '.join(epochs), 50)}")
    by_epoch = {
        epoch: dict(zip(columns, row, strict=True))
        for epoch, row in zip(epochs, values, strict=True)
    }
    _check_kept(by_epoch, info)
    return f"{len(values)} lines; that of {info.stage} as in the model file"


def _check_kept(by_epoch: Mapping[str, Mapping[str, str]], info: ModelInfo) -> None:
    """See that the model's epoch is there as its file has it, and none is better."""
    if str(info.epoch) not in by_epoch:
        raise ValueError(f"it has no line for {info.stage}, which the model file is of")
    row = by_epoch[str(info.epoch)]
    for name, value in info.val_metrics.items():
        kept = row.get(f"val_{name}")
        if not kept or float(kept) != value:
            raise ValueError(
                f"{info.stage} has val {metric_label(name)} {kept or 'none'} there, {value!r} in "
                f"the model file"
            )
    metric = info.recipe.metric
    sign, name = (-1, "loss") if metric == "log-loss" else (1, metric.replace("-", "_"))
    column = f"val_{'accuracy' if name == 'auto' else name}"
    if column not in row:
        return
    decided = {epoch: sign * float(row[column] or 0) for epoch, row in by_epoch.items()}
    best = max(decided, key=lambda epoch: decided[epoch])
    if decided[best] > decided[str(info.epoch)]:
        what = column.replace("_", " ")
        raise ValueError(f"epoch {best} has a better {what} than {info.stage}, which is kept")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
