"""What a data folder is read from: folders on disk, or the names of an archive's members."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from zoo.data.files import is_hidden
from zoo.data.issue import Issue
from zoo.data.sources.links import Reach, refused_link
from zoo.errors import DataError
from zoo.io.text import printable


class Entry(Protocol):
    """A file or a folder in a folder, as of `os.scandir`."""

    @property
    def name(self) -> str:
        """Name in its folder."""

    def is_dir(self) -> bool:
        """Whether it is a folder, or a link to one."""

    def is_symlink(self) -> bool:
        """Whether it is a link."""


class Member(NamedTuple):
    """An entry of a folder in an archive."""

    name: str
    is_folder: bool

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.is_folder

    def is_symlink(self) -> bool:
        """Archives have no links that are followed."""
        return False


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Folders and their entries.

    Attributes:
        entries: Returns the entries of a folder that are not hidden, sorted by name.
        refused: Returns the issue of a link that is not followed; None if it is followed.
        anywhere: Whether links may lead out of the data folder.
    """

    entries: Callable[[Path], Sequence[Entry]]
    refused: Callable[[Path], Issue | None]
    anywhere: bool = False

    def folders(self, folder: Path) -> list[Path]:
        """List the subfolders that are not hidden, sorted.

        Raises:
            DataError: The folder can't be listed.
        """
        return [folder / entry.name for entry in self.entries(folder) if is_folder(entry)]


def on_disk(reach: Reach) -> Tree:
    """Return the tree of folders on disk, with the allowed targets of links."""
    return Tree(
        entries=_scanned, refused=lambda link: refused_link(link, reach), anywhere=reach.anywhere
    )


def of_names(root: Path, names: Iterable[str]) -> Tree:
    """Return the tree of an archive.

    Args:
        root: Path by which the tree names the archive's top folder.
        names: Names of its files, relative and with `/`.
    """
    folders: dict[str, dict[str, bool]] = {"": {}}
    for name in names:
        folder, _, last = name.rpartition("/")
        folders.setdefault(folder, {})[last] = False
    for folder in [*folders]:
        inner = folder
        while inner:
            parent, _, last = inner.rpartition("/")
            known = folders.setdefault(parent, {})
            if known.get(last):
                break
            known[last] = True
            inner = parent
    listed = {
        folder: sorted(
            (Member(name, inner) for name, inner in members.items() if not is_hidden(name)),
            key=lambda member: member.name,
        )
        for folder, members in folders.items()
    }

    def entries(folder: Path) -> Sequence[Entry]:
        below = folder.relative_to(root).as_posix()
        return listed.get("" if below == "." else below, [])

    return Tree(entries=entries, refused=lambda link: None)


def top_of(root: Path, tree: Tree, but: Iterable[str]) -> Path:
    """Return the folder of an archive that holds everything in it, such as one named after it.

    Args:
        root: Path of the archive's top folder.
        tree: Its tree.
        but: Names of folders that are not passed over, such as those of splits, in lower case.

    Returns:
        The only entry of the top folder, if it is a folder that has folders in it, and so on; else
        `root`.
    """
    there = tree.entries(root)
    while len(there) == 1 and there[0].is_dir() and there[0].name.lower() not in but:
        if not tree.folders(root / there[0].name):
            break
        root = root / there[0].name
        there = tree.entries(root)
    return root


def is_folder(entry: Entry) -> bool:
    """Whether an entry is a folder; an inaccessible one is not, and is reported as an image."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def safe_name(name: str) -> str | None:
    """Return the name of an archive's member without `./`; None if it leads out of the archive."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or name[1:2] == ":":
        return None
    return path.as_posix()


def _scanned(folder: Path) -> Sequence[Entry]:
    """List the entries of a folder that are not hidden, sorted, without a stat call per file."""
    try:
        with os.scandir(folder) as entries:
            seen = [entry for entry in entries if not is_hidden(entry.name)]
    except OSError as error:
        raise DataError(f"can't list {printable(folder)}: {error.strerror}") from error
    return sorted(seen, key=lambda entry: os.path.normcase(entry.name))
