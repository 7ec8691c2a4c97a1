"""What a small file could make Pillow do for minutes, or with gigabytes, found before it does.

Pillow itself bounds how much it inflates of a text and how much a TIFF's directory may hold (from
version 13 on); what is here is left. Each limit is far above what cameras and editors write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

#: Pixels: from here on Pillow warns of a decompression bomb (a quarter of a gigabyte as RGB).
MAX_PIXELS = 1024**3 // 4 // 3

#: How many times the shorter side the longer one may be. Validation resizes the shorter side to the
#: input's, so a picture of 1 x 60000 pixels would become one of 256 x 15 million.
MAX_RATIO = 100

#: Scans of a JPEG, each of which goes over all of the picture; a progressive one has some ten.
MAX_SCANS = 40

#: EXIF segments of a JPEG, whose joining takes the square of their number in steps; comments in a
#: PPM of digits, likewise.
MAX_PARTS = 100

#: Strips or tiles of a TIFF, each of which starts a decoder.
MAX_STRIPS = 2**17

#: Entries of a TIFF's directory.
MAX_ENTRIES = 4096

#: Directories of a TIFF that are looked at for a further page.
_MAX_DIRECTORIES = 32

#: In a picture's data 0xFF is followed by 0, or by what tells that decoding may start anew.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")

_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1

_SUBFILE_TYPE, _STRIP_OFFSETS, _TILE_OFFSETS = 254, 273, 324

#: Bits of the subfile type: a smaller version of another page, or a mask for it.
_NO_PAGE = 0b101

_TIFF = (b"II\x2a\0", b"MM\0\x2a", b"II\0\x2a", b"MM\x2a\0", b"II\x2b\0", b"MM\0\x2b")


def refuse_size(width: int, height: int) -> None:
    """Raise ValueError if a picture of that size is too large, or too long for its breadth."""
    size = f"it has {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise ValueError(f"{size}; zoo decodes up to {MAX_PIXELS:,}, so make it smaller")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"{size}: one side is more than {MAX_RATIO} times the other")


def refuse_traps(content: bytes) -> None:
    """Raise ValueError if a decoder would take a file's content for far more work than it is.

    Args:
        content: All bytes of the file, of whatever format.
    """
    if content.startswith(b"\xff\xd8"):
        scans = segments = 0
        for marker, at in _jpeg_markers(content):
            scans += marker == _SCAN
            segments += marker == _APP1 and content.startswith(b"Exif\0\0", at)
            _refuse_many("scans", scans, MAX_SCANS)
            _refuse_many("EXIF segments", segments, MAX_PARTS)
    elif content.startswith((b"P1", b"P2", b"P3")):
        _refuse_many("comments", content.count(b"#"), MAX_PARTS)
    elif content.startswith(_TIFF):
        for directory in _directories(content):
            strips = max(directory.get(t, (0, 0))[0] for t in (_STRIP_OFFSETS, _TILE_OFFSETS))
            if strips > MAX_STRIPS:
                raise ValueError(f"it has {strips:,} strips or tiles, more than any picture needs")


def has_pages(content: bytes) -> bool:
    """Whether a TIFF holds more than one page; a smaller version or a mask of the first is none."""
    subfile_types = [directory.get(_SUBFILE_TYPE, (1, 0))[1] for directory in _directories(content)]
    return len(subfile_types) >= _MAX_DIRECTORIES or any(
        not kind & _NO_PAGE for kind in subfile_types[1:]
    )


def _refuse_many(what: str, count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"it has more than {most} {what}, which no picture needs")


def _jpeg_markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Of each marker segment of a JPEG up to its end, the marker and where its content begins.

    What follows the end, such as the other pictures of an MPO or a phone's video, is no part of it.
    """
    found = _MARKER.search(content, 2)
    while found and content[found.end() - 1] != _END:
        at = found.end()
        yield content[at - 1], at + 2
        found = _MARKER.search(content, at + int.from_bytes(content[at : at + 2]))


def _directories(content: bytes) -> Iterator[dict[int, tuple[int, int]]]:
    """Of each directory of a TIFF, in their order, the entries: tag to (count, value or offset).

    Ends where one lies outside the file or comes again.
    """
    order = "<" if content.startswith(b"II") else ">"
    # As Pillow tells a BigTIFF: by the third byte, whatever the byte order.
    big = content[2:3] == b"\x2b"
    at_header = struct.Struct(f"{order}Q" if big else f"{order}L")
    count_of = struct.Struct(f"{order}Q" if big else f"{order}H")
    entry = struct.Struct(f"{order}HHQQ" if big else f"{order}HHLL")
    short = struct.Struct(f"{order}H")
    seen: set[int] = set()
    try:
        (at,) = at_header.unpack_from(content, 8 if big else 4)
        while at and at not in seen and len(seen) < _MAX_DIRECTORIES:
            seen.add(at)
            (count,) = count_of.unpack_from(content, at)
            if count > MAX_ENTRIES:
                raise ValueError(f"it has {count:,} entries, more than any picture needs")
            found: dict[int, tuple[int, int]] = {}
            at += count_of.size
            for _ in range(count):
                tag, kind, values, value = entry.unpack_from(content, at)
                if kind == 3 and values == 1:  # a 16-bit number lies in the first bytes
                    (value,) = short.unpack_from(content, at + entry.size - at_header.size)
                # Of several Pillow may take another than the first.
                found[tag] = max((values, value), found.get(tag, (0, 0)))
                at += entry.size
            yield found
            (at,) = at_header.unpack_from(content, at)
    except struct.error:
        return
