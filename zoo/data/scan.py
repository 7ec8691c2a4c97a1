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

#: What a file holds, or why it can't be used.
Verdict = Fingerprint | Misnamed | str

#: Looks at files.
Scan = Callable[[Sequence[Path]], Mapping[Path, Verdict]]


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """What the files of class folders are.

    Attributes:
        readable: The images, without classes that have none.
        unreadable: What is wrong with each file that is none.
        misnamed: Images of another format than their extension says.
    """

    readable: dict[str, Contents]
    unreadable: tuple[str, ...]
    misnamed: tuple[Misnamed, ...]


def readable_images(
    by_class: Mapping[str, Sequence[Path]], scan: Scan, *, strict: bool = False
) -> Scanned:
    """Which files are images of the format that their extension says.

    Args:
        by_class: Files that should be images.
        scan: Looks at them.
        strict: Make one that is not an error.

    Raises:
        DataError: A file can't be read or has a wrong extension (strict).
    """
    looked = scan([file for images in by_class.values() for file in images])
    unreadable = tuple(found for found in looked.values() if isinstance(found, str))
    misnamed = tuple(found for found in looked.values() if isinstance(found, Misnamed))
    if strict and (unreadable or misnamed):
        raise DataError("\n".join([*unreadable, *extensions.describe(misnamed)]))
    readable = {
        name: {f: found for f in images if isinstance(found := looked[f], Fingerprint)}
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
    return extensions.misnamed(path, image.format or "") or content
