"""Image folder source, with a subfolder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo.data.columns import MANY, columns_of_files
from zoo.data.sample import Sample
from zoo.data.sources.layout import ClassFolder, class_images, existing, split_folders
from zoo.data.sources.links import reach_of
from zoo.data.sources.source import Part
from zoo.data.sources.tree import on_disk


class FolderSource:
    """`root/class/*`, or `root/train/class/*` with `root/val/class/*` and `root/test/class/*`.

    The val folder may also be called valid or validation. Hidden and empty folders are not classes.
    Anything with an image extension is listed, also a pipe, a folder or a broken link, so that
    reading it reports it. Links that lead out of `root` or in circles are skipped.

    Args:
        root: Data folder.
        follow_links: Also follow links that lead out of `root`.
        subfolders: Also read images in subfolders of class folders: those below one folder directly
            in a class folder are a group, named after it, and the same in all classes.

    Raises:
        DataError: `root` is not a folder, can't be listed, or train is a link that leads out of it.
    """

    own_groups = True

    def __init__(self, root: Path, *, follow_links: bool = False, subfolders: bool = False) -> None:
        self._root, self._subfolders = existing(root), subfolders
        self._tree = on_disk(reach_of(root, follow_links=follow_links))
        layout = split_folders(root, self._tree)
        self._folders = layout.folders
        self.name = str(root)
        self.splits = tuple(self._folders)
        self.issues = layout.issues

    def read(self, split: str) -> Part:
        """Read a split's class folders; sample names are paths relative to the root, with `/`."""
        folder = self._folders[split]
        found = class_images(self._root, folder, self._tree, subfolders=self._subfolders)
        samples = _samples(self._root, found.folders)
        return Part(name=str(folder), samples=samples, issues=found.issues)


def _samples(root: Path, folders: Sequence[ClassFolder]) -> Sequence[Sample]:
    if sum(folder.joined.count(b"\0") + 1 for folder in folders) >= MANY:
        return columns_of_files(root, folders)
    return [
        Sample(name=each.name, labels=(each.label,), file=root / each.name, group=each.group)
        for folder in folders
        for each in folder.files
    ]
