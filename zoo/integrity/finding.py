"""What came of checking a file, and whether it is one."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoo.io.files import is_file
from zoo.weights.reading import leads_out

State = Literal["ok", "unchecked", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of checking a file.

    Attributes:
        file: Its place in the run folder.
        state: `ok`; `wrong`; or `unchecked`, where there is nothing to check against.
        detail: What was found.
    """

    file: str
    state: State
    detail: str


def odd(folder: Path, file: Path) -> str:
    """Why a file that a run must have is none, or not the folder's own; empty if it is."""
    try:
        kind = file.lstat().st_mode
    except PermissionError as error:
        return f"it can't be looked at: {error.strerror}"
    except OSError:
        return "it is missing"
    if (target := leads_out(folder, file)) is not None:
        return f"it is a link that leads out of the folder, to {target}"
    if stat.S_ISREG(kind) or (stat.S_ISLNK(kind) and is_file(file)):
        return ""
    return "it is no file"


def closed(file: str, error: OSError) -> Finding:
    """The finding on what may not be looked at."""
    return Finding(file=file, state="wrong", detail=f"it can't be looked at: {error.strerror}")


def broken(file: Path) -> Finding:
    """The finding on such a one."""
    return Finding(file=file.name, state="wrong", detail=odd(file.parent, file))
