"""New names for images with a wrong extension in a clean copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath

from zoo.data.check.compare import Photo
from zoo.data.sources.extensions import extension_of


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """An image that is renamed in the copy.

    Attributes:
        path: Original path relative to the folder, with `/`.
        name: Path in the copy, relative to it, with `/`.
        reason: Reason as text.
    """

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


def _names(path: str, form: str) -> Iterator[str]:
    """Yield the name with the right extension, then variants with a number appended."""
    plain = PurePosixPath(path)
    extension = extension_of(form)
    yield str(plain.with_suffix(extension))
    for number in count(1):
        yield str(plain.with_name(f"{plain.stem}-{number}{extension}"))
