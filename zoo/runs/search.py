"""The folder of a search: search.json, from which it is resumed, and what is made of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from zoo.errors import RecipeError, RunError
from zoo.io.files import is_file
from zoo.io.parse import MAX_JSON, parse_json, read_bounded
from zoo.io.text import clip, spreadsheet_cell
from zoo.recipe import Recipe, checked_recipe, dump_recipe, make_recipe
from zoo.recipe.search import (
    Choices,
    Range,
    Value,
    checked_settings,
    parse_range,
    value_text,
)
from zoo.runs.write import write_file

#: Files of a search: the record, the table, the best recipe and the plot.
RECORD, TABLE, BEST, PLOT = "search.json", "trials.csv", "best.toml", "trials.svg"

#: Folder of the runs, each named by the number of its trial.
TRIALS = "trials"

State = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values, and what it gave.

    Attributes:
        number: From 0 on.
        params: Values of the searched fields.
        state: `complete`; `pruned`: stopped early, because it was worse than others; `failed`; or
            `running`: interrupted, and resumed with the search.
        values: The metric on val after each epoch, from the first on; higher is better.
        losses: Val loss after each of these epochs, in nats.
        value: The metric of the best epoch, or of the probe if it is better; None unless complete.
        loss: Val loss of the same epoch, in nats.
        epoch: That epoch; 0 for the probe.
        seconds: Duration.
        reason: Why it failed; else empty.
    """

    number: int
    params: Mapping[str, Value]
    state: State = "running"
    values: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    value: float | None = None
    loss: float | None = None
    epoch: int | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def shown_value(self) -> float | None:
        """`value`; of a trial that is not complete, the metric of its last epoch, if it has one."""
        return self.values[-1] if self.value is None and self.values else self.value


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search over ranges of recipe fields.

    Attributes:
        path: Its folder.
        recipe: The fixed settings, as given.
        ranges: What each searched field is searched among.
        metric: The metric, as in `Recipe.metric`, by which trials are compared; values of
            `log-loss` are negative, so that higher is better.
        first: Values that the first trial starts from: those that a run without a search has.
        most_epochs: Number of epochs of a complete trial, as resolved; None: that of `recipe`.
        most_trials: Maximum number of trials; None: no maximum.
        trials: All trials, in order.
        seconds: Duration of the search so far, without interruptions.
    """

    path: Path
    recipe: Recipe
    ranges: Mapping[str, Range]
    metric: str
    first: Mapping[str, Value]
    most_epochs: int | None = None
    most_trials: int | None = None
    trials: tuple[Trial, ...] = ()
    seconds: float = 0.0

    @property
    def best(self) -> Trial | None:
        """The complete trial with the best value, by val loss if several have it; None: none is."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return max(
            complete,
            key=lambda t: (t.value or 0.0, -(t.loss or 0.0), -t.number),
            default=None,
        )

    @property
    def best_recipe(self) -> Recipe | None:
        """The fixed settings with the values of the best trial; None if no trial is complete."""
        if self.best is None:
            return None
        return make_recipe(_without(self.recipe, "time"), **self.best.params)

    def recipe_of(self, trial: Trial) -> Recipe:
        """Return the recipe of a trial: without test images, and without a limit of time.

        Raises:
            RecipeError: Its values do not go together.
        """
        return make_recipe(_without(self.recipe, "time", "test"), **trial.params)

    def folder_of(self, trial: Trial) -> Path:
        """Return the run folder of a trial; of the finished ones, only the best has one."""
        return self.path / TRIALS / str(trial.number)

    def with_trial(self, trial: Trial) -> Search:
        """Return a search in which this trial is new, or replaces that of its number."""
        trials = [*self.trials[: trial.number], trial, *self.trials[trial.number + 1 :]]
        return replace(self, trials=tuple(trials))


_TRIALS: TypeAdapter[tuple[Trial, ...]] = TypeAdapter(tuple[Trial, ...])
_COUNT: TypeAdapter[int | None] = TypeAdapter(int | None)
_VALUES: TypeAdapter[dict[str, Value]] = TypeAdapter(dict[str, Value])


def has_search(folder: Path) -> bool:
    """Return whether a folder holds a search, complete or not."""
    return is_file(folder / RECORD)


def write_search(search: Search) -> None:
    """Write search.json, and then the table and the best recipe, each atomically.

    Raises:
        RunError: A file can't be written.
    """
    content = {
        "recipe": search.recipe.model_dump(mode="json", exclude_unset=True),
        "ranges": {
            name: list(each.values) if isinstance(each, Choices) else str(each)
            for name, each in search.ranges.items()
        },
        "metric": search.metric,
        "first": dict(search.first),
        "most_epochs": search.most_epochs,
        "most_trials": search.most_trials,
        "seconds": search.seconds,
        "trials": [asdict(trial) for trial in search.trials],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    write_file(search.path / RECORD, text.encode())
    write_file(search.path / TABLE, trials_csv(search).encode())
    best, recipe = search.best, search.best_recipe
    if best is not None and recipe is not None:
        heading = (
            f"The best of {len(search.trials)} trials: trial {best.number}, val {search.metric} "
            f"{best.value:.6g}."
        )
        origins = dict.fromkeys(best.params, "searched")
        text = dump_recipe(recipe, heading, origins, only_set=True)
        write_file(search.path / BEST, text.encode())


def read_search(folder: Path) -> Search:
    """Read search.json, which may come from an untrusted source.

    Raises:
        RunError: It is missing or damaged.
    """
    file = folder / RECORD
    if not has_search(folder):
        raise RunError(f"no search to resume at {folder}: there is no {RECORD}")
    try:
        content = parse_json(read_bounded(file, MAX_JSON).decode())
        trials = _TRIALS.validate_python(content["trials"])
        search = Search(
            path=folder,
            recipe=checked_settings(content["recipe"]),
            ranges={name: parse_range(name, given) for name, given in content["ranges"].items()},
            metric=str(content["metric"]),
            first=_VALUES.validate_python(content["first"]),
            most_epochs=_COUNT.validate_python(content.get("most_epochs")),
            most_trials=_COUNT.validate_python(content["most_trials"]),
            trials=trials,
            seconds=float(content["seconds"]),
        )
        if [trial.number for trial in trials] != list(range(len(trials))):
            raise ValueError("its trials are not numbered from 0 on")
        for trial in trials:
            if len(trial.values) != len(trial.losses):
                raise ValueError(f"trial {trial.number} has not a loss for each epoch")
            if trial.params.keys() != search.ranges.keys() or any(
                value not in search.ranges[name] for name, value in trial.params.items()
            ):
                raise ValueError(f"trial {trial.number} is not in the ranges")
    except OSError as error:
        raise RunError(f"can't read {file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecipeError) as error:
        raise RunError(f"{file} can't be understood: {clip(str(error))}") from error
    return search


def trials_csv(search: Search) -> str:
    """Return the table of trials as CSV, a row for each, with a column for each searched field.

    `epochs` is the number of epochs that were trained, `value` and `val_loss` are those of the best
    of them (of a pruned trial, of the last one).
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    best = search.best
    names = ["trial", "state", "best", "value", "val_loss", "epoch", "epochs", "seconds"]
    writer.writerow([*names, *search.ranges, "reason"])
    for trial in search.trials:
        value, loss = trial.shown_value, trial.loss
        if loss is None and trial.losses:
            loss = trial.losses[-1]
        cells = (
            trial.number,
            trial.state,
            "yes" if best is not None and trial.number == best.number else "",
            "" if value is None else f"{value:.6g}",
            "" if loss is None else f"{loss:.6g}",
            "" if trial.epoch is None else trial.epoch,
            len(trial.values),
            f"{trial.seconds:.1f}",
        )
        params = [value_text(trial.params[name]) for name in search.ranges]
        # Numbers may begin with a minus sign, and are no formulas.
        texts = [
            param if isinstance(trial.params[name], int | float) else spreadsheet_cell(param)
            for name, param in zip(search.ranges, params, strict=True)
        ]
        writer.writerow([*cells, *texts, spreadsheet_cell(trial.reason)])
    return text.getvalue()


def _without(recipe: Recipe, *names: str) -> Recipe:
    """Return a recipe in which these fields are not set."""
    kept = recipe.model_dump(exclude_unset=True, exclude=set(names))
    return checked_recipe(kept)
