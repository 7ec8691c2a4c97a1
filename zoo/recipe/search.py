"""Ranges of recipe fields that `zoo tune` searches: their syntax, and what can be searched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from zoo.errors import RecipeError
from zoo.io.text import clip, listed
from zoo.recipe import SECTIONS, Recipe, change, checked_recipe, read_values
from zoo.recipe.aliases import meant
from zoo.recipe.problems import problem

#: A value of a field that can be searched.
Value = bool | int | float | str

#: Name of the table of ranges in a recipe file.
TABLE = "search"

#: Fields whose intervals have a log scale by default.
LOG_SCALE = frozenset({"lr", "head_lr_mult", "weight_decay", "lora_rank", "lora_alpha"})

_LENGTH = "trials are compared after the same number of epochs of the same schedule"

#: Fields that can't be searched, with the reason. Others are of the data or the machine.
_FIXED = {
    "epochs": _LENGTH,
    "steps": _LENGTH,
    "samples": _LENGTH,
    "time": "it is the limit of the whole search",
    "metric": "it is what trials are compared by",
    "seed": "the best of several seeds is the best by chance",
    "checkpoint_every": "it does not affect results",
    "backbone_options": "a table has no range",
    "optimizer_options": "a table has no range",
    "unlabelled": "trials are compared after epochs of the same images",
}

#: Fields on which the number of epochs depends that `steps` or `samples` give.
_OF_STEPS = frozenset({"batch_size", "global_batch", "grad_accumulation"})

#: Fields of the data that can be searched, because they change no image or label.
_OF_DATA = frozenset({"image_size"})

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_INTERVAL = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*(?::\s*(log|linear)\s*)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """All numbers from `low` to `high`; whole numbers if both are.

    Attributes:
        low: Smallest value.
        high: Largest value.
        log: Whether values are drawn on a log scale.
    """

    low: int | float
    high: int | float
    log: bool

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low!r}..{self.high!r}:{'log' if self.log else 'linear'}"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Two or more values, without an order."""

    values: tuple[Value, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return ",".join(value_text(value) for value in self.values)


#: What a field is searched among.
Range = Interval | Choices


def value_text(value: Value) -> str:
    """Return a value as it is written in a recipe, but texts without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def make_search(
    base: str | Path | Recipe | None,
    ranges: Mapping[str, object] | None = None,
    **overrides: object,
) -> tuple[Recipe, dict[str, Range]]:
    """Return the fixed settings of a search and its ranges.

    Args:
        base: As in `make_recipe`. A file may have ranges in a table `[search]`.
        ranges: Ranges by field, as in `parse_range`; they replace those of the file, and its
            values.
        **overrides: Values by field; they replace ranges of the file.

    Raises:
        RecipeError: As in `make_recipe` and `parse_range`; or a field has a range and a value, or
            trials would have different numbers of epochs.
    """
    values, where = read_values(base)
    table = values.pop(TABLE, {})
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: {TABLE} is not a table of ranges")
    parsed = {name: parse_range(name, given) for name, given in table.items()}
    if both := sorted(parsed.keys() & values.keys()):
        raise RecipeError(f"{where}: {listed(both)} has a value and a range in [{TABLE}]")
    given = {name: parse_range(name, each) for name, each in (ranges or {}).items()}
    if both := sorted(given.keys() & overrides.keys()):
        raise RecipeError(
            f"{listed(both)} has a value and a range", hint="leave one of the two out"
        )
    fixed = {k: str(v) if isinstance(v, Path) else v for k, v in overrides.items()}
    kept = {name: value for name, value in values.items() if name not in given}
    recipe = checked_settings({**kept, **fixed}, where=where)
    found = {name: r for name, r in {**parsed, **given}.items() if name not in fixed}
    length = next((name for name in ("steps", "samples") if getattr(recipe, name)), None)
    if length is not None and (differing := sorted(_OF_STEPS & found.keys())):
        raise RecipeError(
            f"range of {differing[0]}: with `{length}`, trials would have different numbers of "
            f"epochs",
            hint=f"give `epochs` in place of `{length}`",
        )
    return recipe, found


def checked_settings(values: Mapping[str, object], *, where: str = "recipe") -> Recipe:
    """Validate the fixed settings of a search, as `checked_recipe` does those of a run.

    Their `time` limits the search and no trial, so `steps` or `samples` may be given too.
    """
    recipe = checked_recipe({k: v for k, v in values.items() if k != "time"}, where=where)
    if "time" not in values:
        return recipe
    limit = checked_recipe({"time": values["time"]}, where=where)
    return change(recipe, time=limit.time)


def parse_range(name: str, given: object) -> Range:
    """Parse the range of a field.

    Args:
        name: The field.
        given: `LOW..HIGH`, with `:log` or `:linear` for another scale than the field's own; values
            separated by commas, or a list of values; or a range.

    Raises:
        RecipeError: The field is unknown or can't be searched, or the range is empty, has fewer
            than two values, or values that the field does not take.
    """
    _check_searchable(name)
    found: Range
    if isinstance(given, Interval | Choices):
        found = given
    elif isinstance(given, str):
        found = _parse_text(name, given)
    elif isinstance(given, Sequence):
        found = Choices(values=tuple(_typed(name, value) for value in given))
    else:
        raise RecipeError(
            f"range of {name}: {clip(repr(given))} is not a range",
            hint="give a text such as '1e-5..1e-3', or a list of values",
        )
    ends = found.values if isinstance(found, Choices) else (found.low, found.high)
    for value in ends:
        _check_value(name, value)
    if isinstance(found, Choices) and len(set(found.values)) < max(2, len(found.values)):
        raise RecipeError(f"range of {name}: {found} is not two or more different values")
    if isinstance(found, Interval) and not found.low < found.high:
        raise RecipeError(f"range of {name}: {found.low!r}..{found.high!r} is empty")
    if isinstance(found, Interval) and found.log and found.low <= 0:
        raise RecipeError(
            f"range of {name}: a log scale begins above 0, not at {found.low!r}",
            hint=f"write {found.low!r}..{found.high!r}:linear, or another lower end",
        )
    return found


def _check_searchable(name: str) -> None:
    if name not in Recipe.model_fields:
        text = meant(name, Recipe.model_fields)
        raise RecipeError(
            f"range of {name}: there is no such field", hint=text or "fields are those of recipes"
        )
    reason = _FIXED.get(name)
    for section in ("Data", "Machine"):
        if name in SECTIONS[section] and name not in _OF_DATA:
            reason = "trials are compared on the same data and machine"
    if reason is not None:
        raise RecipeError(f"{name} can't be searched: {reason}", hint=f"give `{name}` a value")


def _parse_text(name: str, text: str) -> Range:
    kinds = _kinds(name)
    interval = _INTERVAL.fullmatch(text)
    if interval is not None and kinds & {int, float}:
        low, high, scale = interval.groups()
        ends = [_typed(name, end) for end in (low, high)]
        if any(isinstance(end, str) for end in ends):
            raise RecipeError(f"range of {name}: {text} is not of whole numbers")
        log = scale == "log" if scale else name in LOG_SCALE
        return Interval(low=ends[0], high=ends[1], log=log)
    parts = [part.strip() for part in text.split(",")]
    if ".." in text and str not in kinds:
        raise RecipeError(
            f"range of {name}: {clip(text)!r} is not LOW..HIGH", hint="such as 1e-5..1e-3"
        )
    if not all(parts):
        raise RecipeError(f"range of {name}: {clip(text)!r} has an empty value")
    return Choices(values=tuple(_typed(name, part) for part in parts))


def _typed(name: str, value: object) -> Any:
    """Convert a text, or a whole number, to the type of the field; leave it if that fails."""
    kinds = _kinds(name)
    if isinstance(value, str):
        if bool in kinds and value in ("true", "false"):
            return value == "true"
        for kind in (int, float):
            if kind in kinds:
                try:
                    return kind(value)
                except ValueError:
                    pass
        return value
    if isinstance(value, int) and not isinstance(value, bool) and float in kinds:
        return float(value)
    return value


def _kinds(name: str) -> set[type]:
    """Return the types of a field's values."""
    annotation = Recipe.model_fields[name].annotation
    if get_origin(annotation) in (Union, UnionType):
        return {kind for kind in get_args(annotation) if isinstance(kind, type)}
    if get_origin(annotation) is Literal:
        return {str}
    return {annotation} if isinstance(annotation, type) else set()


def _check_value(name: str, value: object) -> None:
    """Check one value of a field by itself.

    Raises:
        RecipeError: The field does not take it.
    """
    wrong = []
    if not isinstance(value, bool | int | float | str):
        raise RecipeError(f"range of {name}: {clip(repr(value))} is neither a number nor a text")
    try:
        Recipe.model_validate({name: value})
    except ValidationError as error:
        # Others are of values that do not go together, which a trial may combine with more.
        wrong = [each for each in error.errors() if each["loc"][:1] == (name,)]
    if wrong:
        raise RecipeError(f"range of {problem(wrong[0], list(Recipe.model_fields))}")


def default_ranges(given: Recipe, resolved: Recipe, *, channels: int = 3) -> dict[str, Range]:
    """Return what is searched if no ranges are given: fields of fine-tuning that are not set.

    Args:
        given: The recipe as given; the fields that it sets are not searched.
        resolved: The same recipe, resolved; rates are searched around its own.
        channels: Number of channels of the images.

    Raises:
        RecipeError: There is nothing to search.
    """
    lr, decay = resolved.lr, resolved.weight_decay
    found: dict[str, Range] = {"lr": Interval(low=lr / 8, high=lr * 4, log=True)}
    if resolved.freeze != "backbone":
        found["layer_decay"] = Interval(low=0.65, high=1.0, log=False)
    if decay:
        found["weight_decay"] = Interval(low=decay / 10, high=decay * 10, log=True)
    found["label_smoothing"] = Choices(values=(0.0, 0.1))
    found["mixup"] = Choices(values=(0.0, 0.2))
    if channels != 4:
        found["augment"] = Choices(values=("light", "strong"))
    if resolved.train == "probe":
        found = {}
    found = {name: each for name, each in found.items() if name not in given.model_fields_set}
    if not found:
        raise RecipeError("there is nothing to search", hint="give ranges")
    return found
