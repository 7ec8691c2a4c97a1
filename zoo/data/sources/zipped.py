"""ZIP archives of images in class folders."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from zoo.cache.keys import derived_key
from zoo.data.columns import Locate
from zoo.data.files import MAX_BYTES
from zoo.data.remote import AnyFile, RemoteFile, key_of, local_of, open_any
from zoo.data.sources.archive import Archive, left_out, member_name
from zoo.errors import DataError, UnavailableError
from zoo.io.text import printable

#: Compression methods that are read: their decompressors stop at the size that a member declares.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_ENCRYPTED = 0x1

#: Beginning and size of a member's header in the archive, without name and extra field, and where
#: it has their sizes.
_MAGIC, _HEADER, _SIZES = b"PK\x03\x04", 30, slice(26, 30)

#: Bytes that are read for the name and the extra field of a header; of more, in a second step.
_NAME = 512


class Member(NamedTuple):
    """Place of a file in an archive.

    Attributes:
        offset: Where its header begins, in bytes.
        packed: Its size in the archive.
        size: Its size.
        crc: Its CRC-32.
        method: How it is compressed.
    """

    offset: int
    packed: int
    size: int
    crc: int
    method: int


def read_zip(path: AnyFile) -> Archive:
    """List the files in a ZIP archive.

    Raises:
        DataError: It can't be read, or has a member that is encrypted, is compressed by an unusual
            method, or leads out of the archive.
    """
    try:
        with open_any(path) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except UnavailableError:
        raise
    except Exception as error:  # zipfile raises any type of exception on invalid data
        reason = printable(getattr(error, "strerror", None) or error)
        raise DataError(f"can't read the ZIP archive {printable(path)}: {reason}") from error
    places: dict[str, Member] = {}
    links, twice = [], []
    for member in members:
        name = member_name(path, member.filename)
        if member.is_dir():
            continue
        if member.flag_bits & _ENCRYPTED:
            raise DataError(
                f"{path}: member {printable(name)} is encrypted", hint="extract the archive first"
            )
        if member.compress_type not in _METHODS:
            raise DataError(
                f"{path}: member {printable(name)} is compressed by method {member.compress_type}",
                hint="zoo reads ZIP archives that are stored or deflated",
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            links.append(name)
            continue
        if name in places:
            twice.append(name)
        places[name] = Member(
            offset=max(0, member.header_offset),
            packed=member.compress_size,
            size=member.file_size,
            crc=member.CRC,
            method=member.compress_type,
        )
    issues = (
        *left_out(path, links, "links are not followed"),
        *left_out(path, twice, "a later one has the same name"),
    )
    return Archive(
        path=path.path if isinstance(path, RemoteFile) else path,
        names=tuple(places),
        place=places.__getitem__,
        locate=in_zip(path),
        issues=issues,
    )


def in_zip(path: AnyFile) -> Locate:
    """Return the function that finds the files of an archive by their numbers as a `Member`."""
    return partial(_located, path, key_of(path))


def _located(path: AnyFile, key: bytes, name: str, place: Sequence[int]) -> Mapping[str, Any]:
    member = Member(*place)
    return {
        "load": partial(_read, path, name, member),
        "stamp": derived_key(key, "zip", member.offset, member.crc) if key else b"",
        "holder": local_of(path),
    }


def _read(path: AnyFile, name: str, member: Member) -> bytes:
    """Read a file of an archive by its place there, which several threads can do at the same time.

    Raises:
        DataError: It can't be read, is empty or too large, or the archive is damaged there.
        UnavailableError: It can't be read now, or the archive has changed.
    """
    try:
        if not 0 < member.size <= MAX_BYTES:
            raise ValueError(f"it has {member.size:,} bytes; zoo reads up to {MAX_BYTES:,}")
        if member.packed > MAX_BYTES:
            raise ValueError(f"it has {member.packed:,} bytes in the archive")
        return _unpacked(path, member)
    except UnavailableError:
        raise
    except (OSError, OverflowError, ValueError, zlib.error) as error:
        reason = printable(getattr(error, "strerror", None) or error) or type(error).__name__
        raise DataError(f"unreadable image {printable(name)}: {reason}") from error


def _unpacked(path: AnyFile, member: Member) -> bytes:
    """Return the content of a member.

    Raises:
        ValueError: It is damaged.
    """
    start = member.offset
    content = _range(path, start, _HEADER + _NAME + member.packed)
    sizes = content[_SIZES]
    begin = _HEADER + int.from_bytes(sizes[:2], "little") + int.from_bytes(sizes[2:], "little")
    if content[:4] != _MAGIC:
        raise ValueError("it is damaged: it has no header")
    if begin + member.packed > len(content):
        content = _range(path, start, begin + member.packed)
    content = content[begin : begin + member.packed]
    if member.method == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size)
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise ValueError("it is damaged: its checksum differs")
    return content


def _range(path: AnyFile, offset: int, size: int) -> bytes:
    """Read some bytes of a file; fewer at its end."""
    if isinstance(path, RemoteFile):
        return path.read(offset, max(0, min(size, path.size - offset)))
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
