"""Which files of a data folder are images: each is decoded once, before training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoo.cache import Store
from zoo.data.files import Fingerprint, fingerprint
from zoo.data.image import read_image
from zoo.errors import DataError

#: Image files of a class, with what each held when it was decoded.
Contents = dict[Path, Fingerprint]


def readable_images(
    by_class: dict[str, list[Path]], *, strict: bool = False, known: Store | None = None
) -> tuple[dict[str, Contents], list[str]]:
    """The files that decode, classes without any left out; and what is wrong with the others.

    Args:
        by_class: Files that should be images.
        strict: Make one that is not an error.
        known: Has the keys of contents that were decoded before and need not be again.

    Raises:
        DataError: A file can't be read (strict); names each.
    """
    files = [file for images in by_class.values() for file in images]
    looked = _look(files, known)
    unreadable = [found for found in looked.values() if isinstance(found, str)]
    if unreadable and strict:
        raise DataError("\n".join(unreadable))
    readable = {
        name: {f: found for f in images if isinstance(found := looked[f], Fingerprint)}
        for name, images in by_class.items()
    }
    return {name: images for name, images in readable.items() if images}, unreadable


def _look(files: list[Path], known: Store | None) -> dict[Path, Fingerprint | str]:
    """What each file holds, or what is wrong with it."""
    with ThreadPoolExecutor() as pool:
        looked = dict(zip(files, pool.map(_fingerprint, files), strict=True))
        contents = {f: c for f, c in looked.items() if isinstance(c, Fingerprint)}
        unknown = [f for f, c in contents.items() if known is None or c.key not in known]
        problems = pool.map(_problem, unknown, [contents[file] for file in unknown])
        looked.update((f, p) for f, p in zip(unknown, problems, strict=True) if p)
    return looked


def _fingerprint(path: Path) -> Fingerprint | str:
    try:
        return fingerprint(path)
    except DataError as error:
        return str(error)


def _problem(path: Path, content: Fingerprint) -> str:
    try:
        read_image(path, same=content)
    except DataError as error:
        return str(error)
    return ""
