"""Results of checking a file, and the check that it is a regular file of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo.io.files import is_file
from zoo.weights.files import leads_out

State = Literal["ok", "unchecked", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of checking a file.

    Attributes:
        file: Path relative to the run folder.
        state: `ok`, `wrong`, or `unchecked` if there is nothing to check against.
        detail: Description of the result.
    """

    file: str
    state: State
    detail: str


def suspicious(folder: Path, file: Path) -> str:
    """Return what is wrong with a required file: missing, outside the folder; empty if nothing."""
    try:
        file.lstat()
    except PermissionError as error:
        return f"it can't be read: {error.strerror}"
    except OSError:
        return "it is missing"
    if (target := leads_out(folder, file)) is not None:
        return f"it is a link that leads out of the folder, to {target}"
    return "" if is_file(file) else "it is not a file"
