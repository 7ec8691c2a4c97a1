"""Small image files of every format that Pillow writes, others made by hand; and damage to them."""

import io
import signal
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from random import Random

import numpy as np
from hypothesis import strategies as st
from PIL import Image

#: Seconds that any one file may take.
SECONDS = 5.0

SIGNATURE = b"\x89PNG\r\n\x1a\n"


class TooSlowError(BaseException):
    """No Exception, so that what catches those lets it through."""


@contextmanager
def within(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TooSlowError in what takes longer."""

    def stop(*_: object) -> None:
        raise TooSlowError

    before = [signal.signal(signum, stop) for signum in (signal.SIGPROF, signal.SIGALRM)]
    # Of the processor's time, for others may be using it; and what waits for ever uses none.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 12 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(signum, handler)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, *chunks: bytes, rows: bytes | None = None) -> bytes:
    """A PNG of 8-bit grey whose header says that size; by default its data is one row's."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    content = zlib.compress(bytes(width + 1) if rows is None else rows, 9)
    parts = [png_chunk(b"IHDR", header), *chunks]
    parts += [png_chunk(b"IDAT", content), png_chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(parts)


def tiff(*directories: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """A little-endian TIFF: directories of (tag, type, count, value), then `tail`."""
    content, at = b"", 8
    for position, entries in enumerate(directories):
        at += 2 + 12 * len(entries) + 4
        after = at if position + 1 < len(directories) else 0
        content += struct.pack("<H", len(entries))
        content += b"".join(struct.pack("<HHLL", *entry) for entry in entries)
        content += struct.pack("<L", after)
    return b"II*\0" + struct.pack("<L", 8) + content + tail


def grey_page(*more: tuple[int, int, int, int], at: int = 4) -> list[tuple[int, int, int, int]]:
    """The directory of 4 x 4 grey pixels, uncompressed, that lie from `at` on."""
    entries = [
        (256, 4, 1, 4),
        (257, 4, 1, 4),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, at),
        (277, 3, 1, 1),
        (278, 4, 1, 4),
        (279, 4, 1, 16),
    ]
    kept = {tag for tag, *_ in more}
    return sorted([*more, *(entry for entry in entries if entry[0] not in kept)])


def jpeg(**options: object) -> bytes:
    return _saved(_photo(), "JPEG", **options)


def with_segments(photo: bytes, *segments: bytes) -> bytes:
    """A JPEG with APP1 segments of that content after its first marker."""
    added = b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments)
    return photo[:2] + added + photo[2:]


@cache
def seeds() -> tuple[bytes, ...]:
    """Whole files, one or several of each format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of formats that Pillow will drop
        return (*_written(), *_by_hand())


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A file of one of the formats, changed in one to three places."""
    # Places are to be anywhere in a file, while Hypothesis prefers the first and the last.
    random = draw(st.randoms(use_true_random=True))
    content = random.choice(seeds())
    for _ in range(random.randint(1, 3)):
        content = random.choice(_CHANGES)(random, content)
    if content.startswith(SIGNATURE) and random.random() < 0.7:
        content = with_right_checks(content)
    return content


def with_right_checks(content: bytes) -> bytes:
    """A PNG whose chunks' CRCs are right, so that what was changed reaches the decoder."""
    at, parts = len(SIGNATURE), [content[: len(SIGNATURE)]]
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        if end + 4 > len(content):
            break
        check = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
        parts.append(content[at:end] + check)
        at = end + 4
    return b"".join(parts) + content[at:]


def _place(random: Random, content: bytes) -> int:
    """A position, in one case of three one in the header."""
    return random.randrange(max(1, min(len(content), 48 if random.random() < 1 / 3 else 10**9)))


def _cut(random: Random, content: bytes) -> bytes:
    return content[: _place(random, content)]


def _flip_bit(random: Random, content: bytes) -> bytes:
    at = _place(random, content)
    return (
        content[:at] + bytes([(content + b"\0")[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]
    )


def _set_byte(random: Random, content: bytes) -> bytes:
    at = _place(random, content)
    value = random.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, random.randrange(256)])
    return content[:at] + bytes([value]) + content[at + 1 :]


def _set_number(random: Random, content: bytes) -> bytes:
    kind = random.choice(["<H", ">H", "<I", ">I"])
    size = struct.calcsize(kind)
    at, top = _place(random, content), 256**size - 1
    extreme = [0, 1, top, top // 2, top // 2 + 1, 30000, min(top, 70000), random.randint(0, top)]
    return content[:at] + struct.pack(kind, random.choice(extreme)) + content[at + size :]


def _repeat(random: Random, content: bytes) -> bytes:
    at, size = _place(random, content), random.randint(1, 64)
    return content[:at] + content[at : at + size] * random.choice([2, 3, 50]) + content[at + size :]


def _drop(random: Random, content: bytes) -> bytes:
    at = _place(random, content)
    return content[:at] + content[at + random.randint(1, 64) :]


def _splice(random: Random, content: bytes) -> bytes:
    other = random.choice(seeds())
    return content[: _place(random, content)] + other[_place(random, other) :]


def _add(random: Random, content: bytes) -> bytes:
    at = _place(random, content)
    return content[:at] + random.randbytes(random.randint(1, 32)) + content[at:]


_CHANGES: list[Callable[[Random, bytes], bytes]] = [
    *(_cut, _flip_bit, _flip_bit, _set_byte, _set_byte),
    *(_set_number, _set_number, _repeat, _drop, _splice, _add),
]


def _photo(mode: str = "RGB") -> Image.Image:
    draw = np.random.default_rng(7)
    coarse = Image.fromarray(draw.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return coarse.resize((24, 18), Image.Resampling.BICUBIC).convert(mode)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    # An image keeps how it was saved before.
    image.copy().save(file, form, **options)
    return file.getvalue()


def _saved_twice(image: Image.Image, form: str) -> bytes:
    """As a file of two pictures."""
    other = image.transpose(Image.Transpose.ROTATE_180)
    return _saved(image, form, save_all=True, append_images=[other])


def _written() -> Iterator[bytes]:
    rgb = _photo()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "zoo"
    deep = Image.fromarray(np.asarray(_photo("L")).astype(np.uint16) * 257)
    yield _saved(rgb, "PNG", exif=exif)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        yield _saved(_photo(mode), "PNG")
    yield _saved(deep, "PNG")
    yield _saved_twice(rgb, "PNG")
    yield _saved(rgb, "JPEG", exif=exif, quality=80)
    yield _saved(rgb, "JPEG", progressive=True)
    yield _saved(_photo("L"), "JPEG")
    yield _saved(_photo("CMYK"), "JPEG")
    yield _saved_twice(rgb, "MPO")
    yield _saved(rgb, "GIF")
    yield _saved_twice(rgb, "GIF")
    yield _saved(rgb, "WEBP", exif=exif)
    yield _saved(_photo("RGBA"), "WEBP", lossless=True)
    yield _saved_twice(rgb, "WEBP")
    yield _saved(rgb, "AVIF", exif=exif)
    yield _saved_twice(rgb, "AVIF")
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield _saved(rgb, "TIFF", compression=compression)
    yield _saved(_photo("1"), "TIFF", compression="group4")
    yield _saved(_photo("F"), "TIFF")
    yield _saved(_photo("I"), "TIFF")
    yield _saved(rgb, "TIFF", big_tiff=True)
    yield _saved_twice(rgb, "TIFF")
    for form in ("BMP", "DIB", "PCX", "SGI", "IM", "DDS", "QOI", "JPEG2000", "ICO", "ICNS", "PPM"):
        yield _saved(rgb, form)
    yield _saved(_photo("P"), "BMP")
    yield _saved(rgb, "JPEG2000", no_jp2=True, irreversible=True)
    yield _saved(rgb, "TGA")
    yield _saved(rgb, "TGA", compression="tga_rle")
    yield _saved(_photo("L"), "PPM")
    yield _saved(_photo("F"), "PPM")
    yield _saved(_photo("F"), "SPIDER")
    for form in ("MSP", "XBM"):
        yield _saved(_photo("1"), form)
    yield _saved(_photo("P"), "BLP")
    yield _saved(rgb, "PDF")
    yield _saved(rgb, "EPS")


def _by_hand() -> Iterator[bytes]:
    yield b"P3\n# digits\n2 2\n255\n255 0 0 0 255 0\n0 0 255 9 9 9\n"
    yield b"P2\n2 2\n1000\n1 2 3 4\n"
    yield b"P5\n2 2\n65535\n" + bytes(8)
    yield b"P6\n2 2\n1023\n" + bytes(24)
    yield b'/* XPM */\nstatic char *a[] = {\n"2 2 2 1",\n"a c #F00",\n"b c None",\n"ab",\n"ba"};\n'
    card = "SIMPLE  =                    T", "BITPIX  =                    8"
    size = "NAXIS   =                    2", "NAXIS1  =                    4"
    cards = [*card, *size, "NAXIS2  =                    4", "END"]
    yield "".join(c.ljust(80) for c in cards).encode().ljust(2880) + bytes(16).ljust(2880, b"\0")
    yield struct.pack(">8I", 0x59A66A95, 4, 4, 24, 48, 1, 0, 0) + bytes(48)
    psd = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3) + bytes(12)
    yield psd + struct.pack(">H", 0) + bytes(48)
    # RLE: of each row its length, then runs.
    yield psd + struct.pack(">H", 1) + struct.pack(">12H", *[2] * 12) + b"\xfd\x40" * 12
    fli = struct.pack("<IHHHHHHI", 200, 0xAF12, 1, 8, 8, 8, 0, 70).ljust(128, b"\0")
    yield fli + struct.pack("<IHH8x", 28, 0xF1FA, 1) + struct.pack("<IH", 12, 13) + bytes(6)
    bmp = struct.pack("<2sIHHI", b"BM", 200, 0, 0, 14 + 40 + 1024)
    bmp += struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, 32, 0, 0, 256, 0) + bytes(1024)
    yield bmp + b"\x08\x05\0\0" * 4 + b"\0\x01"
    yield struct.pack(">IIIII", 28, 2, 4, 4, 1) + b"GIMP" + struct.pack(">I", 10) + bytes(16)
    yield tiff(grey_page(), grey_page((254, 4, 1, 1)))
    yield png(4, 4, rows=bytes(20))
    yield png(4, 4, png_chunk(b"tEXt", b"Title\0a picture"), rows=bytes(20))
