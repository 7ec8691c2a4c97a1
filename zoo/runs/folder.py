"""The run folder's place: chosen and checked before training, taken away if nothing comes of it."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import nn

from zoo.errors import RunError
from zoo.io.files import expand
from zoo.recipe import Recipe
from zoo.runs.checkpoint_file import (
    CHECKPOINT,
    DATA,
    LAST,
    LOCK,
    has_checkpoint,
    holding,
    remove_unfinished,
)
from zoo.runs.write import CARD, CONFIG, METRICS, MODEL, RECIPE


def choose_folder(out: str | Path | None, recipe: Recipe, *, resuming: bool = False) -> Path:
    """The run folder: `out`, or a new one below `runs/`; one that holds something only to resume.

    Raises:
        RunError: `out` is a file, or holds something, or can't be written.
    """
    try:
        if out is None:
            folder = next(c for c in _default_folders(recipe) if not c.exists())
        else:
            folder = expand(out)
            if not resuming:
                _refuse_if_used(folder)
        existing = _existing(folder)
        writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    except OSError as error:
        raise RunError(
            f"can't look at the run folder {error.filename}: {error.strerror}"
        ) from error
    if not writable:
        raise RunError(f"can't write the run folder {folder}: no right to write in {existing}")
    return folder


def check_room(folder: Path, model: nn.Module, moments: int) -> None:
    """See that two models and two checkpoints fit: a new one is written before the old one goes.

    Args:
        folder: The run folder.
        model: To be kept.
        moments: Tensors that a checkpoint holds for each parameter besides its value.

    Raises:
        RunError: They don't.
    """
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    needed = 2 * size + 2 * (1 + moments) * size + 2**20
    existing = _existing(folder)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RunError(
            f"no space for the run folder {folder}: it needs {needed / 1e6:.0f} MB, "
            f"{existing} has {free / 1e6:.0f} MB free"
        )


@contextmanager
def open_folder(folder: Path, recipe: Recipe, *, default: bool) -> Iterator[Path]:
    """Make the folder this run's own, and hold it.

    Args:
        folder: As chosen.
        recipe: As resolved.
        default: Nobody asked for this very folder: if another run has taken it meanwhile, the next
            free one will do.

    Yields:
        The folder.

    Raises:
        RunError: It can't be made or written, or another run has taken it meanwhile.
    """
    try:
        if default:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder = next(c for c in _default_folders(recipe) if _made(c))
        else:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't make the run folder {folder}: {error.strerror}") from error
    with holding(folder):
        _refuse_if_used(folder)
        remove_unfinished(folder)
        yield folder


def remove_traces(folder: Path) -> None:
    """Take away what this run has put into its folder, and the folder; no model came to be.

    Where that can't be done it stays: something else has gone wrong, which is to be said.
    """
    with suppress(OSError):
        for name in (RECIPE, METRICS, CONFIG, CARD):
            (folder / name).unlink(missing_ok=True)
        for name in (LAST, DATA, LOCK):
            (folder / CHECKPOINT / name).unlink(missing_ok=True)
        for place in (folder / CHECKPOINT, folder):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def _default_folders(recipe: Recipe) -> Iterator[Path]:
    data = "demo" if recipe.data is None else Path(os.path.realpath(expand(recipe.data))).name
    name = re.sub(r"[^\w.-]+", "-", recipe.backbone.partition("/")[2])
    stem = f"{data or 'data'}-{name}"
    return (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in itertools.count(1))


def _refuse_if_used(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"`out={folder}` is a file", hint="give a folder that doesn't exist yet")
    if has_checkpoint(folder):
        raise RunError(
            f"`out={folder}` holds a run already, and zoo never overwrites one",
            hint=f"to resume it: zoo finetune --resume {shlex.quote(str(folder))}",
        )
    if folder.is_dir() and any((folder / name).exists() for name in (MODEL, RECIPE, METRICS)):
        raise RunError(f"`out={folder}` holds a run already, and zoo never overwrites one")
    if folder.is_dir() and any(not _is_left_over(p) for p in folder.iterdir()):
        raise RunError(f"`out={folder}` is not empty", hint="give a new or an empty folder")


def _is_left_over(path: Path) -> bool:
    """Whether it is all that a run leaves that was killed before its first checkpoint."""
    if path.name != CHECKPOINT or not path.is_dir() or path.is_symlink():
        return False
    return all(entry.name.startswith(".") or entry.name == DATA for entry in path.iterdir())


def _made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
