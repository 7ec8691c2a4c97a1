"""Read any image that Pillow reads, as 8-bit RGB, upright."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from zoo.errors import DataError

#: Formats that Pillow lists but can't decode, or decodes by running another program (EPS).
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})


def read_image(path: Path, *, decode_at: int | None = None) -> Image.Image:
    """The file's (first) picture as RGB, upright according to its EXIF orientation.

    Args:
        path: The file.
        decode_at: A JPEG with both sides at least twice that many pixels is decoded at the smallest
            of 1/2, 1/4 and 1/8 of its size that has them: a photo of 12 megapixels in an eighth of
            the time. None: in full.

    Raises:
        DataError: It can't be decoded, whole; names the path.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            if decode_at is not None:
                image.draft(None, (decode_at, decode_at))
            image.load()
            return to_rgb(image)
    except Exception as error:  # decoders raise whatever the bytes make them raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"unreadable image {path}: {reason.replace(repr(str(path)), 'it')}"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as upright 8-bit RGB.

    Transparency is laid over white. 16-bit grey is scaled by 255/65535, where Pillow's own
    conversion would clip it. 32-bit integers are taken as 0..255 or 0..65535, floats as 0..1,
    whichever they fit; else they are stretched to their own range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def is_image_name(path: Path) -> bool:
    """Whether the file's extension is one that Pillow decodes."""
    return path.suffix.lower() in _extensions()


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(Image.OPEN.keys() - _NOT_DECODED))


@functools.cache
def _extensions() -> frozenset[str]:
    formats = set(_formats())
    return frozenset(e for e, f in Image.registered_extensions().items() if f in formats)


def _from_deep(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floats, as 8-bit grey."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif low >= 0:
        steps = (1.0,) if image.mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next((white for white in steps if high <= white), high)
    levels = np.nan_to_num((values - low) / ((high - low) or 1.0) * 255)
    return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
