"""New names for images with a wrong extension or label in a clean copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from zoo.data.check.compare import Photo
from zoo.data.sources.extensions import extension_of

if TYPE_CHECKING:
    from zoo.data.check.dataset import Checked


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """An image that is renamed in the copy; paths are relative to the folder, with `/`."""

    path: str
    name: str
    reason: str


def rename(photos: Sequence[Photo], taken: Iterable[str]) -> list[Renamed]:
    """Rename images with a wrong extension to the extension of their format.

    Args:
        photos: Images in the copy.
        taken: Paths of files and folders already in use, relative to the folder, with `/`.
    """
    # Many file systems are case-insensitive.
    folded = {name.casefold() for name in taken}
    renamed = []
    for photo in photos:
        form = photo.examined.format
        if not photo.wrong_extension or not extension_of(form):
            continue
        name = next(n for n in _names(photo.path, form) if n.casefold() not in folded)
        folded.add(name.casefold())
        renamed.append(Renamed(path=photo.path, name=name, reason=f"it holds {form}"))
    return renamed


def move(checked: Checked, labels: Mapping[str, str], names: Mapping[str, str]) -> list[Renamed]:
    """Move images to the folder of another class in their split."""
    split_of = {photo.path: photo.split for photo in checked.photos}
    depth = checked.listing.depth
    folders: dict[tuple[str, str], PurePosixPath] = {}
    for image in checked.listing.images:
        folder = PurePosixPath(*PurePosixPath(image.path).parts[:depth])
        folders.setdefault((image.split, image.labels[0]), folder)
    taken = {names.get(path, path).casefold() for path in split_of}
    moved = []
    for path, label in sorted(labels.items()):
        now = PurePosixPath(names.get(path, path)).parts
        folder = folders.get((split_of[path], label), PurePosixPath(*now[: depth - 1], label))
        # Folders of groups, below that of the class, stay.
        name = next(
            n for n in _numbered(folder.joinpath(*now[depth:])) if n.casefold() not in taken
        )
        taken.add(name.casefold())
        moved.append(Renamed(path=path, name=name, reason=f"it is {label}"))
    return moved


def _numbered(path: PurePosixPath) -> Iterator[str]:
    """Yield the path, then variants with a number appended."""
    yield str(path)
    for number in count(1):
        yield str(path.with_name(f"{path.stem}-{number}{path.suffix}"))


def _names(path: str, form: str) -> Iterator[str]:
    """Yield the name with the right extension, then variants with a number appended."""
    yield from _numbered(PurePosixPath(path).with_suffix(extension_of(form)))
