"""Detection of small files that would take Pillow minutes or gigabytes to decode.

Pillow itself limits decompressed text and (from version 13) the size of a TIFF directory; this
module checks the rest. Each limit is far above what cameras and editors write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

#: Pixels above which Pillow warns of a decompression bomb (a quarter of a gigabyte as RGB).
MAX_PIXELS = 1024**3 // 4 // 3

#: Largest aspect ratio. Validation resizes the shorter side to the input size, so an image of
#: 1 x 60000 pixels would become 256 x 15 million.
MAX_RATIO = 100

#: Scans of a JPEG, each of which covers the whole image; a progressive JPEG has about ten.
MAX_SCANS = 40

#: EXIF segments of a JPEG, which take quadratic time to join; likewise comments in a plain PPM.
MAX_PARTS = 100

#: Strips or tiles of a TIFF, each of which starts a decoder.
MAX_STRIPS = 2**17

#: Entries of a TIFF directory.
MAX_ENTRIES = 4096

#: Directories of a TIFF that are searched for a further page.
_MAX_DIRECTORIES = 32

#: Start of a segment: in image data 0xFF is only followed by 0 or by a restart marker.
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")

_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1

_SUBFILE_TYPE, _STRIP_OFFSETS, _TILE_OFFSETS = 254, 273, 324

#: Subfile type bits of a directory that is not a page: a smaller version or a mask of another.
_NO_PAGE = 0b101

_TIFF = (b"II\x2a\0", b"MM\0\x2a", b"II\0\x2a", b"MM\x2a\0", b"II\x2b\0", b"MM\0\x2b")


def refuse_size(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Raise ValueError if an image has more than `most` pixels, or too extreme an aspect ratio."""
    size = f"it has {width} x {height} pixels"
    if width * height > most:
        raise ValueError(f"{size}; up to {most:,} are decoded, so make it smaller")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"{size}: one side is more than {MAX_RATIO} times the other")


def refuse_traps(content: bytes) -> None:
    """Raise ValueError if decoding would take far more work than the file size justifies."""
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
    """Whether a TIFF has several pages; a smaller version or a mask of a page does not count."""
    subfile_types = [directory.get(_SUBFILE_TYPE, (1, 0))[1] for directory in _directories(content)]
    return len(subfile_types) >= _MAX_DIRECTORIES or any(
        not kind & _NO_PAGE for kind in subfile_types[1:]
    )


def _refuse_many(what: str, count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"it has more than {most} {what}, which no picture needs")


def _jpeg_markers(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of the content) for each segment of a JPEG up to its end marker.

    Data after the end marker, such as other images of an MPO or a phone's video, is ignored.
    """
    found = _MARKER.search(content, 2)
    while found and content[found.end() - 1] != _END:
        at = found.end()
        yield content[at - 1], at + 2
        found = _MARKER.search(content, at + int.from_bytes(content[at : at + 2]))


def _directories(content: bytes) -> Iterator[dict[int, tuple[int, int]]]:
    """Yield the entries of each directory of a TIFF in order: tag to (count, value or offset).

    Stops at a directory outside the file and at one already seen.
    """
    order = "<" if content.startswith(b"II") else ">"
    # Pillow recognises a BigTIFF by the third byte, whatever the byte order.
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
                if kind == 3 and values == 1:  # a 16-bit number is stored in the first bytes
                    (value,) = short.unpack_from(content, at + entry.size - at_header.size)
                # Of repeated entries Pillow may use another than the first.
                found[tag] = max((values, value), found.get(tag, (0, 0)))
                at += entry.size
            yield found
            (at,) = at_header.unpack_from(content, at)
    except struct.error:
        return
