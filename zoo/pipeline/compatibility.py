"""What may not differ when a run goes on: what was asked for, and the images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from zoo.data.sample import Sample
from zoo.data.split import Splits
from zoo.errors import RecipeError, RunError
from zoo.events import EpochEnd, Listener, Note
from zoo.io.text import clip
from zoo.machine.processes import numeric_settings
from zoo.recipe import Recipe, checked_recipe, make_recipe
from zoo.runs.checkpoint_file import CHECKPOINT, DATA, Checkpoint, read_checkpoint, write_checkpoint
from zoo.runs.write import versions
from zoo.training.state import TrainingState

#: Fields on which weights don't depend, and the place of the images, which are compared themselves.
_FREE = frozenset({"data", "workers", "cache_size", "checkpoint_every", "strict", "follow_links"})

#: Fields without which what the checkpoint holds fits nothing.
_BOUND = frozenset({"backbone", "image_size", "train", "optimizer"})

#: Examples that a difference names.
_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """What a run learns from and is judged by.

    Attributes:
        train: The key of each train image's content, in their order.
        val: Likewise of the val images.
    """

    train: Sequence[bytes]
    val: Sequence[bytes]


class _About(BaseModel):
    """What a checkpoint says besides its tensors; it may come from anybody."""

    model_config = ConfigDict(extra="forbid", strict=True)

    recipe: dict[str, Any]
    origins: dict[str, str] = {}
    weights_source: str
    weights_sha256: str
    processes: int
    environment: dict[str, str]
    training: TrainingState
    scaler: dict[str, float]
    rows: list[EpochEnd]
    complete: bool


def read_run(folder: Path) -> Checkpoint:
    """The checkpoint of a run, and that it is one.

    Raises:
        RunError: There is none, it is damaged, or not what a run leaves.
    """
    checkpoint = read_checkpoint(folder)
    try:
        _About.model_validate_json(json.dumps(checkpoint.about))
        checked_recipe(checkpoint.about["recipe"])
        TrainingState(**checkpoint.about["training"])
        for row in checkpoint.about["rows"]:
            EpochEnd(**row)
    except (ValidationError, RecipeError, TypeError) as error:
        reason = clip(" ".join(str(error).split()))
        raise RunError(f"the checkpoint of {folder} can't be understood: {reason}") from error
    return checkpoint


def environment() -> dict[str, str]:
    """What else decides a run's last bits."""
    return {**versions(), "threads": str(torch.get_num_threads()), **numeric_settings()}


def write_data_keys(folder: Path, splits: Splits, keys: DataKeys) -> None:
    """Note what the run learns from, for whoever goes on with it.

    Raises:
        RunError: It can't be written.
    """
    samples = [*splits.train, *splits.val]
    # NUL is the one character that no path holds.
    names = "\0".join(_name(sample) for sample in samples).encode(errors="surrogateescape")
    tensors = {
        "names": torch.from_numpy(np.frombuffer(names, np.uint8).copy()),
        "keys": torch.from_numpy(
            np.frombuffer(b"".join([*keys.train, *keys.val]), np.uint8).copy()
        ),
    }
    write_checkpoint(folder, tensors, {"train": len(splits.train)}, name=DATA)


def read_data_keys(folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What `write_data_keys` noted: the key of each train and of each val image, by CLASS/NAME.

    Raises:
        RunError: There is nothing, it is damaged, or not what a run leaves.
    """
    noted = read_checkpoint(folder, DATA)
    try:
        text = noted.tensors["names"].numpy().tobytes()
        names = text.decode(errors="surrogateescape").split("\0")
        flat = noted.tensors["keys"].numpy().tobytes()
        train = int(noted.about["train"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / CHECKPOINT / DATA} can't be understood: {error}") from error
    size = len(flat) // len(names)
    keyed = [(name, flat[n * size : (n + 1) * size]) for n, name in enumerate(names)]
    return dict(keyed[:train]), dict(keyed[train:])


def changes_of_data(folder: Path, splits: Splits, keys: DataKeys) -> list[str]:
    """How the images differ from those that the run began with, a line a kind."""
    train, val = read_data_keys(folder)
    return [
        *_differences("train", train, _keyed(splits.train, keys.train)),
        *_differences("val", val, _keyed(splits.val, keys.val)),
    ]


def changes_of_recipe(
    checkpoint: Checkpoint, recipe: Recipe, processes: int
) -> tuple[list[str], list[str]]:
    """How the recipe differs from that of the run: (what may be allowed, what may not)."""
    before = checked_recipe(checkpoint.about["recipe"])
    changes: list[str] = []
    clashes: list[str] = []
    for name in Recipe.model_fields:
        old, new = getattr(before, name), getattr(recipe, name)
        if name not in _FREE and old != new:
            (clashes if name in _BOUND else changes).append(f"{name} = {new!r}, was {old!r}")
    if checkpoint.about["processes"] != processes:
        changes.append(f"{processes} processes, were {checkpoint.about['processes']}")
    return changes, clashes


def refuse_more(folder: Path, checkpoint: Checkpoint, fields: Mapping[str, Any]) -> None:
    """Refuse to change the settings of a complete run: it would have no effect.

    Args:
        folder: The run's.
        checkpoint: Of it, complete.
        fields: Of a recipe, given anew.

    Raises:
        RunError: One of them differs.
    """
    before = checked_recipe(checkpoint.about["recipe"])
    recipe = make_recipe(before, **fields)
    # The recipe of a run is resolved: "auto" has become a value, a place absolute.
    compared = [name for name in fields if name not in _FREE | {"device", "weights"}]
    changes = [
        f"{name} = {new!r}, was {old!r}"
        for name in compared
        if (new := getattr(recipe, name)) not in ("auto", old := getattr(before, name))
    ]
    if changes:
        raise RunError(
            f"the run {folder} is complete and can't be changed ({'; '.join(changes)})",
            hint=f"start a new one from its recipe, or from its weights with `weights={folder}`",
        )


def refuse(folder: Path, changes: Sequence[str], clashes: Sequence[str], *, allowed: bool) -> None:
    """Refuse to go on with a run that would become another one.

    Raises:
        RunError: Something differs that can't, or that was not allowed to.
    """
    if clashes:
        raise RunError(
            f"the run {folder} can't go on with {'; '.join(clashes)}", hint="start a new one"
        )
    if changes and not allowed:
        listed = "".join(f"\n  {change}" for change in changes)
        raise RunError(
            f"the run {folder} would not go on as it began:{listed}",
            hint="undo that, or say `allow_changed`",
        )


def warn_of_environment(checkpoint: Checkpoint, listen: Listener) -> None:
    """Say which versions or settings differ, so that the last bits may."""
    before: Mapping[str, str] = checkpoint.about["environment"]
    now = environment()
    differing = [
        f"{name} {now.get(name, 'none')}, was {before.get(name, 'none')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differing:
        text = f"{'; '.join(differing)}: weights may differ from the uninterrupted run's"
        listen(Note(text=text, warning=True))


def _name(sample: Sample) -> str:
    """Class and name: an image that moved to another class is another."""
    return f"{sample.label}/{sample.name}"


def _keyed(samples: Sequence[Sample], keys: Sequence[bytes]) -> dict[str, bytes]:
    return {_name(sample): key for sample, key in zip(samples, keys, strict=True)}


def _differences(
    split: str, before: Mapping[str, bytes], now: Mapping[str, bytes]
) -> Iterator[str]:
    for what, names in (
        ("gone", sorted(before.keys() - now.keys())),
        ("new", sorted(now.keys() - before.keys())),
        ("changed", sorted(n for n in before.keys() & now.keys() if before[n] != now[n])),
    ):
        if names:
            more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
            shown = ", ".join(name.partition("/")[2] for name in names[:_EXAMPLES])
            yield f"{split} images {what}: {shown}{more}"
    if not set(before) ^ set(now) and list(before) != list(now):
        yield f"{split} images are in another order"
