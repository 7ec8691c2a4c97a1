"""Out-of-fold figures: a run on each of K folds, their pooled predictions, and a refit on all.

Each image is predicted once, by a run that has not learnt from it or from its group, so that a
small data set gives figures over all of its images. The folds share no state: every step reads what
the steps before it have written, and can be repeated. With several processes, each run is one of
all of them, and the main one does what is between the runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo import plugins
from zoo.data.sources import located
from zoo.errors import RunError
from zoo.events import Listener, Note, ignore
from zoo.machine.processes import decide_early, is_main
from zoo.pipeline.compatibility import FREE
from zoo.pipeline.finetune import start_or_resume
from zoo.planning import Prepared, prepare
from zoo.recipe import Recipe, change, make_recipe
from zoo.runs.figures import figures, interval
from zoo.runs.folder import FOLDS, FOLDS_PREDICTIONS, choose_folder
from zoo.runs.folds import Folds, read_folds, write_folds
from zoo.runs.read import Run, read_info
from zoo.runs.scores import (
    Columns,
    joined,
    names_of,
    read_columns,
    values_of,
    write_predictions,
)
from zoo.runs.temperature import calibrate, fit_temperature
from zoo.runs.write import MODEL, PREDICTIONS
from zoo.tasks import TASKS, Task, metric_label
from zoo.training.custom import NO_CUSTOM, Custom

#: Smallest probability whose logarithm is taken; a softmax in float32 may give 0.
_LEAST = 1e-30


def finetune_folds(
    recipe: Recipe,
    *,
    out: str | Path | None,
    given: Collection[str] = (),
    custom: Custom = NO_CUSTOM,
    listen: Listener,
    report: bool = True,
) -> Run:
    """Start runs on all folds of a recipe's `folds`, and refit on all images.

    Returns:
        The run that was refitted on all images.

    Raises:
        ZooError, Stopped: As in `finetune`.
    """
    listen = listen if is_main() else ignore
    named = change(recipe, backbone=plugins.get(recipe.backbone).name)
    # Chosen by one process: a slower one would find the folder that a faster one has created.
    folder = Path(decide_early(lambda: str(choose_folder(out, named))))
    recipe = change(recipe, **{name: located(getattr(recipe, name)) for name in _places(recipe)})
    listen(Note(text=f"fold 1 of {recipe.folds}"))
    # Whatever is wrong with the recipe or the data is found before anything is written.
    first = prepare(
        change(recipe, fold=1), given=given, out=_fold(folder, 1), custom=custom, listen=listen
    )
    decide_early(lambda: _begin(folder, recipe))
    return _go_on(folder, recipe, listen, first=first, custom=custom, report=report)


def resume_folds(
    folder: Path,
    *,
    allow_changed: bool = False,
    custom: Custom = NO_CUSTOM,
    listen: Listener,
    report: bool = True,
    **fields: Any,
) -> Run:
    """Resume runs on folds where they were interrupted; arguments as in `resume`.

    Raises:
        ZooError, Stopped: As in `resume`; also if settings are given that change results.
    """
    listen = listen if is_main() else ignore
    before = read_folds(folder).recipe
    recipe = make_recipe(before, **fields)
    changed = [n for n in fields if n not in FREE and getattr(recipe, n) != getattr(before, n)]
    if changed:
        raise RunError(
            f"the runs on folds of {folder} can't be resumed with another {' and '.join(changed)}",
            hint="start new ones",
        )
    return _go_on(folder, recipe, listen, allow_changed=allow_changed, custom=custom, report=report)


def _go_on(
    folder: Path,
    recipe: Recipe,
    listen: Listener,
    *,
    first: Prepared | None = None,
    allow_changed: bool = False,
    custom: Custom,
    report: bool,
) -> Run:
    """Do what is left to do: folds, pooled figures, refit, record."""
    count = recipe.folds or 0
    for number in range(1, count + 1):
        if number > 1 or first is None:
            listen(Note(text=f"fold {number} of {count}"))
        fold = change(recipe, fold=number)
        place = _fold(folder, number)
        start_or_resume(
            place, fold, listen, allow_changed, report=False, custom=custom, prepared=first
        )
        first = None
    epochs = decide_early(lambda: _conclude(folder, recipe, listen))
    last = _refit(recipe, epochs)
    return start_or_resume(folder, last, listen, allow_changed, report=report, custom=custom)


def _begin(folder: Path, recipe: Recipe) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_folds(folder, Folds(recipe=recipe))


def _conclude(folder: Path, recipe: Recipe, listen: Listener) -> list[int]:
    """Write the figures over all folds, and return the best epoch of each."""
    pooled, epochs = _pool(folder, recipe)
    write_folds(folder, pooled)
    if (found := pooled.figures) is None:
        raise RunError(f"the folds of {folder} have no figures")
    main = found.metrics[found.main]
    listen(
        Note(
            text=f"out of fold: {metric_label(found.main)} {main.value:.2%} ({interval(main)}), "
            f"{found.images} images in {recipe.folds} folds; now training on all of them"
        )
    )
    return epochs


def _refit(recipe: Recipe, best: Sequence[int]) -> Recipe:
    """Return the recipe of the run on all images: without val, for the mean of the best epochs."""
    fields: dict[str, Any] = {"folds": None, "val_split": 0.0}
    fields |= dict.fromkeys(("time", "steps", "samples"))
    epochs = _mean_epoch(best)
    if epochs:
        fields["epochs"] = max(epochs, *recipe.unfreeze_epochs, 1)
    elif recipe.train == "probe+finetune":
        fields["train"] = "probe"
    return change(recipe, **fields)


def _pool(folder: Path, recipe: Recipe) -> tuple[Folds, list[int]]:
    """Pool the val predictions of all folds, and write them into the folder.

    Figures of a fold are those with the temperature that the other folds suggest, so that no image
    has a share in its own. The temperature of the refit comes from all of them, and so do its
    thresholds of labels; the figures are for thresholds of 0.5.

    Returns:
        The figures over all images, without those by class, and the calibration of the refit; and
        the best epoch of each fold, 0 for the probe.
    """
    count = recipe.folds or 0
    infos = [read_info(_fold(folder, number) / MODEL) for number in range(1, count + 1)]
    class_names, task = infos[0].class_names, TASKS[infos[0].task]
    epochs = [info.epoch for info in infos]
    parts: list[Columns] = []
    raw: list[Tensor] = []
    for number, info in enumerate(infos, start=1):
        of_fold = read_columns(_fold(folder, number) / PREDICTIONS)
        rows = [n for n, split in enumerate(of_fold["split"]) if split == "val"]
        part: dict[str, Any] = {
            name: values[rows] if isinstance(values, np.ndarray) else [values[n] for n in rows]
            for name, values in of_fold.items()
        }
        parts.append({**part, "fold": [number] * len(rows)})
        raw.append(info.temperature * _logits_of(part, class_names, task))
    columns = dict(joined(parts))
    index = {name: n for n, name in enumerate(class_names)}
    labels = [
        tuple(index[name] for name in ([cell] if isinstance(cell, str) else cell))
        for cell in columns["label"]
    ]
    targets = task.targets(labels, len(class_names))
    by_fold = torch.split(targets, [len(logits) for logits in raw])
    # The temperature has another prior for a probe, which the refit may be.
    probe = not _mean_epoch(epochs)
    scaled = []
    for n, logits in enumerate(raw):
        others = [k for k in range(count) if k != n]
        temperature = fit_temperature(
            torch.cat([raw[k] for k in others]),
            torch.cat([by_fold[k] for k in others]),
            task,
            probe=probe,
        )
        scaled.append(logits / temperature)
    # Multi-label: each run has thresholds of its own, chosen on the very images of its fold.
    decided = task.decide(torch.cat(scaled))
    columns["predicted"] = names_of(decided, class_names, task)
    columns["correct"] = task.correct(torch.cat(scaled), targets).numpy()
    probabilities = task.probabilities(torch.cat(scaled))
    columns["probability"] = probabilities.max(dim=1).values.numpy()
    for name, column in zip(class_names, probabilities.T, strict=True):
        columns[f"p_{name}"] = column.contiguous().numpy()
    write_predictions(folder, columns, class_names, name=FOLDS_PREDICTIONS)
    found = figures(torch.cat(scaled), targets, class_names, task, values_of(columns["group"]))
    calibration = calibrate(torch.cat(raw), targets, task, probe=probe)
    pooled = Folds(recipe=recipe, figures=replace(found, classes=()), calibration=calibration)
    return pooled, epochs


def _logits_of(columns: Columns, class_names: Sequence[str], task: Task) -> Tensor:
    """Return logits (N, classes) float32 that give the probabilities of columns."""
    by_class = np.array([columns[f"p_{name}"] for name in class_names], np.float32)
    probabilities = torch.from_numpy(by_class).T.contiguous()
    return task.logits(probabilities, _LEAST)


def _mean_epoch(best: Sequence[int]) -> int:
    return round(sum(best) / len(best))


def _fold(folder: Path, number: int) -> Path:
    return folder / FOLDS / str(number)


def _places(recipe: Recipe) -> list[str]:
    """Return the fields of a recipe that name data, or the run of a teacher."""
    places = ("data", "val", "test", "teacher", "unlabelled")
    return [name for name in places if getattr(recipe, name) is not None]
