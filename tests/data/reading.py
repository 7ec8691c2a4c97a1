"""Read a data folder as runs do."""

from collections.abc import Iterable
from pathlib import Path

from zoo.data import split
from zoo.data.issue import Issue
from zoo.data.sources import FolderSource


def read_splits(root: Path, *, follow_links: bool = False, **options) -> split.Splits:
    return split.read_splits(FolderSource(root, follow_links=follow_links), **options)


def read_labelled(root: Path, class_names: list[str]) -> split.Splits:
    return split.read_labelled(FolderSource(root), ["train"], class_names)


def of_kind(kind: str, issues: Iterable[Issue]) -> list[tuple[str | None, str]]:
    """(name, reason) of each issue of a kind."""
    return [(issue.name, issue.reason) for issue in issues if issue.kind == kind]
