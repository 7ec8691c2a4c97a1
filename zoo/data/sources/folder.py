"""Image folder source, with a subfolder for each class."""

from __future__ import annotations

from pathlib import Path

from zoo.data.sample import Sample
from zoo.data.sources.layout import class_images, names_below, normal_name, split_folders
from zoo.data.sources.links import reach_of
from zoo.data.sources.source import Part


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

    def __init__(self, root: Path, *, follow_links: bool = False, subfolders: bool = False) -> None:
        self._root, self._subfolders = root, subfolders
        self._reach = reach_of(root, follow_links=follow_links)
        layout = split_folders(root, self._reach)
        folders = {"train": layout.train, "val": layout.val, "test": layout.test}
        self._folders = {split: folder for split, folder in folders.items() if folder is not None}
        self.name = str(root)
        self.splits = tuple(self._folders)
        self.issues = layout.issues

    def read(self, split: str) -> Part:
        """Read a split's class folders; sample names are paths relative to the root, with `/`."""
        folder = self._folders[split]
        found = class_images(folder, self._reach, subfolders=self._subfolders)
        depth = len(folder.parts) + 1
        samples = [
            Sample(name=name, labels=(label,), file=file, group=_group(file, depth))
            for label, files in found.images.items()
            for file, name in zip(files, names_below(self._root, files), strict=True)
        ]
        return Part(name=str(folder), samples=samples, issues=found.issues)


def _group(file: Path, depth: int) -> str | None:
    """Return the name of the folder directly in the class folder that a file is below."""
    return normal_name(file.parts[depth]) if len(file.parts) > depth + 1 else None
