"""Examination of single images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image

from zoo.cache import Store
from zoo.data.check.memory import recall
from zoo.data.files import Fingerprint, file_key
from zoo.data.image import (
    ValueRange,
    decoded,
    dropped_bands,
    extremes,
    has_fourth_band,
    is_deep,
    to_rgb,
    without_fourth_band,
)
from zoo.data.sample import Sample
from zoo.data.scan import Found, Verdict, opened
from zoo.errors import DataError, UnavailableError

#: Rows and columns of bits of a perceptual hash.
HASH_SIZE = 16

#: Pixels per side that suffice for the hash, so that large JPEGs are decoded at reduced size.
_DECODE_AT = 64

#: Standard deviation (of 255 levels) below which a greyscale image has no features to compare.
_PLAIN = 2.0


@dataclass(frozen=True, kw_only=True)
class Examined:
    """Examination result of an image.

    Attributes:
        problem: Why it can't be used, with defaults in all other fields; empty if usable.
        key: Key from path, size and modification time of its file, or the `stamp` of its sample;
            empty if the file changed too recently, or there is none.
        content: BLAKE2b (16 bytes) of its bytes, `zoo.cache.image_key`, in hexadecimal.
        looks: Perceptual hash in hexadecimal; empty for a plain image, which has none.
        size: Size of the encoded image in bytes.
        mtime_ns: Modification time of its file in nanoseconds; 0 if it has no file of its own.
        width: Width in pixels as stored, before EXIF orientation is applied.
        height: Height in pixels as stored.
        mode: Pillow's mode: RGB, L (grey), P (palette), RGBA, CMYK, I;16 (16 bits) ...
        format: Pillow's format: JPEG, PNG ...
        extremes: Smallest and largest value of an image with more than 8 bits per channel.
        dropped: Number of bands in the file that Pillow drops because the mode lacks them.
        fourth: Whether it has a fourth band, for networks of four channels.
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
    fourth: bool = False

    @property
    def fingerprint(self) -> Fingerprint:
        """Fingerprint of the image, if it is usable."""
        return Fingerprint(key=bytes.fromhex(self.content), size=self.size, mtime_ns=self.mtime_ns)

    def verdict(self, channels: int = 3) -> Verdict:
        """Return the content of the image, or why a network of that many channels can't use it."""
        if channels == 4 and not self.problem and not self.fourth:
            return without_fourth_band(self.mode)
        return self.problem or Found(content=self.fingerprint, format=self.format)


def examine_samples(
    samples: Sequence[Sample],
    known: Store | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Examined]:
    """Examine the image of each sample; those without a stored result are decoded, in threads."""
    keys = [s.stamp if s.file is None else file_key(s.file) for s in samples]
    found: dict[int, Examined] = {}
    if known is not None:
        for n, key in enumerate(keys):
            if (fields := recall(known, key)) is not None:
                found[n] = Examined(key=key, **fields)
    rest = [n for n in range(len(samples)) if n not in found]
    with ThreadPoolExecutor() as pool:
        examined = pool.map(_examine, [samples[n] for n in rest], [keys[n] for n in rest])
        for n, each in zip(rest, examined, strict=True):
            found[n] = each
            if progress:
                progress(len(found))
    return [found[n] for n in range(len(samples))]


def by_content(examined: Iterable[Examined]) -> dict[bytes, Examined]:
    """Return the results of usable images by the key of their content."""
    return {bytes.fromhex(each.content): each for each in examined if not each.problem}


def _examine(sample: Sample, key: bytes) -> Examined:
    try:
        content, image = opened(sample)
        width, height, mode, form = *image.size, image.mode, image.format or ""
        picture = decoded(image, sample.where, decode_at=_DECODE_AT)
        deep = extremes(image) if is_deep(image) else None
        # A deep image is hashed by its own range, often a small part of its data type's range.
        looks = _looks(picture if deep is None else to_rgb(image, value_range=deep))
    except UnavailableError:
        raise
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
        fourth=has_fourth_band(image),
    )


def _looks(image: Image.Image) -> str:
    grey = image.convert("L")
    factor = min(grey.size) // _DECODE_AT
    if factor > 1:
        grey = grey.reduce(factor)
    if np.asarray(grey).std() < _PLAIN:
        return ""
    return np.packbits(imagehash.phash(grey, HASH_SIZE).hash).tobytes().hex()
