"""Choose, check and create the run folder, and remove it if training fails without a model."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import nn

from zoo.errors import RunError
from zoo.io.files import exists, expand, is_file
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
from zoo.runs.write import CARD, METRICS, MODEL, PREDICTIONS, RECIPE, REPORT

#: Folder with a run for each fold, and the file that describes them, in a run folder.
FOLDS, FOLDS_MARK = "folds", "folds.json"

#: File with the pooled predictions of the runs on folds.
FOLDS_PREDICTIONS = "folds.parquet"


def choose_folder(
    out: str | Path | None, recipe: Recipe, *, resuming: bool = False, prefix: str = ""
) -> Path:
    """Return the run folder: `out`, or a new one in `runs/`. It must be empty unless resuming.

    The name of a new one begins with `prefix`.

    Raises:
        RunError: If `out` is a file, is not empty, or can't be written.
    """
    try:
        if out is None:
            folder = next(c for c in _default_folders(recipe, prefix) if not c.exists())
        else:
            folder = expand(out)
            if not resuming:
                _refuse_if_used(folder)
        existing = _existing(folder)
        writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    except OSError as error:
        raise RunError(f"can't read the run folder {error.filename}: {error.strerror}") from error
    if not writable:
        raise RunError(f"can't write the run folder {folder}: no right to write in {existing}")
    return folder


def check_run_space(folder: Path, model: nn.Module, moments: int) -> None:
    """Check that the disk has space for two models and two checkpoints: previous and new.

    `moments` is the number of tensors per parameter in a checkpoint besides its value.

    Raises:
        RunError: If there is not enough free space.
    """
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    check_space(folder, f"the run folder {folder}", 2 * size + 2 * (1 + moments) * size + 2**20)


def check_space(path: Path, what: str, needed: int) -> None:
    """Check the free space of the disk where a file or folder is to be written.

    Raises:
        RunError: If there is not enough free space.
    """
    existing = _existing(path)
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RunError(
            f"no space for {what}: it needs {needed / 1e6:.0f} MB, "
            f"{existing} has {free / 1e6:.0f} MB free"
        )


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Create a temporary folder beside `path`, and the folders above it; removed on exit.

    Folders above it that are still empty are removed too.

    Raises:
        RunError: If it can't be created.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise RunError(f"can't write {path}: {error.strerror}") from error
    try:
        yield Path(temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def open_folder(folder: Path, recipe: Recipe, *, default: bool) -> Iterator[Path]:
    """Create the run folder and lock it.

    Args:
        folder: The folder returned by `choose_folder`.
        recipe: The resolved recipe.
        default: The user did not name the folder: if another run has taken it meanwhile, use the
            next free name.

    Yields:
        The folder.

    Raises:
        RunError: If it can't be created or written, or another run has taken it meanwhile.
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
    """Remove the files of a run that failed before it wrote a model, and its folder if empty.

    Errors are ignored, so that they do not hide the error that ended the run.
    """
    with suppress(OSError):
        # The folder was empty when the run began.
        files = (RECIPE, METRICS, CARD, PREDICTIONS, REPORT)
        for path in (*(folder / name for name in files), *folder.glob("*.json")):
            if path.name != FOLDS_MARK:
                path.unlink(missing_ok=True)
        for name in (LAST, DATA, LOCK):
            (folder / CHECKPOINT / name).unlink(missing_ok=True)
        for place in (folder / CHECKPOINT, folder):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def _default_folders(recipe: Recipe, prefix: str = "") -> Iterator[Path]:
    data = "demo"
    if recipe.data is not None:
        path = Path(os.path.realpath(expand(recipe.data)))
        data = path.stem if is_file(path) else path.name
        if not exists(path):  # A name such as hf:OWNER/NAME@REVISION, or a pattern.
            data = re.sub(r"[^\w.-]+", "-", data).strip("-")
    name = re.sub(r"[^\w.-]+", "-", recipe.backbone.partition("/")[2])
    stem = f"{prefix}{data or 'data'}-{name}"
    return (Path("runs") / (stem if n == 1 else f"{stem}-{n}") for n in itertools.count(1))


def _refuse_if_used(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"`out={folder}` is a file", hint="give a folder that doesn't exist yet")
    if has_checkpoint(folder):
        raise RunError(
            f"`out={folder}` already contains a run, and zoo never overwrites one",
            hint=f"to resume it: zoo finetune --resume {shlex.quote(str(folder))}",
        )
    if folder.is_dir() and any((folder / name).exists() for name in (MODEL, RECIPE, METRICS)):
        raise RunError(f"`out={folder}` already contains a run, and zoo never overwrites one")
    if folder.is_dir() and any(not _is_left_over(p) for p in folder.iterdir()):
        raise RunError(f"`out={folder}` is not empty", hint="give a new or an empty folder")


def _is_left_over(path: Path) -> bool:
    """Return whether it is of a run killed before its first checkpoint, or of runs on folds."""
    of_folds = (FOLDS, FOLDS_MARK, FOLDS_PREDICTIONS)
    if path.name in of_folds and (path.parent / FOLDS_MARK).is_file():
        return True
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
    """Return the folder, or its nearest parent that exists."""
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
