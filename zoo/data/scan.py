"""Which files of a data folder are images: each is decoded once, before training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoo.data.files import Fingerprint, fingerprint
from zoo.data.image import read_image
from zoo.errors import DataError

#: Image files of a class, with what each held when it was decoded.
Contents = dict[Path, Fingerprint]

#: Says what each file holds, or what is wrong with it.
Scan = Callable[[Sequence[Path]], Mapping[Path, Fingerprint | str]]


def readable_images(
    by_class: Mapping[str, Sequence[Path]], scan: Scan, *, strict: bool = False
) -> tuple[dict[str, Contents], list[str]]:
    """The files that decode, classes without any left out; and what is wrong with the others.

    Args:
        by_class: Files that should be images.
        scan: Looks at them.
        strict: Make one that is not an error.

    Raises:
        DataError: A file can't be read (strict); names each.
    """
    looked = scan([file for images in by_class.values() for file in images])
    unreadable = [found for found in looked.values() if isinstance(found, str)]
    if unreadable and strict:
        raise DataError("\n".join(unreadable))
    readable = {
        name: {f: found for f in images if isinstance(found := looked[f], Fingerprint)}
        for name, images in by_class.items()
    }
    return {name: images for name, images in readable.items() if images}, unreadable


def decode_all(files: Sequence[Path]) -> dict[Path, Fingerprint | str]:
    """The scan that decodes every file, in threads."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(_look, files), strict=True))


def _look(path: Path) -> Fingerprint | str:
    try:
        content = fingerprint(path)
        read_image(path, same=content)
    except DataError as error:
        return str(error)
    return content
