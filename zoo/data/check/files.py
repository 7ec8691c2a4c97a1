"""Listing of a dataset: images that training would use; of a folder, all other files too."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data.files import is_hidden as is_hidden_by_zoo
from zoo.data.issue import STRICT_KINDS, Issue, Kind
from zoo.data.sample import Sample
from zoo.data.sources import is_image_folder, is_table, issues_of, open_source
from zoo.data.sources.extensions import is_image_name
from zoo.data.sources.layout import NO_VAL, normal_name, split_folders
from zoo.data.sources.links import Reach, reach_of
from zoo.data.sources.tree import Tree, on_disk
from zoo.errors import DataError
from zoo.io.files import expand
from zoo.io.text import printable

#: File in a clean copy that lists what was left out, and why.
LEFT_OUT = "left-out.json"

#: Files created by operating systems whose names do not begin with a dot.
_SYSTEM = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An image that training would use; `split` as in `Photo`."""

    sample: Sample
    split: str

    @property
    def path(self) -> str:
        """Its name in the source: for a folder, its path there."""
        return self.sample.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of its classes."""
        return self.sample.labels


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Contents of a data folder; paths are relative to it, with `/`.

    Attributes:
        root: Data folder, or what else `data` is.
        reach: Allowed link targets.
        images: Images in class folders, or of the source.
        folders: Classes by split, including empty class folders (`""`: zoo will split).
        depth: Number of names in the path of a class folder: 2 for `train/CLASS`, else 1.
        nested: Images in subfolders of class folders, which are not searched.
        loose: Images next to the class folders.
        unused: Images in folders next to train, val and test.
        others: Files without an image extension.
        links: Links that are not followed although training would use their targets, with the
            kind (`zoo.data.issue.Issue`) of each.
        issues: What a source that is no folder has skipped, and its notes.
        table: Whether it is a table on this machine.
        group_by: The groups that were asked for.
    """

    root: Path
    reach: Reach
    images: tuple[Listed, ...]
    folders: dict[str, tuple[str, ...]]
    depth: int = 1
    nested: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    links: dict[str, Kind] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()
    table: bool = False
    group_by: str | None = None


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden or created by the operating system."""
    return is_hidden_by_zoo(name) or name.lower() in _SYSTEM


def list_data(
    data: str | Path,
    *,
    follow_links: bool = False,
    allow_network: bool = False,
    group_by: str | None = None,
) -> Listing:
    """List a data folder, or the images of another source, as `read_splits` reads it.

    Raises:
        DataError: `data` does not exist, has no images in class folders, or can't be listed, or
            `group_by` does not fit it.
        PluginError: A plugin's source fails.
    """
    root = expand(data)
    source = open_source(
        data, follow_links=follow_links, group_by=group_by, allow_network=allow_network
    )
    if "train" not in source.splits:
        raise DataError(f"{source.name} has no images to learn from")
    parts = {split: source.read(split) for split in source.splits}
    if "val" not in parts:
        parts = {"": parts.pop("train"), **parts}
    images = tuple(
        Listed(sample=sample, split=split)
        for split, part in parts.items()
        for sample in part.samples
    )
    if not is_image_folder(data):
        issues = [*issues_of(source), *(i for part in parts.values() for i in part.issues)]
        return Listing(
            root=root,
            reach=reach_of(root.parent, follow_links=True),
            images=images,
            folders={
                split: tuple(sorted({name for sample in part.samples for name in sample.labels}))
                for split, part in parts.items()
            },
            issues=tuple(dict.fromkeys(issue for issue in issues if issue.reason != NO_VAL)),
            table=is_table(data),
            group_by=group_by,
        )
    reach = reach_of(root, follow_links=follow_links)
    tree = on_disk(reach)
    layout = split_folders(root, tree)
    split_dirs = {split: layout.folders[split or "train"] for split in parts}
    issues = [*layout.issues, *(issue for part in parts.values() for issue in part.issues)]
    links = {i.name: i.kind for i in issues if i.kind in STRICT_KINDS and i.name is not None}
    listing = Listing(
        root=root,
        reach=reach,
        images=images,
        folders={split: _class_names(folder, tree, links) for split, folder in split_dirs.items()},
        depth=len(layout.train.relative_to(root).parts) + 1,
        links={_below(root, Path(name)): kind for name, kind in links.items()},
    )
    _assign_remaining(listing, list(split_dirs.values()))
    return listing


def _class_names(split_dir: Path, tree: Tree, refused: Collection[str]) -> tuple[str, ...]:
    """Return the names of the class folders of a split, without the links in `refused`."""
    folders = [folder for folder in tree.folders(split_dir) if str(folder) not in refused]
    return tuple(dict.fromkeys(normal_name(folder.name) for folder in folders))


def _assign_remaining(listing: Listing, split_dirs: list[Path]) -> None:
    def refuse(error: OSError) -> None:
        raise DataError(f"can't list {printable(error.filename)}: {error.strerror}") from error

    listed = {LEFT_OUT, *(image.path for image in listing.images), *listing.links}
    for parent, names, files in os.walk(listing.root, onerror=refuse):
        folder = Path(parent)
        below = "" if folder == listing.root else f"{_below(listing.root, folder)}/"
        names[:] = sorted(name for name in names if not is_hidden(name))
        # Only files that are not listed as images are classified, usually few.
        for name in sorted(name for name in files if not is_hidden(name)):
            if below + name not in listed:
                _kind(listing, folder / name, split_dirs).append(below + name)


def _kind(listing: Listing, file: Path, split_dirs: list[Path]) -> list[str]:
    if not is_image_name(file):
        return listing.others
    if file.parent in (listing.root, *split_dirs):
        return listing.loose
    inside = any(split_dir in file.parents for split_dir in split_dirs)
    return listing.nested if inside else listing.unused


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
