"""Image folder source, with a subfolder for each class."""

from __future__ import annotations

from pathlib import Path

from zoo.data.sample import Sample
from zoo.data.sources.layout import class_images, names_below, split_folders
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

    Raises:
        DataError: `root` is not a folder, can't be listed, or train is a link that leads out of it.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self._root = root
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
        found = class_images(folder, self._reach)
        samples = [
            Sample(name=name, labels=(label,), file=file)
            for label, files in found.images.items()
            for file, name in zip(files, names_below(self._root, files), strict=True)
        ]
        return Part(name=str(folder), samples=samples, issues=found.issues)
