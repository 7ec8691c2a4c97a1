"""What lies in a data folder: the images that training would use, and all else."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data.files import is_hidden as is_hidden_by_zoo
from zoo.data.files import shown
from zoo.data.folder import class_images, split_folders, visible_folders
from zoo.data.image import is_image_name
from zoo.errors import DataError

#: In a clean copy of a folder: what was left out of it, and why.
LEFT_OUT = "left-out.json"

#: Files that systems leave in folders, without a dot before their names.
_SYSTEM = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini"})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An image file that training would use; fields as in `Photo`."""

    file: Path
    path: str
    label: str
    split: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies in a data folder; paths are below it, with `/`.

    Attributes:
        root: The folder.
        images: The images of class folders.
        folders: Class folders, also those without an image, by split (`""`: zoo is still to split).
        nested: Images deeper than in a class folder, where they are not searched.
        loose: Images beside the class folders.
        unused: Images of folders beside train and val.
        hidden: Hidden files and folders, and what systems leave behind.
        others: Files that are not named as images.
    """

    root: Path
    images: tuple[Listed, ...]
    folders: dict[str, tuple[str, ...]]
    nested: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems make for themselves."""
    return is_hidden_by_zoo(name) or name.lower() in _SYSTEM


def list_data(root: Path) -> Listing:
    """List a data folder as `read_splits` sees it.

    Raises:
        DataError: No folder, no images in class folders, or a folder can't be listed.
    """
    train_dir, val_dir, _ = split_folders(root)
    splits = {"": train_dir} if val_dir is None else {"train": train_dir, "val": val_dir}
    images: list[Listed] = []
    folders: dict[str, tuple[str, ...]] = {}
    for split, split_dir in splits.items():
        by_class, _ = class_images(split_dir)
        images += [
            Listed(file=file, path=_below(root, file), label=label, split=split)
            for label, files in by_class.items()
            for file in files
        ]
        folders[split] = tuple(folder.name for folder in visible_folders(split_dir))
    listing = Listing(root=root, images=tuple(images), folders=folders)
    _sort_the_rest(listing, list(splits.values()))
    return listing


def _sort_the_rest(listing: Listing, split_dirs: list[Path]) -> None:
    def refuse(error: OSError) -> None:
        raise DataError(f"can't list {shown(error.filename)}: {error.strerror}") from error

    used = {image.file for image in listing.images}
    for parent, names, files in os.walk(listing.root, onerror=refuse):
        folder = Path(parent)
        hidden = [name for name in (*names, *files) if is_hidden(name)]
        listing.hidden.extend(_below(listing.root, folder / name) for name in hidden)
        names[:] = sorted(name for name in names if not is_hidden(name))
        for file in sorted(folder / name for name in files if not is_hidden(name)):
            if file not in used and file != listing.root / LEFT_OUT:
                _kind(listing, file, split_dirs).append(_below(listing.root, file))


def _kind(listing: Listing, file: Path, split_dirs: list[Path]) -> list[str]:
    if not is_image_name(file):
        return listing.others
    if file.parent in (listing.root, *split_dirs):
        return listing.loose
    inside = any(split_dir in file.parents for split_dir in split_dirs)
    return listing.nested if inside else listing.unused


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
