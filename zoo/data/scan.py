"""Which files of a data folder are images: each is decoded once, before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from zoo.data import extensions
from zoo.data.extensions import Misnamed
from zoo.data.files import Fingerprint, fingerprint
from zoo.data.image import decoded, open_image
from zoo.errors import DataError

#: Image files of a class, with what each held when it was decoded.
Contents = dict[Path, Fingerprint]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file that can be used holds.

    Attributes:
        content: When it was decoded.
        misnamed: Set if its extension is that of another format.
    """

    content: Fingerprint
    misnamed: Misnamed | None = None


#: What a file holds, or why it can't be used.
Verdict = Found | str

#: Looks at files.
Scan = Callable[[Sequence[Path]], Mapping[Path, Verdict]]


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What the files of class folders are.

    Attributes:
        readable: The images, without classes that have none.
        unreadable: What is wrong with each file that is none.
        misnamed: Images of another format than their extension says, which are used all the same.
    """

    readable: dict[str, Contents]
    unreadable: tuple[str, ...]
    misnamed: tuple[Misnamed, ...]


def readable_images(
    by_class: Mapping[str, Sequence[Path]], scan: Scan, *, strict: bool = False
) -> Scanned:
    """Which files are images.

    Args:
        by_class: Files that should be images.
        scan: Looks at them.
        strict: Make one that is not an error.

    Raises:
        DataError: A file can't be read or has a wrong extension (strict).
    """
    looked = scan([file for images in by_class.values() for file in images])
    unreadable = tuple(found for found in looked.values() if isinstance(found, str))
    found = [verdict for verdict in looked.values() if isinstance(verdict, Found)]
    misnamed = tuple(each.misnamed for each in found if each.misnamed)
    if strict and (unreadable or misnamed):
        raise DataError("\n".join([*unreadable, *extensions.describe(misnamed)]))
    readable = {
        name: {f: each.content for f in images if isinstance(each := looked[f], Found)}
        for name, images in by_class.items()
    }
    return Scanned(
        readable={name: images for name, images in readable.items() if images},
        unreadable=unreadable,
        misnamed=misnamed,
    )


def decode_all(files: Sequence[Path]) -> dict[Path, Verdict]:
    """The scan that decodes every file, in threads."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(_look, files), strict=True))


def _look(path: Path) -> Verdict:
    try:
        content = fingerprint(path)
        image = open_image(path, same=content)
        decoded(image, path)
    except DataError as error:
        return str(error)
    return Found(content=content, misnamed=extensions.misnamed(path, image.format or ""))
