"""The predictions that a report is about, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.errors import RunError
from zoo.io.text import clip
from zoo.runs.figures import Figures, figures
from zoo.runs.folder import FOLDS
from zoo.runs.scores import Columns, values_of
from zoo.tasks import Task

#: Smallest distance of a probability to 0 and 1, of which the logit is finite.
_LEAST = 1e-12


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Predictions for the images of a split.

    Attributes:
        split: Name of the split.
        names: Names of the images.
        probabilities: (N, classes).
        truth: (N, classes), the labels.
        predicted: (N, classes), the predicted labels.
        figures: Metrics with their intervals.
        task: The task.
    """

    split: str
    names: tuple[str, ...]
    probabilities: NDArray[np.float64]
    truth: NDArray[np.bool_]
    predicted: NDArray[np.bool_]
    figures: Figures
    task: Task

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Whether exactly the right labels are predicted, (N,)."""
        return np.asarray((self.truth == self.predicted).all(axis=1))

    @cached_property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted class (N,); multi-label: of the least sure label."""
        if self.task.exclusive:
            return np.asarray(self.probabilities.max(axis=1))
        sure = np.where(self.predicted, self.probabilities, 1 - self.probabilities)
        return np.asarray(sure.min(axis=1))

    @cached_property
    def shown(self) -> NDArray[np.int64]:
        """Class of each image whose evidence is shown, (N,).

        That is the predicted one; multi-label: of wrongly predicted ones the most probable, or else
        the most probable of all.
        """
        false = np.where(self.predicted & ~self.truth, self.probabilities, -1)
        best = np.where(false.max(axis=1) >= 0, false.argmax(axis=1), -1)
        return np.asarray(np.where(best >= 0, best, self.probabilities.argmax(axis=1)))


def measured(
    columns: Columns,
    class_names: Sequence[str],
    task: Task,
    known: Mapping[str, Figures] | None = None,
) -> list[Measured]:
    """Convert the columns of predictions.parquet.

    Args:
        columns: Of the images; they may come from an untrusted source.
        class_names: In the order of the logits.
        task: The task.
        known: Figures by split; those of other splits are computed.

    Returns:
        One for each split, test first: it is what the classifier is to be judged by.

    Raises:
        RunError: A column is missing, or has another content than probabilities and labels.
    """
    index = {name: n for n, name in enumerate(class_names)}
    try:
        splits = [str(each) for each in columns["split"]]
        probabilities = np.array([columns[f"p_{name}"] for name in class_names], float).T
        if not (np.isfinite(probabilities).all() and (probabilities >= 0).all()):
            raise ValueError("a probability is negative or not finite")
        truth, predicted = (
            _indicators(values_of(columns[key]), index, task) for key in ("label", "predicted")
        )
        groups = [None if each is None else str(each) for each in columns["group"]]
        names = [str(each) for each in columns["name"]]
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"the predictions can't be understood: {clip(str(error))}") from error
    found = []
    for split in sorted(set(splits), key=lambda name: (name != "test", name)):
        rows = np.flatnonzero(np.array([each == split for each in splits]))
        figure = (known or {}).get(split)
        if figure is None:
            # The runs on folds have no thresholds in common.
            of_split = task.with_thresholds(()) if split == FOLDS else task
            figure = _figures(
                probabilities[rows], truth[rows], class_names, of_split, [groups[n] for n in rows]
            )
        found.append(
            Measured(
                split=split,
                names=tuple(names[n] for n in rows),
                probabilities=probabilities[rows],
                truth=truth[rows],
                predicted=predicted[rows],
                figures=figure,
                task=task,
            )
        )
    return found


def _indicators(values: Sequence[Any], index: Mapping[str, int], task: Task) -> NDArray[np.bool_]:
    found = np.zeros((len(values), len(index)), dtype=bool)
    for n, value in enumerate(values):
        for name in [value] if task.exclusive else value:
            found[n, index[name]] = True
    return found


def _figures(
    probabilities: NDArray[np.float64],
    truth: NDArray[np.bool_],
    class_names: Sequence[str],
    task: Task,
    groups: Sequence[str | None],
) -> Figures:
    values = torch.from_numpy(probabilities).clamp(_LEAST, 1 - _LEAST)
    targets = task.targets([tuple(np.flatnonzero(row).tolist()) for row in truth], len(class_names))
    return figures(task.logits(values, _LEAST), targets, class_names, task, groups)
