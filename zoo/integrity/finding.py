"""What came of checking a file, and whether it is one."""

from __future__ import annotations

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
        file.lstat()
    except PermissionError as error:
        return f"it can't be looked at: {error.strerror}"
    except OSError:
        return "it is missing"
    if (target := leads_out(folder, file)) is not None:
        return f"it is a link that leads out of the folder, to {target}"
    return "" if is_file(file) else "it is no file"
