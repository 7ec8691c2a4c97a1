"""What is checked of one image file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, ImageFile

from zoo.cache import Store
from zoo.data.check.memory import file_key, recall
from zoo.data.files import Fingerprint, fingerprint
from zoo.data.image import ValueRange, decoded, extremes, is_deep, open_image, to_rgb
from zoo.data.scan import Found, Verdict
from zoo.errors import DataError

#: A hash has that many rows and columns of bits.
HASH_SIZE = 16

#: Pixels a side that are enough for the hash, so that large JPEGs are decoded at a part of theirs.
_DECODE_AT = 64

#: The tag of a TIFF that says how many bands it has.
_SAMPLES_PER_PIXEL = 277

#: A grey picture with a smaller standard deviation (of 255 levels) has nothing to be told by.
_PLAIN = 2.0


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What is known of an image file.

    Attributes:
        problem: Why it can't be used; empty if it can. Then all else is as by default.
        key: Stands for path, size and time of change; empty where these can't be trusted yet.
        content: BLAKE2b (16 bytes) of its bytes: `zoo.cache.image_key`, in hexadecimal digits.
        looks: The perceptual hash, likewise; empty for a plain picture, which has none.
        size: Of the file, in bytes.
        mtime_ns: When it was last changed, in nanoseconds.
        width: Pixels, as stored: before it is turned upright.
        height: Likewise.
        mode: Pillow's: RGB, L (grey), P (palette), RGBA, CMYK, I;16 (16 bits) ...
        format: Pillow's: JPEG, PNG ...
        extremes: Of an image with more than 8 bits a channel, its smallest and largest value.
        dropped: Bands that its file has beside those of the mode, which Pillow leaves out.
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
        """What the file held, if it can be used."""
        return Fingerprint(key=bytes.fromhex(self.content), size=self.size, mtime_ns=self.mtime_ns)

    @property
    def verdict(self) -> Verdict:
        """What the file holds, or why it can't be used."""
        return self.problem or Found(content=self.fingerprint, format=self.format)


def examine_files(
    files: Sequence[Path],
    known: Store | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[Path, Examined]:
    """What is known of each file; those that `known` has not are decoded, in threads.

    Args:
        files: Images, by their names.
        known: What was found before (`zoo.data.check.memory`).
        progress: Told how many are done.
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
        # A deep image is compared by its own range, of which its type's may be a small part.
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
        dropped=_dropped_bands(image),
    )


def _dropped_bands(image: ImageFile.ImageFile) -> int:
    """A TIFF may hold any number of bands; Pillow opens four as RGB if none is called alpha."""
    stored = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 0)
    return max(0, int(stored) - len(image.getbands()))


def _looks(image: Image.Image) -> str:
    grey = image.convert("L")
    factor = min(grey.size) // _DECODE_AT
    if factor > 1:
        grey = grey.reduce(factor)
    if np.asarray(grey).std() < _PLAIN:
        return ""
    return np.packbits(imagehash.phash(grey, HASH_SIZE).hash).tobytes().hex()
