"""What images of a wrong extension are called in a clean copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import PurePosixPath

from zoo.data.check.compare import Photo
from zoo.data.sources.extensions import extension_of


@dataclass(frozen=True, kw_only=True)
class Renamed:
    """An image that has another name in the copy.

    Attributes:
        path: What it was called, below the folder, with `/`.
        name: What it is called in the copy, likewise.
        reason: Why, in words.
    """

    path: str
    name: str
    reason: str


def rename(photos: Sequence[Photo], taken: Iterable[str]) -> list[Renamed]:
    """Names with the extension of what each image holds, for those that have another.

    Args:
        photos: Those that the copy has.
        taken: Names that are no longer free, of files and folders, below the folder, with `/`.
    """
    # On many systems names that differ by case alone are one.
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
    """The name with the right extension, then with a number too."""
    plain = PurePosixPath(path)
    extension = extension_of(form)
    yield str(plain.with_suffix(extension))
    for number in count(1):
        yield str(plain.with_name(f"{plain.stem}-{number}{extension}"))
