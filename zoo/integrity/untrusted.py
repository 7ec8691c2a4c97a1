"""Find the files in a run folder that zoo didn't write, and those that could run code."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Container
from pathlib import Path

from zoo.integrity.finding import Finding, State
from zoo.runs.checkpoint_file import CHECKPOINT, LOCK, is_unfinished
from zoo.weights.files import leads_out

#: Suffixes of programs, and of formats that are pickles or may contain them.
_RUNS_CODE = re.compile(
    r"\.(bin|ckpt|joblib|npy|npz|pickle|pkl|pt|pt2|pth|tar|"
    r"bat|cmd|com|dll|dylib|exe|ipynb|jar|js|lua|pl|ps1|py|pyc|pyd|pyz|rb|sh|so)",
    re.IGNORECASE,
)

#: First bytes of such files, to detect them under any name.
_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"#!", b"MZ", b"\x7fELF")

#: Maximum number of reported files, and maximum depth of folders.
_MOST_FILES, _DEEPEST = 200, 20


def others(run: Path, known: Container[str]) -> list[Finding]:
    """Return a finding for each file of a run folder that is not in `known`.

    Args:
        run: The run folder.
        known: Files that are checked elsewhere, as paths relative to the run folder.
    """
    found: list[Finding] = []

    def closed(error: OSError) -> None:
        place = Path(error.filename).relative_to(run).as_posix()
        text = f"it can't be read: {error.strerror}"
        found.append(Finding(file=place, state="wrong", detail=text))

    for parent, folders, names in os.walk(run, onerror=closed):
        below = Path(parent).relative_to(run)
        for place in sorted((below / name).as_posix() for name in (*folders, *names)):
            if place in known or place == f"{CHECKPOINT}/{LOCK}":
                continue
            if (kind := _kind(run, run / place)) is not None:
                found.append(Finding(file=place, state=kind[0], detail=kind[1]))
        folders.sort()
        if len(found) > _MOST_FILES or len(below.parts) > _DEEPEST:
            text = f"more than {_MOST_FILES} files that are not zoo's, or {_DEEPEST} folders deep"
            return [*found[:_MOST_FILES], Finding(file=".", state="wrong", detail=text)]
    return found


def _kind(run: Path, path: Path) -> tuple[State, str] | None:
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            target = leads_out(run, path)
            if target is not None:
                return "wrong", f"a link that leads out of the folder, to {target}"
            return "unchecked", "a link inside the folder"
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            return "wrong", "a pipe, a socket or a device"
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            start = file.read(4)
    except OSError as error:
        return "wrong", f"it can't be read: {error.strerror}"
    if _RUNS_CODE.fullmatch(path.suffix) or start.startswith(_STARTS):
        return "wrong", "not zoo's; a program or a pickle, which runs code when it is read"
    if is_unfinished(path):
        return "unchecked", "left by a process that was killed; resuming the run deletes it"
    return "unchecked", "not zoo's"
