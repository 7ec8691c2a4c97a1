"""Read a data folder as runs do."""

from pathlib import Path

from zoo.data import split
from zoo.data.sources import FolderSource


def read_splits(root: Path, *, follow_links: bool = False, **options) -> split.Splits:
    return split.read_splits(FolderSource(root, follow_links=follow_links), **options)


def read_labelled(root: Path, class_names: list[str]) -> split.Splits:
    return split.read_labelled(FolderSource(root), ["train"], class_names)
