"""The run folder's place: chosen and checked before training, taken away if nothing comes of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torch import nn

from zoo.errors import RunError
from zoo.recipe import Recipe
from zoo.run.write import METRICS, MODEL, RECIPE, write_recipe


def choose_folder(out: str | Path | None, recipe: Recipe) -> Path:
    """The run folder: `out`, or a new one below `runs/`; never one that holds something.

    Raises:
        RunError: `out` is a file, or holds something, or can't be written.
    """
    if out is None:
        data = "demo" if recipe.data is None else Path(recipe.data).expanduser().resolve().name
        stem = Path("runs") / f"{data or 'data'}-{recipe.backbone.partition('/')[2]}"
        candidates = (
            stem if n == 1 else stem.with_name(f"{stem.name}-{n}") for n in range(1, 10**6)
        )
        folder = next(c for c in candidates if not c.exists())
    else:
        folder = Path(out).expanduser()
        if folder.exists() and not folder.is_dir():
            raise RunError(f"--out {folder} is a file; give a folder that doesn't exist yet")
        if folder.is_dir() and any((folder / name).exists() for name in (MODEL, RECIPE, METRICS)):
            raise RunError(f"--out {folder} holds a run already; zoo never overwrites one")
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"--out {folder} is not empty; give a new or an empty folder")
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"can't write the run folder {folder}: no right to write in {existing}")
    return folder


def check_room(folder: Path, model: nn.Module) -> None:
    """See that two whole models fit: a better one is written beside the last before it replaces it.

    Raises:
        RunError: They don't.
    """
    needed = 2 * sum(t.numel() * t.element_size() for t in model.state_dict().values()) + 2**20
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RunError(
            f"no space for the run folder {folder}: it needs {needed / 1e6:.0f} MB, "
            f"{existing} has {free / 1e6:.0f} MB free"
        )


def open_folder(folder: Path, recipe: Recipe) -> None:
    """Make the folder and put the recipe into it.

    Raises:
        RunError: It can't be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't make the run folder {folder}: {error.strerror}") from error
    write_recipe(folder, recipe)


def remove_traces(folder: Path) -> None:
    """Take away a folder in which no model came to be."""
    for name in (RECIPE, METRICS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
