"""Files in a run folder that zoo didn't write: what they are, and whether they could run code."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from zoo.weights.reading import leads_out

#: Of formats that are pickles, or may hold some, and of programs.
_PICKLES = frozenset(
    [".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pt2", ".pth", ".tar"]
)
_PROGRAMS = frozenset(
    [
        ".bat",
        ".cmd",
        ".com",
        ".dll",
        ".dylib",
        ".exe",
        ".ipynb",
        ".js",
        ".jar",
        ".lua",
        ".pl",
        ".ps1",
        ".py",
        ".pyc",
        ".pyd",
        ".pyz",
        ".rb",
        ".sh",
        ".so",
    ]
)

#: Files and folders of a run folder that are looked at; a run has a dozen.
MOST_FILES = 200

#: Folders inside each other.
_DEEPEST = 20


def about(
    root: Path, path: Path, looked_at: Iterator[int], depth: int = 0
) -> Iterator[tuple[str, Literal["unchecked", "wrong"], str]]:
    """(place in the run folder, state, what it is) of a file, or of each file below a folder.

    Args:
        root: The run folder.
        path: A file or folder in it.
        looked_at: Counts files and folders; beyond `MOST_FILES` none is looked at.
        depth: How deep below the run folder that is.
    """
    if next(looked_at) > MOST_FILES:
        return
    name = path.relative_to(root).as_posix()
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            target = leads_out(root, path)
            if target is not None:
                yield name, "wrong", f"a link that leads out of the folder, to {target}"
            else:
                yield name, "unchecked", "a link inside the folder"
        elif stat.S_ISDIR(mode):
            if depth == _DEEPEST:
                yield name, "wrong", f"folders more than {_DEEPEST} deep"
                return
            for inner in sorted(itertools.islice(path.iterdir(), MOST_FILES)):
                yield from about(root, inner, looked_at, depth + 1)
        elif not stat.S_ISREG(mode):
            yield name, "wrong", "a pipe, a socket or a device"
        else:
            yield name, *_file(path)
    except OSError as error:
        yield name, "wrong", f"it can't be looked at: {error.strerror}"


def _file(path: Path) -> tuple[Literal["unchecked", "wrong"], str]:
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        start = file.read(4)
    suffix = path.suffix.lower()
    if suffix in _PICKLES or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05"):
        return "wrong", "not zoo's; a pickle, or a format that may hold one, runs code when read"
    if suffix in _PROGRAMS or start[:2] in (b"#!", b"MZ") or start == b"\x7fELF":
        return "wrong", "not zoo's; a program"
    if path.name.startswith(".") and path.name.count(".") > 1:
        return "unchecked", "left by a write that was cut off, or not zoo's"
    return "unchecked", "not zoo's"
