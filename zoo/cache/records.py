"""The file format of a store: concatenated arrays, and an index of fixed-size entries.

records.bin holds the bytes of the arrays, in C order. index.bin holds an entry of 52 bytes for each
array, little-endian: key (16 bytes), offset in records.bin (8), number of dimensions (4), four
dimensions (4 each, unused ones 0), CRC-32 of the array's bytes (4), CRC-32 of the preceding fields
(4). Entries that are incomplete, damaged or point beyond the records are ignored.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from zoo.cache.keys import KEY_BYTES

RECORDS = "records.bin"
INDEX = "index.bin"
#: Part of the hash in the name of a store's folder, so that another format is another store.
FORMAT = 1
MAX_DIMENSIONS = 4

_BODY = struct.Struct(f"<{KEY_BYTES}sQ{1 + MAX_DIMENSIONS}II")
_CHECK = struct.Struct("<I")
ENTRY_BYTES = _BODY.size + _CHECK.size


class Entry(NamedTuple):
    """Location of an array in records.bin: offset in bytes, shape, CRC-32 of its bytes."""

    offset: int
    shape: tuple[int, ...]
    crc: int

    def size(self, itemsize: int) -> int:
        """Return the size of the array in bytes."""
        return math.prod(self.shape) * itemsize


class Index(NamedTuple):
    """Contents of index.bin.

    Attributes:
        entries: Entries by key; of several with the same key, the last one counts.
        end: End of the last valid entry, in bytes of index.bin.
        records_end: End of the last record, in bytes of records.bin.
    """

    entries: dict[bytes, Entry]
    end: int
    records_end: int


def read_index(content: bytes, records_bytes: int, itemsize: int) -> Index:
    """Read the valid entries of an index file; its bytes may be any."""
    entries: dict[bytes, Entry] = {}
    end = records_end = 0
    view = memoryview(content)
    for at in range(0, len(content) - ENTRY_BYTES + 1, ENTRY_BYTES):
        body = view[at : at + _BODY.size]
        (check,) = _CHECK.unpack_from(content, at + _BODY.size)
        if zlib.crc32(body) != check:
            continue
        key, offset, ndim, *dimensions, crc = _BODY.unpack(body)
        entry = Entry(offset, tuple(dimensions[:ndim]), crc)
        if ndim > MAX_DIMENSIONS or offset + entry.size(itemsize) > records_bytes:
            continue
        entries[key] = entry
        end = at + ENTRY_BYTES
        records_end = max(records_end, offset + entry.size(itemsize))
    return Index(entries, end, records_end)


def pack(key: bytes, entry: Entry) -> bytes:
    """Return the bytes of an entry in index.bin."""
    unused = (0,) * (MAX_DIMENSIONS - len(entry.shape))
    body = _BODY.pack(key, entry.offset, len(entry.shape), *entry.shape, *unused, entry.crc)
    return body + _CHECK.pack(zlib.crc32(body))


def write(folder: Path, records: list[tuple[bytes, Entry, bytes]], index: Index) -> None:
    """Append records after those of `index`; all are on disk before the first entry is.

    Args:
        folder: Folder of the store.
        records: Key, entry and bytes of each record, in the order of their offsets.
        index: The existing entries; bytes after its two ends are overwritten.

    Raises:
        OSError: If they can't be written. `index` is still valid.
    """
    with (folder / RECORDS).open("r+b", buffering=0) as file:
        file.seek(index.records_end)
        for _, _, content in records:
            _write_all(file, content)
        os.fsync(file.fileno())
    with (folder / INDEX).open("r+b", buffering=0) as file:
        file.seek(index.end)
        _write_all(file, b"".join(pack(key, entry) for key, entry, _ in records))
        os.fsync(file.fileno())


def trim(folder: Path, index: Index) -> None:
    """Truncate both files to what the index describes, creating them if they are missing.

    Raises:
        OSError: If they can't be written.
    """
    for name, end in ((INDEX, index.end), (RECORDS, index.records_end)):
        with (folder / name).open("ab") as file:
            if file.tell() != end:
                file.truncate(end)


def _write_all(file: BinaryIO, content: bytes) -> None:
    """Write all bytes: an unbuffered file may write fewer at once, as when the disk is full."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
