"""Image decoding with Pillow to upright 8-bit images of one, three or four channels."""

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
from zoo.data.headers import MAX_PIXELS, has_pages, refuse_size, refuse_traps
from zoo.errors import DataError
from zoo.io.text import printable

#: Version of the acceptance rules; increase it when fewer files are accepted, to discard the cache.
RULES = 1

#: Modules that add HEIC support to Pillow; the extra `heic` installs the first.
_HEIC_READERS = ("pi_heif", "pillow_heif")

#: Pillow formats that are not decoded: without a decoder; decoded by an external program, directly
#: (EPS) or through embedded data (IPTC); containers whose header lacks the size of the images in
#: them; animations.
_NOT_DECODED = frozenset(
    {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
    | {"EPS", "IPTC"}
    | {"BLP", "CUR", "FPX", "ICNS", "ICO", "MIC"}
    | {"FLI"}
)

#: Transpose that turns an image upright, by EXIF orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

#: Pixels that Pillow's pure-Python decoders decode within seconds.
_MAX_SLOW_PIXELS = 2**21

#: Maximum characters of a decoder's error message, which may quote the file.
_LONGEST_REASON = 200

#: Pixels converted at once where a conversion takes several times their memory.
_STRIP = 2**22


#: Pillow's mode of images of four channels: four bands alike. In RGBA, Pillow weighs the colours by
#: the fourth when it resizes.
_FOUR = "RGBX"

#: TIFF tag for the number of bands.
SAMPLES_PER_PIXEL = 277

#: Values of images with more than 8 bits per channel that map to 0 and 255.
ValueRange = tuple[float, float]


def read_image(
    path: Path, *, value_range: ValueRange | None = None, channels: int = 3
) -> Image.Image:
    """Read an image file, by default as RGB, upright according to its EXIF orientation.

    Its size and everything else that determines the decoding cost are checked before decoding.
    `value_range` and `channels` are as in `to_rgb` and `to_channels`.

    Raises:
        DataError: The path is not a file, or the image can't be decoded completely, has several
            frames or pages, or has an unreasonable size; the message names the path.
    """
    return decoded(open_image(path), path, value_range=value_range, channels=channels)


def open_image(path: Path, *, same: Fingerprint | None = None) -> ImageFile.ImageFile:
    """Open an image file without decoding it; with `same`, its fingerprint must still be that.

    Raises:
        DataError: As `read_image`, except for errors found only by decoding.
    """
    return open_content(read_file(path, same=same), path)


def image_from_bytes(
    content: bytes,
    name: object = "given as bytes",
    *,
    decode_at: int | None = None,
    value_range: ValueRange | None = None,
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """Decode an encoded image in memory, as `read_image` does for a file.

    Args:
        content: Encoded image: all bytes of the file.
        name: Name used in error messages.
        decode_at: As `decoded`.
        value_range: As `to_rgb`.
        channels: As `to_channels`.
        max_pixels: Images with more pixels are refused; at most the default has an effect.

    Raises:
        DataError: As `read_image`.
    """
    image = open_content(content, name, max_pixels)
    return decoded(image, name, decode_at=decode_at, value_range=value_range, channels=channels)


def decoded(
    image: ImageFile.ImageFile,
    path: object,
    *,
    decode_at: int | None = None,
    value_range: ValueRange | None = None,
    channels: int = 3,
) -> Image.Image:
    """Decode an image opened by `open_image`, as `read_image` does.

    Args:
        image: Opened image.
        path: Its file, for error messages.
        decode_at: A JPEG with both sides at least twice that many pixels is decoded at 1/2, 1/4 or
            1/8 of its size, the smallest whose sides have at least that many: a 12-megapixel photo
            in an eighth of the time. None: full size.
        value_range: As `to_rgb`.
        channels: As `to_channels`.

    Raises:
        DataError: The image can't be decoded completely; the message names the path.
    """
    with _named(path):
        if decode_at is not None:
            image.draft(None, (decode_at, decode_at))
        if channels == 4 and image.mode == "RGB" and dropped_bands(image) == 1:
            # Pillow has read the layout of the file, and leaves the fourth band out otherwise.
            image._mode = _FOUR
        image.load()
        return to_channels(image, channels, value_range=value_range)


def dropped_bands(image: ImageFile.ImageFile) -> int:
    """Count the bands that Pillow drops: it opens a TIFF of four bands without alpha as RGB."""
    stored = getattr(image, "tag_v2", {}).get(SAMPLES_PER_PIXEL, 0)
    return max(0, int(stored) - len(image.getbands()))


def has_fourth_band(image: ImageFile.ImageFile) -> bool:
    """Whether an image that has been decoded, with any number of channels, has four of them."""
    four = image.mode == "RGB" and dropped_bands(image) == 1
    return four or image.mode == _FOUR or image.has_transparency_data


def without_fourth_band(mode: str) -> str:
    """Say that an image of that mode can't be used where four channels are needed."""
    return (
        f"its mode is {mode}, and four channels are needed: red, green, blue and a fourth band, "
        f"such as transparency"
    )


def to_channels(
    image: Image.Image, channels: int, *, value_range: ValueRange | None = None
) -> Image.Image:
    """Convert any Pillow image to an upright 8-bit image of that many channels.

    Args:
        image: Image of any mode.
        channels: 3: as `to_rgb`. 1: its luminance, by Pillow's weights. 4: the image must have four
            bands, which are kept as they are: transparency is not composited.
        value_range: As `to_rgb`.

    Raises:
        ValueError: The image has an unreasonable size, or not the four bands that are needed.
    """
    if channels == 4:
        return _four_bands(image)
    rgb = to_rgb(image, value_range=value_range)
    return rgb.convert("L") if channels == 1 else rgb


def to_rgb(image: Image.Image, *, value_range: ValueRange | None = None) -> Image.Image:
    """Convert any Pillow image to upright 8-bit RGB.

    Transparency is composited over white. Deep greyscale (16 or 32 bits, floats) is scaled from
    `value_range` to 0..255, where Pillow's own conversion would clip it.

    Args:
        image: Image of any mode.
        value_range: Values that map to 0 and 255; None: 0..65535 for 16 bits, 0..255 or 0..65535
            for 32-bit integers and 0..1 for floats, whichever the values fit; otherwise the
            image's own range.

    Raises:
        ValueError: The image has an unreasonable size.
    """
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_deep(image):
        return _from_deep(image, value_range or _range_of_type(image))
    if image.has_transparency_data:
        return _in_strips(image, _over_white)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    refuse_size(*image.size)
    image.load()
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Not ImageOps.exif_transpose, which copies upright images and rewrites the EXIF data.
    return image if turn is None else image.transpose(turn)


def _four_bands(image: Image.Image) -> Image.Image:
    if image.mode != _FOUR and not image.has_transparency_data:
        raise ValueError(without_fourth_band(image.mode))
    image = _upright(image)
    return image if image.mode == _FOUR else Image.merge(_FOUR, image.convert("RGBA").split())


def is_deep(image: Image.Image) -> bool:
    """Whether an image is greyscale with more than 8 bits per pixel."""
    return image.mode == "F" or image.mode.startswith("I")


def extremes(image: Image.Image) -> ValueRange | None:
    """Return the smallest and largest finite values of a deep image; None if it has none."""
    low, high = float("inf"), float("-inf")
    for box in _strips(image):
        values = np.asarray(image.crop(box))
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return None if low > high else (low, high)


@functools.cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the supported formats."""
    Image.init()
    reader = next((name for name in _HEIC_READERS if importlib.util.find_spec(name)), None)
    if reader is not None:
        importlib.import_module(reader).register_heif_opener()
    return tuple(sorted(Image.OPEN.keys() - _NOT_DECODED))


def open_content(content: bytes, name: object, max_pixels: int = MAX_PIXELS) -> ImageFile.ImageFile:
    """Open an encoded image in memory without decoding it, as `open_image` does for a file.

    Raises:
        DataError: As `open_image`.
    """
    with _named(name):
        if len(content) > MAX_BYTES:
            raise ValueError(f"it has {len(content):,} bytes; zoo reads up to {MAX_BYTES:,}")
        refuse_traps(content)
        image = _opened(content)
        _refuse(image, content, max_pixels)
        return image


@contextmanager
def _named(path: object) -> Iterator[None]:
    """Convert any exception of decoding into a DataError that names the file."""
    try:
        yield
    except Exception as error:  # decoders raise any type of exception on invalid data
        reason = printable(str(error).strip().partition("\n")[0][:_LONGEST_REASON])
        raise DataError(
            f"unreadable image {printable(path)}: {reason or type(error).__name__}"
        ) from error


def _opened(content: bytes) -> ImageFile.ImageFile:
    """Open like `Image.open`, whose decompression bomb warning may be shown or raised at any size.

    Raises:
        ValueError: The format is not supported.
    """
    for name in formats():
        factory, accept = Image.OPEN[name]
        try:
            accepted = accept is None or accept(content[:16])
            # A string is the reason why this build of Pillow can't read the format.
            if accepted and not isinstance(accepted, str):
                return factory(io.BytesIO(content), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue
    raise ValueError("cannot identify its format")


def _refuse(image: ImageFile.ImageFile, content: bytes, max_pixels: int) -> None:
    """Raise ValueError if an opened image must not be decoded."""
    refuse_size(*image.size, max_pixels)
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
    # Cameras and phones store a thumbnail, a depth map or a second stereo view as further images of
    # an MPO, which other software reads as JPEG; Photoshop stores layers beside the composite.
    return image.format not in ("MPO", "PSD") and getattr(image, "is_animated", False)


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield boxes of horizontal strips, so that little of the image is converted at a time."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(image.height, top + rows)


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert an image to RGB strip by strip."""
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
