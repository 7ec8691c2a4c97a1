"""The run folder's place: chosen and checked before training, taken away if nothing comes of it."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from zoo.errors import RunError
from zoo.recipe import Recipe
from zoo.run.write import CARD, CONFIG, METRICS, MODEL, RECIPE, write_recipe


def choose_folder(out: str | Path | None, recipe: Recipe) -> Path:
    """The run folder: `out`, or a new one below `runs/`; never one that holds something.

    Raises:
        RunError: `out` is a file, or holds something, or can't be written.
    """
    try:
        if out is None:
            folder = next(c for c in _default_folders(recipe) if not c.exists())
        else:
            folder = Path(out).expanduser()
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


def check_room(folder: Path, model: nn.Module) -> None:
    """See that two whole models fit: a better one is written beside the last before it replaces it.

    Raises:
        RunError: They don't.
    """
    needed = 2 * sum(t.numel() * t.element_size() for t in model.state_dict().values()) + 2**20
    existing = _existing(folder)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RunError(
            f"no space for the run folder {folder}: it needs {needed / 1e6:.0f} MB, "
            f"{existing} has {free / 1e6:.0f} MB free"
        )


def open_folder(folder: Path, recipe: Recipe, *, default: bool) -> Path:
    """Make the folder this run's own and put the recipe into it.

    Args:
        folder: As chosen.
        recipe: As resolved.
        default: Nobody asked for this very folder: if another run has taken it meanwhile, the next
            free one will do.

    Returns:
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
            (folder / RECIPE).touch(exist_ok=False)
    except FileExistsError as error:
        raise RunError(f"--out {folder} was taken by another run meanwhile") from error
    except OSError as error:
        raise RunError(f"can't make the run folder {folder}: {error.strerror}") from error
    try:
        write_recipe(folder, recipe)
    except RunError:
        remove_traces(folder)
        raise
    return folder


def remove_traces(folder: Path) -> None:
    """Take away what this run has put into its folder, if no model came to be; the folder too."""
    if (folder / MODEL).exists():
        return
    for name in (RECIPE, METRICS, CONFIG, CARD):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _default_folders(recipe: Recipe) -> Iterator[Path]:
    data = "demo" if recipe.data is None else Path(recipe.data).expanduser().resolve().name
    stem = f"{data or 'data'}-{recipe.backbone.partition('/')[2]}"
    return (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in itertools.count(1))


def _refuse_if_used(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--out {folder} is a file; give a folder that doesn't exist yet")
    if folder.is_dir() and any((folder / name).exists() for name in (MODEL, RECIPE, METRICS)):
        raise RunError(f"--out {folder} holds a run already; zoo never overwrites one")
    if folder.is_dir() and any(folder.iterdir()):
        raise RunError(f"--out {folder} is not empty; give a new or an empty folder")


def _made(folder: Path) -> bool:
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
