"""Comparison of the settings and images of a resumed run with those it was started with."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from zoo.data.decoded import content_keys
from zoo.data.sample import Sample
from zoo.data.split import Splits
from zoo.errors import RecipeError, RunError
from zoo.events import EpochEnd, Listener, Note
from zoo.io.text import clip, count, listed
from zoo.machine.processes import numeric_settings
from zoo.machine.speed import device_name
from zoo.recipe import Recipe, checked_recipe, make_recipe
from zoo.runs.checkpoint_file import CHECKPOINT, DATA, Checkpoint, read_checkpoint, write_checkpoint
from zoo.runs.write import versions
from zoo.training.state import TrainingState

#: Fields that don't affect the weights, and places of images and of the teacher, which are compared
#: themselves.
FREE = frozenset(
    {
        "data",
        "val",
        "test",
        "teacher",
        "unlabelled",
        "workers",
        "cache_size",
        "collective_timeout",
        "checkpoint_every",
        "strict",
        "follow_links",
        "allow_network",
    }
)

#: Fields that can never change, because the tensors of the checkpoint would no longer fit, or
#: because they have had their effect: the probe rests on features of one engine.
_BOUND = frozenset(
    {
        "backbone",
        "backbone_options",
        "image_size",
        "train",
        "optimizer",
        "optimizer_options",
        "lora_rank",
        "engine",
    }
)

#: Parts of `environment` that are not compared.
_MACHINE = frozenset({"platform", "processor", "accelerator"})

#: Maximum number of image names listed for each kind of difference.
_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class DataKeys:
    """Content keys of the images of a run."""

    train: Sequence[bytes]
    val: Sequence[bytes]
    unlabelled: Sequence[bytes] = ()


def keys_of(splits: Splits) -> DataKeys:
    """Return the content keys of the images that training reads.

    Raises:
        DataError: A file can't be read.
    """
    return DataKeys(
        train=content_keys(splits.train),
        val=content_keys(splits.val),
        unlabelled=content_keys(splits.unlabelled),
    )


class _About(BaseModel):
    """Contents of a checkpoint besides its tensors; untrusted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    recipe: dict[str, Any]
    origins: dict[str, str] = {}
    custom: dict[str, str] = {}
    weights_source: str
    weights_sha256: str
    teacher_sha256: str = ""
    processes: int
    environment: dict[str, str]
    training: TrainingState
    scaler: dict[str, float]
    rows: list[EpochEnd]
    complete: bool


def read_run(folder: Path) -> Checkpoint:
    """Read and validate the checkpoint of a run.

    Raises:
        RunError: There is no checkpoint, it is damaged, or it is not that of a run.
    """
    checkpoint = read_checkpoint(folder)
    try:
        _About.model_validate_json(json.dumps(checkpoint.about))
        checked_recipe(checkpoint.about["recipe"])
        TrainingState(**checkpoint.about["training"])
        for row in checkpoint.about["rows"]:
            EpochEnd(**row)
    except (ValidationError, RecipeError, TypeError) as error:
        reason = clip(str(error))
        raise RunError(f"the checkpoint of {folder} can't be understood: {reason}") from error
    return checkpoint


def environment(device: torch.device) -> dict[str, str]:
    """Return what a run is made with.

    That is the versions and settings on which the last bits of results depend, and the machine,
    which is recorded for the reader: no run warns of another one.
    """
    machine = {"platform": platform.platform(), "processor": device_name(torch.device("cpu"))}
    if device.type != "cpu":
        machine["accelerator"] = device_name(device)
    return {**_numeric_environment(), **machine}


def _numeric_environment() -> dict[str, str]:
    return {**versions(), "threads": str(torch.get_num_threads()), **numeric_settings()}


def write_data_keys(folder: Path, splits: Splits, keys: DataKeys) -> None:
    """Save the names and content keys of all images, to be compared when the run is resumed.

    Raises:
        RunError: The file can't be written.
    """
    samples = chain(splits.train, splits.val, splits.unlabelled)
    # NUL is the only character that no path contains.
    names = "\0".join(_name(sample) for sample in samples).encode(errors="surrogateescape")
    tensors = {
        "names": torch.from_numpy(np.frombuffer(names, np.uint8).copy()),
        "keys": torch.from_numpy(
            np.frombuffer(b"".join([*keys.train, *keys.val, *keys.unlabelled]), np.uint8).copy()
        ),
    }
    about = {"train": len(splits.train), "unlabelled": len(splits.unlabelled)}
    write_checkpoint(folder, tensors, about, name=DATA)


def read_data_keys(folder: Path) -> dict[str, dict[str, bytes]]:
    """Read what `write_data_keys` saved.

    Returns:
        Content keys of images by CLASS/NAME; of `train`, `val` and `unlabelled`.

    Raises:
        RunError: The file is missing, damaged, or has other contents.
    """
    noted = read_checkpoint(folder, DATA)
    try:
        text = noted.tensors["names"].numpy().tobytes()
        names = text.decode(errors="surrogateescape").split("\0")
        flat = noted.tensors["keys"].numpy().tobytes()
        train = int(noted.about["train"])
        # Runs of earlier versions have none.
        val = len(names) - int(noted.about.get("unlabelled", 0))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{folder / CHECKPOINT / DATA} can't be understood: {error}") from error
    size = len(flat) // len(names)
    keyed = [(name, flat[n * size : (n + 1) * size]) for n, name in enumerate(names)]
    return {
        "train": dict(keyed[:train]),
        "val": dict(keyed[train:val]),
        "unlabelled": dict(keyed[val:]),
    }


def changes_of_data(folder: Path, splits: Splits, keys: DataKeys) -> list[str]:
    """Describe how the images differ from those at the start of the run, one line per kind."""
    before = read_data_keys(folder)
    now = {
        "train": _keyed(splits.train, keys.train),
        "val": _keyed(splits.val, keys.val),
        "unlabelled": _keyed(splits.unlabelled, keys.unlabelled),
    }
    return [line for part in now for line in _differences(part, before[part], now[part])]


def changes_of_recipe(
    checkpoint: Checkpoint, recipe: Recipe, processes: int
) -> tuple[list[str], list[str]]:
    """Describe how the recipe differs from that of the run: (allowable changes, others).

    How the images of a step are divided is no change if they stay the same.
    """
    before = checked_recipe(checkpoint.about["recipe"])
    free = FREE
    same_processes = checkpoint.about["processes"] == processes
    same_step = _images_a_step(checkpoint) == processes * recipe.step_images(processes)
    if same_step:
        free |= {"batch_size", "global_batch", *(() if same_processes else ("grad_accumulation",))}
    changes: list[str] = []
    clashes: list[str] = []
    for name in Recipe.model_fields:
        old, new = getattr(before, name), getattr(recipe, name)
        if name not in free and old != new:
            (clashes if name in _BOUND else changes).append(f"{name} = {new!r}, was {old!r}")
    if not same_processes and not same_step:
        changes.append(f"{processes} processes, were {checkpoint.about['processes']}")
    return changes, clashes


def change_of_processes(checkpoint: Checkpoint, processes: int) -> str | None:
    """Describe what another number of processes means for a run that keeps its images per step."""
    before = checkpoint.about["processes"]
    if before == processes:
        return None
    return (
        f"{count(processes, 'process', 'processes')}, were {before}, with the same "
        f"{count(_images_a_step(checkpoint), 'image')} a step: results are the same up to the "
        f"order of sums, and to what each process draws or averages by itself (dropout, mixup, "
        f"class weights, trained batch-norm statistics)"
    )


def _images_a_step(checkpoint: Checkpoint) -> int:
    """Return the images per step of a run over all of its processes."""
    processes: int = checkpoint.about["processes"]
    return processes * checked_recipe(checkpoint.about["recipe"]).step_images(processes)


def refuse_more(folder: Path, checkpoint: Checkpoint, fields: Mapping[str, Any]) -> None:
    """Refuse to change the settings of a complete run: it would have no effect.

    Raises:
        RunError: One of the fields differs.
    """
    before = checked_recipe(checkpoint.about["recipe"])
    recipe = make_recipe(before, **fields)
    # The recipe of a run is resolved: "auto" is replaced by a value, and paths are absolute.
    compared = [name for name in fields if name not in FREE | {"device", "weights"}]
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
    """Refuse to resume a run whose settings or images have changed.

    Raises:
        RunError: There are clashes, or changes that are not allowed.
    """
    if clashes:
        raise RunError(
            f"the run {folder} can't be resumed with {'; '.join(clashes)}", hint="start a new one"
        )
    if changes and not allowed:
        lines = "".join(f"\n  {change}" for change in changes)
        raise RunError(
            f"the run {folder} differs from how it was started:{lines}",
            hint="undo that, or set `allow_changed`",
        )


def warn_of_environment(checkpoint: Checkpoint, listen: Listener) -> None:
    """Warn if versions or settings differ, because results may then differ in their last bits."""
    recorded: Mapping[str, str] = checkpoint.about["environment"]
    before = {name: value for name, value in recorded.items() if name not in _MACHINE}
    now = _numeric_environment()
    differing = [
        f"{name} {now.get(name, 'none')}, was {before.get(name, 'none')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differing:
        text = f"{'; '.join(differing)}: weights may differ from the uninterrupted run's"
        listen(Note(text=text, warning=True))


def _name(sample: Sample) -> str:
    """Return CLASS/NAME, so that an image moved to another class counts as a different one."""
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
            images = listed([name.partition("/")[2] for name in names], _EXAMPLES)
            yield f"{split} images {what}: {images}"
    if not set(before) ^ set(now) and list(before) != list(now):
        yield f"{split} images are in another order"
