"""The files of a prediction on a cluster: each has the rows of consecutive images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from zoo.errors import RunError

T = TypeVar("T")

#: Files of a prediction, within the limits of their rows, so that the last ones don't leave most of
#: a cluster idle.
_FILES = 1000

#: Fewest and most rows of a file.
_LEAST, _MOST = 64, 4096


def divided(items: Sequence[T]) -> list[Sequence[T]]:
    """Divide items into those of each file; this depends on their number alone."""
    size = min(max(len(items) // _FILES, _LEAST), _MOST)
    return [items[start : start + size] for start in range(0, len(items), size)]


def part_file(folder: Path, number: int) -> Path:
    """Return the path of a file by its number, from 0; names are in the order of numbers."""
    return folder / f"part-{number:06}.parquet"


def unreadable_in(file: Path) -> int:
    """Return how many rows of a file have an error.

    Raises:
        RunError: The file can't be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        errors = parquet.read_table(file, columns=["error"]).column("error")
    except (OSError, pyarrow.ArrowException) as error:
        raise RunError(f"can't read {file}: {error}", hint="delete it, and `resume`") from error
    return int(len(errors) - errors.null_count)


def check_complete(folder: Path, files: int) -> None:
    """Check that a folder has all files, and delete what killed processes have left beside them.

    Raises:
        RunError: A file is missing.
    """
    expected = {part_file(folder, number) for number in range(files)}
    found = set(folder.iterdir())
    if missing := sorted(expected - found):
        raise RunError(
            f"{missing[0].name} is not in {folder}", hint="name a folder that all machines see"
        )
    for other in found - expected:
        other.unlink()
