"""A file on a network in the version in which it was listed, read through a cache on disk."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from zoo.cache import derived_key, image_key
from zoo.cache.remote import keep, recall
from zoo.data.files import MAX_BYTES, file_key
from zoo.data.remote import http, storage
from zoo.data.remote.address import Address, check, is_web, path_of
from zoo.data.remote.errors import changed, retrying
from zoo.errors import DataError
from zoo.io.text import printable

#: Threads that ask for the sizes of files at a time.
_THREADS = 16

#: Number of files of a folder from which the folder is listed instead of asking for each.
_MANY = 20

#: Bytes that are read ahead.
_AHEAD = 2**18


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a network.

    Attributes:
        address: Its address.
        size: Its size in bytes.
        version: What changes with its content: an ETag, a generation or a modification time; empty
            if the server states none, and then nothing of it is cached.
    """

    address: str
    size: int
    version: str

    def __str__(self) -> str:
        return self.address

    @property
    def path(self) -> Address:
        """Its address as a path, without a query."""
        return Address(path_of(self.address))

    @property
    def key(self) -> bytes:
        """Key of its content, by address, size and version; empty without a version."""
        if not self.version:
            return b""
        return derived_key(image_key(self.address.encode()), self.size, self.version)

    def read(self, offset: int = 0, size: int | None = None, *, cached: bool = True) -> bytes:
        """Read a range of the file, or all of it.

        Args:
            offset: Where the range begins, in bytes.
            size: Its size; None: up to the end.
            cached: Whether to look for it in the cache on disk, and to keep it there.

        Raises:
            FileNotFoundError: The file has been deleted.
            UnavailableError: It can't be read now, or has changed since it was listed.
            DataError: It can't be read in parts.
        """
        size = self.size - offset if size is None else size
        if offset < 0 or size < 0 or offset + size > self.size:
            raise changed(self.address)
        if not size:
            return b""
        key = derived_key(self.key, offset, size) if cached and self.key else b""
        content = recall(key) if key else None
        if content is None:
            content = retrying(self.address, partial(self._fetch, offset, size))
            if len(content) != size:
                raise changed(self.address)
            if key:
                keep(key, content)
        return content

    def open(self, *, cached: bool = True, ahead: int = _AHEAD) -> BinaryIO:
        """Open the file for random access; what is read ahead is read at once.

        Args:
            cached: As in `read`.
            ahead: Bytes that are read ahead of small reads.
        """
        raw = _Ranges(self, cached=cached)
        return cast(BinaryIO, io.BufferedReader(raw, buffer_size=ahead))

    def _fetch(self, offset: int, size: int) -> bytes:
        if is_web(self.address):
            return http.read(
                self.address, version=self.version, total=self.size, offset=offset, size=size
            )
        return storage.read(self.address, version=self.version, offset=offset, size=size)


#: A file of this machine or on a network.
AnyFile = Path | RemoteFile


class _Ranges(io.RawIOBase):
    """A remote file as a raw stream; each read is a request, or found in the cache."""

    def __init__(self, file: RemoteFile, *, cached: bool) -> None:
        self._file, self._cached, self._position = file, cached, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), max(self._file.size - self._position, 0))
        content = self._file.read(self._position, size, cached=self._cached)
        buffer[:size] = content
        self._position += size
        return size


def open_any(file: AnyFile) -> BinaryIO:
    """Open a file of this machine or on a network for reading bytes.

    Raises:
        OSError: It can't be opened.
    """
    return file.open("rb") if isinstance(file, Path) else file.open()


def local_of(file: AnyFile) -> Path | None:
    """Return a file of this machine as it is; None for one on a network."""
    return file if isinstance(file, Path) else None


def key_of(file: AnyFile) -> bytes:
    """Return the key of a file by what changes with its content; empty if nothing reliable does."""
    return file_key(file) if isinstance(file, Path) else file.key


def read_image(file: RemoteFile, name: str) -> bytes:
    """Read an image that is a file of its own.

    Raises:
        UnavailableError: It can't be read now, or has changed since it was listed.
        DataError: It is missing, empty or too large.
    """
    try:
        if not 0 < file.size <= MAX_BYTES:
            raise ValueError(f"it has {file.size:,} bytes; zoo reads up to {MAX_BYTES:,}")
        return file.read()
    except FileNotFoundError as error:
        raise changed(file.address) from error
    except ValueError as error:
        raise DataError(f"unreadable image {printable(name)}: {error}") from error


def read_address(address: str) -> bytes:
    """Read an image at an address that was not listed.

    Raises:
        UnavailableError: It can't be read now.
        DataError: It is missing, empty or too large.
    """
    try:
        return read_image(find(address), address)
    except FileNotFoundError as error:
        raise missing(address) from error


def missing(name: str) -> DataError:
    """Return the error of an image that a server does not have."""
    return DataError(f"unreadable image {printable(name)}: there is no such file")


def find(address: str) -> RemoteFile:
    """Ask for the size and version of a file.

    Raises:
        FileNotFoundError: There is no such file.
        UnavailableError: The server can't be asked now, or denies access.
        DataError: It can't be asked.
    """
    check(address)
    ask = http.stat if is_web(address) else storage.stat
    return RemoteFile(address, *retrying(address, partial(ask, address)))


def existing_file(address: str) -> RemoteFile:
    """Return the file at an address that the user gave.

    Raises:
        DataError: There is none, or as `find`.
    """
    try:
        return find(address)
    except FileNotFoundError as error:
        raise DataError(f"there is no file {printable(address)}") from error


def files_below(address: str) -> list[RemoteFile]:
    """List the files below a folder, sorted by address.

    Raises:
        DataError: There are none, the system can't be listed, or it denies access.
    """
    check(address)
    if is_web(address):
        raise DataError(
            f"{printable(address)} is not a table, an archive or a tar file, and folders of a web "
            f"server can't be listed",
            hint="give the address of a table (.csv, .tsv, .jsonl, .parquet), .zip or .tar",
        )
    try:
        found = retrying(address, partial(storage.listed, address, deep=True))
    except FileNotFoundError:
        found = []
    if not found:
        raise DataError(f"there are no files at {printable(address)}")
    return sorted((RemoteFile(*each) for each in found), key=lambda file: file.address)


def find_all(addresses: Iterable[str]) -> dict[str, RemoteFile]:
    """Ask for the sizes and versions of files; those that are missing are left out.

    A folder of object storage that has many of them is listed instead, a thousand files a request.

    Raises:
        UnavailableError, DataError: As `find`.
    """
    by_folder: dict[str, list[str]] = {}
    for address in dict.fromkeys(addresses):
        by_folder.setdefault(address.rpartition("/")[0], []).append(address)
    for folder in by_folder:
        check(folder)
    listable = [
        folder
        for folder, inner in by_folder.items()
        if len(inner) >= _MANY and not is_web(inner[0])
    ]
    single = [
        each for folder, inner in by_folder.items() if folder not in listable for each in inner
    ]

    def folder_of(folder: str) -> list[RemoteFile]:
        try:
            found = retrying(folder, partial(storage.listed, folder, deep=False))
        except FileNotFoundError:
            return []
        return [RemoteFile(*each) for each in found]

    def one(address: str) -> list[RemoteFile]:
        try:
            return [find(address)]
        except FileNotFoundError:
            return []

    there = {file.address: file for file in _in_threads(folder_of, listable)}
    there |= {file.address: file for file in _in_threads(one, single)}
    wanted = {address for inner in by_folder.values() for address in inner}
    return {address: file for address, file in there.items() if address in wanted}


def _in_threads(
    ask: Callable[[str], list[RemoteFile]], addresses: Sequence[str]
) -> Iterable[RemoteFile]:
    if not addresses:
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(ask, addresses):
            yield from found
