"""Read any image that Pillow reads, as 8-bit RGB, upright."""

from __future__ import annotations

import functools
import importlib.util
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile

from zoo.data.files import MAX_BYTES, Fingerprint, read_file
from zoo.data.headers import has_pages, refuse_size, refuse_traps
from zoo.errors import DataError
from zoo.io.text import printable

#: Goes up when less is taken for an image than before, so that what was known to be one is none.
RULES = 1

#: Modules that teach Pillow to read HEIC; the first is what the extra `heic` installs.
_HEIC_READERS = ("pi_heif", "pillow_heif")

#: Formats that Pillow lists but are left alone: those that it can't decode; those whose decoder
#: runs another program, itself (EPS) or for what it holds (IPTC); those that hold files of others,
#: whose size their own header does not tell; an animation.
_NOT_DECODED = frozenset(
    {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
    | {"EPS", "IPTC"}
    | {"BLP", "CUR", "FPX", "ICNS", "ICO", "MIC"}
    | {"FLI"}
)

#: What turns a picture upright, by its EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Pixels that Pillow's decoders in Python get through in seconds.
_MAX_SLOW_PIXELS = 2**21

#: Characters of what a decoder says, which may quote the file.
_LONGEST_REASON = 200

#: Pixels converted at once where the conversion takes several times their memory.
_STRIP = 2**22


#: Of deep images: the values that become 0 and 255.
ValueRange = tuple[float, float]


def read_image(path: Path, *, value_range: ValueRange | None = None) -> Image.Image:
    """The file's picture as RGB, upright according to its EXIF orientation.

    Its size and what else decides how much work it is are looked at before any of it is decoded.

    Args:
        path: The file.
        value_range: As `to_rgb`.

    Raises:
        DataError: It is no file, can't be decoded, whole, holds several pictures (an animation or
            pages), or has an absurd size; names the path.
    """
    return decoded(open_image(path), path, value_range=value_range)


def open_image(path: Path, *, same: Fingerprint | None = None) -> ImageFile.ImageFile:
    """The file's picture before it is decoded: its size, mode and format are known.

    Args:
        path: The file.
        same: What the file must still hold; None: anything.

    Raises:
        DataError: As `read_image`, but for what only decoding shows.
    """
    return _opened_content(read_file(path, same=same), path)


def image_from_bytes(
    content: bytes,
    name: object = "given as bytes",
    *,
    decode_at: int | None = None,
    value_range: ValueRange | None = None,
) -> Image.Image:
    """The picture of an encoded image in memory, as `read_image` reads a file's.

    Args:
        content: All bytes of the file.
        name: What an error calls it.
        decode_at: As `decoded`.
        value_range: As `to_rgb`.

    Raises:
        DataError: As `read_image`.
    """
    if len(content) > MAX_BYTES:
        raise DataError(
            f"unreadable image {printable(name)}: it has {len(content):,} bytes; zoo reads up to "
            f"{MAX_BYTES:,}"
        )
    image = _opened_content(content, name)
    return decoded(image, name, decode_at=decode_at, value_range=value_range)


def decoded(
    image: ImageFile.ImageFile,
    path: object,
    *,
    decode_at: int | None = None,
    value_range: ValueRange | None = None,
) -> Image.Image:
    """What `open_image` opened, as `read_image` gives it.

    Args:
        image: Opened.
        path: Its file, for errors.
        decode_at: A JPEG with both sides at least twice that many pixels is decoded at the smallest
            of 1/2, 1/4 and 1/8 of its size that has them: a photo of 12 megapixels in an eighth of
            the time. None: in full.
        value_range: As `to_rgb`.

    Raises:
        DataError: It can't be decoded, whole; names the path.
    """
    with _named(path):
        if decode_at is not None:
            image.draft(None, (decode_at, decode_at))
        image.load()
        return to_rgb(image, value_range=value_range)


def to_rgb(image: Image.Image, *, value_range: ValueRange | None = None) -> Image.Image:
    """Any Pillow image as upright 8-bit RGB.

    Transparency is laid over white. Deep grey (16 or 32 bits, floats) is scaled from `value_range`
    to 0..255, where Pillow's own conversion would clip it.

    Args:
        image: Of any mode.
        value_range: The values that become 0 and 255; None: 16 bits are taken as 0..65535, 32-bit
            integers as 0..255 or 0..65535, floats as 0..1, whichever they fit; else they are
            stretched to their own range.

    Raises:
        ValueError: It has an absurd size.
    """
    refuse_size(*image.size)
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Not ImageOps.exif_transpose, which copies what needs no turn and writes the EXIF anew.
    image = image if turn is None else image.transpose(turn)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_deep(image):
        return _from_deep(image, value_range or _range_of_type(image))
    if image.has_transparency_data:
        return _in_strips(image, _over_white)
    return image.convert("RGB")


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey with more than 8 bits a pixel."""
    return image.mode == "F" or image.mode.startswith("I")


def extremes(image: Image.Image) -> ValueRange | None:
    """The smallest and the largest finite value of a deep image; None without one."""
    low, high = float("inf"), float("-inf")
    for box in _strips(image):
        values = np.asarray(image.crop(box))
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return None if low > high else (low, high)


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are decoded."""
    Image.init()
    reader = next((name for name in _HEIC_READERS if importlib.util.find_spec(name)), None)
    if reader is not None:
        importlib.import_module(reader).register_heif_opener()
    return tuple(sorted(Image.OPEN.keys() - _NOT_DECODED))


def _opened_content(content: bytes, name: object) -> ImageFile.ImageFile:
    with _named(name):
        refuse_traps(content)
        image = _opened(content)
        _refuse(image, content)
        return image


@contextmanager
def _named(path: object) -> Iterator[None]:
    """Raise as a DataError, which names the file, whatever is raised while it is decoded."""
    try:
        yield
    except Exception as error:  # decoders raise whatever the bytes make them raise
        reason = printable(str(error).strip().partition("\n")[0][:_LONGEST_REASON])
        raise DataError(
            f"unreadable image {printable(path)}: {reason or type(error).__name__}"
        ) from error


def _opened(content: bytes) -> ImageFile.ImageFile:
    """As `Image.open`, whose warning of a decompression bomb may be printed or raised at any size.

    Raises:
        ValueError: It is of no format that zoo decodes.
    """
    for name in formats():
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept is None or accept(content[:16])
            # A text says why this build of Pillow can't.
            if accepted and not isinstance(accepted, str):
                return factory(io.BytesIO(content), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise ValueError("cannot identify its format")


def _refuse(image: ImageFile.ImageFile, content: bytes) -> None:
    """Raise ValueError if an image that is opened and not yet decoded is not to be."""
    refuse_size(*image.size)
    pixels = image.width * image.height
    if pixels > _MAX_SLOW_PIXELS and any(tile[0] in Image.DECODERS for tile in image.tile):
        raise ValueError(
            f"it has {pixels:,} pixels; of this kind of {image.format} zoo decodes up to "
            f"{_MAX_SLOW_PIXELS:,}, so save it as PNG"
        )
    if _is_several(image, content):
        raise ValueError("it holds several pictures (an animation or pages); save the one you mean")


def _is_several(image: ImageFile.ImageFile, content: bytes) -> bool:
    if image.format == "TIFF":
        return has_pages(content)
    # Cameras and phones store a thumbnail, a depth map or the other eye's view as further pictures
    # of an MPO, which is a JPEG to all others; Photoshop its layers, beside what they show.
    return image.format not in ("MPO", "PSD") and getattr(image, "is_animated", False)


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that cut an image across, so that little of it is converted at a time."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(image.height, top + rows)


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `convert` makes of the strips of an image: RGB."""
    whole = Image.new("RGB", image.size)
    for box in _strips(image):
        whole.paste(convert(image.crop(box)), box)
    return whole


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _from_deep(image: Image.Image, value_range: ValueRange) -> Image.Image:
    low, high = value_range

    def levels(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip).astype(np.float64)
        scaled = np.nan_to_num((values - low) / ((high - low) or 1.0) * 255)
        return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8)).convert("RGB")

    return _in_strips(image, levels)


def _range_of_type(image: Image.Image) -> ValueRange:
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    low, high = extremes(image) or (0.0, 1.0)
    if low < 0:
        return low, high
    steps = (1.0,) if image.mode == "F" else (255.0, 65535.0)
    return 0.0, next((white for white in steps if high <= white), high)
