"""What differs between two runs: settings with their origins, data, and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import RecipeError, RunError
from zoo.io.files import expand, is_file
from zoo.io.parse import MAX_TOML, parse_toml, read_bounded
from zoo.recipe import Recipe, checked_recipe, read_origins
from zoo.runs.overview import Measure
from zoo.runs.parse import read_head
from zoo.runs.read import model_file
from zoo.runs.scores import read_columns
from zoo.runs.write import PREDICTIONS, RECIPE, ModelInfo
from zoo.tasks import TASKS


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting that differs.

    Attributes:
        name: Field of the recipe; or `weights_source`, `input`, `version of NAME`.
        first: Value in the first run; None if it is not set.
        second: Value in the second run.
        first_origin: Where the first value came from, as in recipe.toml: `default`, `recipe`,
            `given` or `decided: ...`; None if not known, or not a field of the recipe.
        second_origin: Where the second value came from.
    """

    name: str
    first: Any
    second: Any
    first_origin: str | None = None
    second_origin: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Number of images of a class in a split, where it differs; None if a run lacks the class."""

    split: str
    name: str
    first: int | None
    second: int | None


@dataclass(frozen=True, kw_only=True)
class DataDifference:
    """What differs in the data of two runs.

    Attributes:
        only_first: Classes that only the first run has.
        only_second: Classes that only the second run has.
        reordered: Whether they have the same classes in another order.
        images: Number of images in the first and in the second run, by split; None if not known.
        counts: The classes whose numbers differ; empty also if they are not known of both.
        same_source: Whether the images are read from the same places.
        same_val: Whether the val images have the same names.
        shared: Number of images that both have predictions for, by split; None if one of them
            has none.
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    reordered: bool
    images: Mapping[str, tuple[int | None, int | None]]
    counts: tuple[ClassCount, ...]
    same_source: bool
    same_val: bool
    shared: Mapping[str, int] | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A metric of two runs on a split; None if it is not measured."""

    split: str
    metric: str
    first: Measure | None
    second: Measure | None


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """What differs between two runs.

    Attributes:
        first: Path of the first run.
        second: Path of the second run.
        config: The settings that differ.
        data: What differs in the data.
        results: All figures of both.
        comparable: Whether both predict val or test images of the same names, so that
            `zoo compare` can tell whether one is better, if they are the same images.
    """

    first: Path
    second: Path
    config: tuple[Setting, ...]
    data: DataDifference
    results: tuple[Result, ...]
    comparable: bool


def diff_runs(first: str | Path, second: str | Path) -> RunDifference:
    """Return what differs between two runs, without reading their weights.

    Args:
        first: A run folder or its model.safetensors.
        second: Another one.

    Raises:
        RunError: One of them is not a run, or its metadata or predictions are damaged.
    """
    one, other = _read(first), _read(second)
    data = _data(one, other)
    measured = {split for split in ("val", "test") if _same_images(data, split)}
    return RunDifference(
        first=one.path,
        second=other.path,
        config=(*_settings(one, other), *_made_with(one.info, other.info)),
        data=data,
        results=_results(one.info, other.info),
        comparable=bool(measured) and not (data.only_first or data.only_second),
    )


@dataclass(frozen=True, kw_only=True)
class _Side:
    path: Path
    info: ModelInfo
    origins: Mapping[str, str] | None
    names: Mapping[str, frozenset[str]] | None


def _read(path: str | Path) -> _Side:
    path = expand(path)
    info = read_head(model_file(path))[1]
    return _Side(path=path, info=info, origins=_origins(path, info.recipe), names=_names(path))


def _origins(path: Path, recipe: Recipe) -> dict[str, str] | None:
    """Return the origins of settings by field; None if there is no readable recipe.toml."""
    if not is_file(path / RECIPE):
        return None
    try:
        text = read_bounded(path / RECIPE, MAX_TOML).decode()
        written = checked_recipe(parse_toml(text))
    except (OSError, ValueError, RecipeError) as error:
        raise RunError(f"{path / RECIPE} can't be read: {error}") from error
    known = read_origins(text, written)
    fields = Recipe.model_fields
    same = [name for name in fields if getattr(written, name) == getattr(recipe, name)]
    return {name: known.get(name, "default") for name in same}


def _names(path: Path) -> dict[str, frozenset[str]] | None:
    if not is_file(path / PREDICTIONS):
        return None
    columns = read_columns(path / PREDICTIONS)
    found: dict[str, set[str]] = {}
    for name, split in zip(columns["name"], columns["split"], strict=True):
        found.setdefault(split, set()).add(name)
    return {split: frozenset(names) for split, names in found.items()}


def _settings(one: _Side, other: _Side) -> list[Setting]:
    first, second = (side.info.recipe.model_dump(mode="json") for side in (one, other))
    return [
        Setting(
            name=name,
            first=first[name],
            second=second[name],
            first_origin=None if one.origins is None else one.origins.get(name),
            second_origin=None if other.origins is None else other.origins.get(name),
        )
        for name in Recipe.model_fields
        if first[name] != second[name]
    ]


def _made_with(one: ModelInfo, other: ModelInfo) -> list[Setting]:
    pairs: list[tuple[str, Any, Any]] = [
        ("weights_source", one.weights_source, other.weights_source),
        ("input", _input(one), _input(other)),
        *(
            (f"version of {name}", one.versions.get(name), other.versions.get(name))
            for name in sorted(one.versions.keys() | other.versions.keys())
        ),
    ]
    return [Setting(name=name, first=a, second=b) for name, a, b in pairs if a != b]


def _input(info: ModelInfo) -> str:
    height, width = info.preprocess.height_width
    return f"{height} x {width}, {info.preprocess.interpolation}, {info.preprocess.crop_mode}"


def _data(one: _Side, other: _Side) -> DataDifference:
    first, second = one.info.class_names, other.info.class_names
    shared = None
    if one.names is not None and other.names is not None:
        splits = [split for split in ("val", "test") if split in one.names]
        shared = {s: len(one.names[s] & other.names.get(s, frozenset())) for s in splits}
    return DataDifference(
        only_first=tuple(name for name in first if name not in set(second)),
        only_second=tuple(name for name in second if name not in set(first)),
        reordered=first != second and set(first) == set(second),
        images={s: (_images(one, s), _images(other, s)) for s in ("train", "val", "test")},
        counts=_counts(one.info, other.info),
        same_source=_places(one.info.recipe) == _places(other.info.recipe),
        same_val=one.info.val_sha256 == other.info.val_sha256,
        shared=shared,
    )


def _places(recipe: Recipe) -> tuple[str | None, ...]:
    return recipe.data, recipe.val, recipe.test


def _images(side: _Side, split: str) -> int | None:
    """Return the number of images of a split; of train with several labels, it is not known."""
    if split in side.info.figures:
        return side.info.figures[split].images
    if side.info.counts and TASKS[side.info.task].exclusive:
        return sum(side.info.counts.get(split, ()))
    return None


def _counts(one: ModelInfo, other: ModelInfo) -> tuple[ClassCount, ...]:
    if not one.counts or not other.counts:
        return ()
    names = list(dict.fromkeys((*one.class_names, *other.class_names)))
    found = []
    for split in ("train", "val", "test"):
        if not any(one.counts.get(split, ())) and not any(other.counts.get(split, ())):
            continue
        first, second = _by_class(one, split), _by_class(other, split)
        for name in names:
            pair = first.get(name), second.get(name)
            if pair[0] != pair[1]:
                found.append(ClassCount(split=split, name=name, first=pair[0], second=pair[1]))
    return tuple(found)


def _by_class(info: ModelInfo, split: str) -> dict[str, int]:
    counts: Sequence[int] = info.counts.get(split) or [0] * len(info.class_names)
    return dict(zip(info.class_names, counts, strict=True))


def _same_images(data: DataDifference, split: str) -> bool:
    shared = (data.shared or {}).get(split, 0)
    return shared > 0 and data.images[split] == (shared, shared)


def _results(one: ModelInfo, other: ModelInfo) -> tuple[Result, ...]:
    first, second = _figures(one), _figures(other)
    return tuple(
        Result(split=key[0], metric=key[1], first=first.get(key), second=second.get(key))
        for key in dict.fromkeys((*first, *second))
    )


def _figures(info: ModelInfo) -> dict[tuple[str, str], Measure]:
    found = {
        (split, name): Measure.of(figure)
        for split, of in info.figures.items()
        for name, figure in of.metrics.items()
    }
    if not found:
        found = {("val", name): Measure(value=value) for name, value in info.val_metrics.items()}
    return found
