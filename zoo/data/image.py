"""Read any image that Pillow reads, as 8-bit RGB, upright."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from zoo.errors import DataError

#: What reading a damaged or hostile file raises, over Pillow's decoders.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    ArithmeticError,
    LookupError,
    TypeError,
    MemoryError,
    Image.DecompressionBombError,
)


def read_image(path: Path) -> Image.Image:
    """The file's (first) picture as RGB, upright according to its EXIF orientation.

    Raises:
        DataError: It can't be decoded, whole; names the path.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except _DECODE_ERRORS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"unreadable image {path}: {reason.replace(repr(str(path)), 'it')}"
        ) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as upright 8-bit RGB.

    Transparency is laid over white. 16-bit grey is scaled by 255/65535, where Pillow's own
    conversion would clip it; float images are taken as 0..1 if they fit, else stretched to their
    own range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_deep(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def is_image_name(path: Path) -> bool:
    """Whether the file's extension is one that Pillow reads."""
    return path.suffix.lower() in _readable_extensions()


def _readable_extensions() -> frozenset[str]:
    if not _extensions:
        Image.init()
        _extensions.update(e for e, f in Image.registered_extensions().items() if f in Image.OPEN)
    return frozenset(_extensions)


_extensions: set[str] = set()


def _from_deep(values: np.ndarray) -> Image.Image:
    """Grey of 16 or 32 bits, or floats, as 8-bit grey."""
    scaled = values.astype(np.float64)
    if np.issubdtype(values.dtype, np.integer) and scaled.min() >= 0 and scaled.max() <= 65535:
        scaled /= 65535
    elif not (scaled.min() >= 0 and scaled.max() <= 1):
        low, high = float(np.nanmin(scaled)), float(np.nanmax(scaled))
        scaled = (scaled - low) / (high - low or 1.0)
    levels = np.nan_to_num(scaled * 255).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels)
