"""ZIP archives of images in class folders."""

from __future__ import annotations

import functools
import os
import stat
import zipfile
import zlib
from functools import partial

from zoo.cache.keys import derived_key
from zoo.data.files import MAX_BYTES
from zoo.data.remote import AnyFile, RemoteFile, key_of, local_of
from zoo.data.sources.archive import Archive, left_out, member_name
from zoo.errors import DataError, UnavailableError
from zoo.io.text import printable

#: Compression methods that are read: their decompressors stop at the size that a member declares.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

_ENCRYPTED = 0x1

#: Size of a member's header in the archive, without name and extra field, and where it has their
#: sizes.
_HEADER, _SIZES = 30, slice(26, 30)

#: Bytes that are read for an extra field, which may be larger than in the list of members.
_EXTRA = 256


def read_zip(path: AnyFile) -> Archive:
    """List the files in a ZIP archive.

    Raises:
        DataError: It can't be read, or has a member that is encrypted, is compressed by an unusual
            method, or leads out of the archive.
    """
    try:
        members = _opened(path, os.getpid(), *_state(path)).infolist()
    except UnavailableError:
        raise
    except Exception as error:  # zipfile raises any type of exception on invalid data
        reason = printable(getattr(error, "strerror", None) or error)
        raise DataError(f"can't read the ZIP archive {printable(path)}: {reason}") from error
    names: dict[str, str] = {}
    crcs: dict[str, int] = {}
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
        if name in names:
            twice.append(name)
        names[name], crcs[name] = member.filename, member.CRC
    key = key_of(path)
    issues = (
        *left_out(path, links, "links are not followed"),
        *left_out(path, twice, "a later one has the same name"),
    )
    return Archive(
        path=path.path if isinstance(path, RemoteFile) else path,
        names=tuple(names),
        load=lambda name: partial(_member, path, names[name]),
        stamp=lambda name: derived_key(key, "zip", name, crcs[name]) if key else b"",
        holder=lambda name: local_of(path),
        issues=issues,
    )


def _member(path: AnyFile, name: str) -> bytes:
    """Read a member of an archive.

    Raises:
        DataError: It can't be read.
    """
    try:
        archive = _opened(path, os.getpid(), *_state(path))
        member = archive.getinfo(name)
        if not 0 < member.file_size <= MAX_BYTES:
            raise ValueError(f"it has {member.file_size:,} bytes; zoo reads up to {MAX_BYTES:,}")
        if isinstance(path, RemoteFile):
            return _remote_member(path, member)
        with archive.open(member) as file:
            # Without the size, a member that declares a wrong one is decompressed as a whole.
            return file.read(member.file_size)
    except UnavailableError:
        raise
    except Exception as error:  # zipfile raises any type of exception on invalid data
        reason = printable(getattr(error, "strerror", None) or error) or type(error).__name__
        raise DataError(f"unreadable image {printable(name)}: {reason}") from error


def _remote_member(file: RemoteFile, member: zipfile.ZipInfo) -> bytes:
    """Read a member by a single request, which several threads can do at the same time.

    Raises:
        ValueError: It is damaged.
        UnavailableError: It can't be read now, or the archive has changed.
    """
    start, size = member.header_offset, member.compress_size
    expected = _HEADER + len(member.filename.encode()) + len(member.extra) + _EXTRA + size
    content = file.read(start, min(expected, file.size - start))
    sizes = content[_SIZES]
    begin = _HEADER + int.from_bytes(sizes[:2], "little") + int.from_bytes(sizes[2:], "little")
    if begin + size > len(content):
        content = file.read(start, begin + size)
    content = content[begin : begin + size]
    if member.compress_type == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.file_size)
    if len(content) != member.file_size or zlib.crc32(content) != member.CRC:
        raise ValueError("it is damaged: its checksum differs")
    return content


def _state(path: AnyFile) -> tuple[int, int]:
    if isinstance(path, RemoteFile):
        return path.size, 0
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _opened(path: AnyFile, process: int, size: int, mtime_ns: int) -> zipfile.ZipFile:
    """Open an archive once in each process: forked ones would share the position in the file."""
    return zipfile.ZipFile(path.open() if isinstance(path, RemoteFile) else path)
