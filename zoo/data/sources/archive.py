"""Archives that hold a data folder: a ZIP file, or tar files whose members are in class folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import cast

from zoo.data.columns import Item, Locate
from zoo.data.files import is_hidden
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources.extensions import is_image_name
from zoo.data.sources.indexed import Listing, part_of
from zoo.data.sources.layout import SPLIT_OF, class_images, split_folders
from zoo.data.sources.source import Part
from zoo.data.sources.tree import of_names, safe_name, top_of
from zoo.errors import DataError
from zoo.io.text import count, printable


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The files in an archive.

    Attributes:
        path: The archive, for messages.
        names: Names of its files, relative and with `/`.
        place: Returns the place of the file of a name, of which `locate` makes the function that
            reads it.
        locate: Finds a file by its place.
        issues: Members that are left out.
    """

    path: PurePath
    names: Sequence[str]
    place: Callable[[str], tuple[int | str, ...]]
    locate: Locate
    issues: tuple[Issue, ...] = ()


class ArchiveSource:
    """The layout of `FolderSource` in an archive, which is read without extracting it.

    A single folder that holds everything else is passed over, so that names and classes are those
    of this folder.

    Args:
        archive: Its files.
        subfolders: As in `FolderSource`.
    """

    own_groups = True

    def __init__(self, archive: Archive, *, subfolders: bool = False) -> None:
        self._archive, self._subfolders = archive, subfolders
        self.size, self.locate = len(archive.names), archive.locate
        self.remote = not isinstance(archive.path, Path)
        # An address goes through the same steps as a path, none of which looks at a disk.
        top = cast(Path, archive.path)
        self._tree = of_names(top, archive.names)
        self._root = top_of(top, self._tree, SPLIT_OF)
        layout = split_folders(self._root, self._tree)
        self._folders = layout.folders
        self.name = str(archive.path)
        self.splits = tuple(self._folders)
        self.issues = (*archive.issues, *layout.issues)

    def read(self, split: str) -> Part:
        """Read a split's class folders; sample names are paths below the data folder, with `/`.

        Raises:
            DataError: There are no images in class folders.
        """
        return part_of(self.listed(split), self.locate)

    def listed(self, split: str) -> Listing:
        """List what `read` makes samples of.

        Raises:
            DataError: There are no images in class folders.
        """
        folder = self._folders[split]
        found = class_images(self._root, folder, self._tree, subfolders=self._subfolders)
        below = self._root.relative_to(self._archive.path).as_posix()
        prefix = "" if below == "." else f"{below}/"
        place = self._archive.place
        items = [
            Item(each.name, (each.label,), each.group, place(prefix + each.name))
            for each in found.files
        ]
        return Listing(name=str(folder), items=items, issues=found.issues)


def all_images(archive: Archive) -> tuple[list[Sample], list[str]]:
    """Return (the images of an archive in any folder, without labels; the names of other files).

    Samples are named by the path of the archive and their names in it. Hidden files are left out.
    """
    shown = [name for name in sorted(archive.names) if not any(map(is_hidden, name.split("/")))]
    images = [
        Sample(name=f"{archive.path}/{name}", labels=(), load=found["load"], stamp=found["stamp"])
        for name in shown
        if is_image_name(name)
        for found in [archive.locate(name, archive.place(name))]
    ]
    return images, [f"{archive.path}/{name}" for name in shown if not is_image_name(name)]


def member_name(archive: object, name: str) -> str:
    """Return the name of an archive's member without `./`.

    Raises:
        DataError: It is absolute, or leads out of the archive.
    """
    safe = safe_name(name)
    if safe is None:
        raise DataError(
            f"{archive}: member {printable(name)!r} leads out of the archive",
            hint="archives with absolute names or `..` are not read",
        )
    return safe


def left_out(archive: object, names: Sequence[str], what: str) -> Iterable[Issue]:
    """Return the issue of members that are not read; none if there are none."""
    if names:
        reason = f"{count(len(names), 'member')} left out, such as {printable(names[0])}: {what}"
        yield Issue(kind="skipped", name=str(archive), reason=reason)
