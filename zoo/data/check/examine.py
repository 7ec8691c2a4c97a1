"""Examination of single image files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from zoo.cache import Store
from zoo.data.check.memory import file_key, recall
from zoo.data.files import Fingerprint, fingerprint
from zoo.data.image import (
    ValueRange,
    decoded,
    dropped_bands,
    extremes,
    is_deep,
    open_image,
    to_rgb,
)
from zoo.data.scan import Found, Verdict
from zoo.errors import DataError

#: Rows and columns of bits of a perceptual hash.
HASH_SIZE = 16

#: Pixels per side that suffice for the hash, so that large JPEGs are decoded at reduced size.
_DECODE_AT = 64

#: Standard deviation (of 255 levels) below which a greyscale image has no features to compare.
_PLAIN = 2.0


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Examination result of an image file.

    Attributes:
        problem: Why it can't be used, with defaults in all other fields; empty if usable.
        key: Key from path, size and modification time; empty if the file changed too recently.
        content: BLAKE2b (16 bytes) of its bytes, `zoo.cache.image_key`, in hexadecimal.
        looks: Perceptual hash in hexadecimal; empty for a plain image, which has none.
        size: File size in bytes.
        mtime_ns: Modification time in nanoseconds.
        width: Width in pixels as stored, before EXIF orientation is applied.
        height: Height in pixels as stored.
        mode: Pillow's mode: RGB, L (grey), P (palette), RGBA, CMYK, I;16 (16 bits) ...
        format: Pillow's format: JPEG, PNG ...
        extremes: Smallest and largest value of an image with more than 8 bits per channel.
        dropped: Number of bands in the file that Pillow drops because the mode lacks them.
    """

    problem: str = ""
    key: bytes = b""
    content: str = ""
    looks: str = ""
    size: int = 0
    mtime_ns: int = 0
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    extremes: ValueRange | None = None
    dropped: int = 0

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the file, if it is usable."""
        return Fingerprint(key=bytes.fromhex(self.content), size=self.size, mtime_ns=self.mtime_ns)

    @property
    def verdict(self) -> Verdict:
        """Content of the file, or why it can't be used."""
        return self.problem or Found(content=self.fingerprint, format=self.format)


def examine_files(
    files: Sequence[Path],
    known: Store | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Path, Examined]:
    """Examine each file; files without a stored result are decoded, in threads.

    Args:
        files: Files with image extensions.
        known: Store of earlier results (`zoo.data.check.memory`).
        progress: Called with the number of files examined so far.
    """
    keys = {file: file_key(file) for file in files}
    found: dict[Path, Examined] = {}
    if known is not None:
        for file in keys:
            if (fields := recall(known, keys[file])) is not None:
                found[file] = Examined(key=keys[file], **fields)
    rest = [file for file in keys if file not in found]
    with ThreadPoolExecutor() as pool:
        examined = pool.map(_examine, rest, [keys[file] for file in rest])
        for file, each in zip(rest, examined, strict=True):
            found[file] = each
            if progress:
                progress(len(found))
    return {file: found[file] for file in keys}


def _examine(path: Path, key: bytes) -> Examined:
    try:
        content = fingerprint(path)
        image = open_image(path, same=content)
        width, height, mode, form = *image.size, image.mode, image.format or ""
        picture = decoded(image, path, decode_at=_DECODE_AT)
        deep = extremes(image) if is_deep(image) else None
        # A deep image is hashed by its own range, often a small part of its data type's range.
        looks = _looks(picture if deep is None else to_rgb(image, value_range=deep))
    except DataError as error:
        return Examined(problem=str(error))
    return Examined(
        key=key,
        content=content.key.hex(),
        size=content.size,
        mtime_ns=content.mtime_ns,
        looks=looks,
        width=width,
        height=height,
        mode=mode,
        format=form,
        extremes=deep,
        dropped=dropped_bands(image),
    )


def _looks(image: Image.Image) -> str:
    grey = image.convert("L")
    factor = min(grey.size) // _DECODE_AT
    if factor > 1:
        grey = grey.reduce(factor)
    if np.asarray(grey).std() < _PLAIN:
        return ""
    return np.packbits(imagehash.phash(grey, HASH_SIZE).hash).tobytes().hex()
