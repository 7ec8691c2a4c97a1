"""A store: arrays by key, appended by one process, read by any number through a memory map."""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from filelock import FileLock

from zoo.cache.folder import Kind, describe, lock, make_room, place, touch
from zoo.cache.keys import KEY_BYTES
from zoo.cache.records import (
    ENTRY_BYTES,
    INDEX,
    MAX_DIMENSIONS,
    RECORDS,
    Entry,
    Index,
    read_index,
    trim,
    write,
)
from zoo.errors import CacheError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


def open_store(kind: Kind, about: Mapping[str, Any], *, dtype: DTypeLike) -> Store:
    """Open the store of arrays of that kind that depend on the image and on `about`.

    Nothing is written before the first `append`.

    Args:
        kind: Kind of the arrays.
        about: Everything that they depend on beside the image (backbone, SHA-256 of the weights,
            image size, versions), JSON-serialisable: any other value means another store.
        dtype: Data type of the arrays.

    Raises:
        TypeError: If `about` is not JSON-serialisable.
    """
    described = describe(about, np.dtype(dtype))
    return Store(place(kind, described), described, dtype)


class Store:
    """Arrays of one dtype and individual shapes, by a key of 16 bytes.

    The first process that opens a store can write to it; for others it is read-only until that
    process closes it or ends. They see the records that existed when they opened it, and no process
    waits for another. The CRC-32 of a record is checked at its first use; a damaged record counts
    as absent. Unpickling opens the store again; after a fork it is read-only. Not thread-safe.
    """

    def __init__(self, path: Path, described: str, dtype: DTypeLike) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self._blocked: str | None = None
        self._described = described
        self._index = Index({}, 0, 0)
        self._map: mmap.mmap | bytes = b""
        self._verified: set[bytes] = set()
        self._lock: FileLock | None = None
        self._process = os.getpid()
        try:
            if path.is_dir():
                self._open()
        except OSError as error:
            self._release()
            self._blocked = f"it can't be used: {error.strerror or error}"

    @property
    def blocked(self) -> str | None:
        """Why nothing can be appended; None if it is possible."""
        return self._blocked if self._process == os.getpid() else "a forked process only reads it"

    @property
    def writable(self) -> bool:
        """Whether `append` writes."""
        return self.blocked is None

    def __len__(self) -> int:
        return len(self._index.entries)

    def __contains__(self, key: bytes) -> bool:
        return self._read(key) is not None

    def get(self, key: bytes) -> NDArray[Any]:
        """Return the array of that key, a read-only view on the memory map, valid after `close`.

        Raises:
            KeyError: If there is none, or it is damaged.
        """
        found = self._read(key)
        if found is None:
            raise KeyError(key.hex())
        return found

    def append(self, items: Iterable[tuple[bytes, NDArray[Any]]]) -> None:
        """Append a batch of arrays; on return they are on disk.

        Does nothing if `writable` is False. Existing keys are skipped. A call syncs to disk twice.

        Args:
            items: Keys of 16 bytes and arrays of the store's dtype, of up to 4 dimensions. The
                iterable is consumed before the first array is written.

        Raises:
            CacheError: If they can't be written (no space, no permission). Existing records stay.
            ValueError: If a key or an array is invalid.
        """
        batch = dict(items)
        for key, array in batch.items():
            self._check(key, array)
        if not batch or not self.writable or not self._begin():
            return
        records: list[tuple[bytes, Entry, bytes]] = []
        end = self._index.records_end
        for key, array in batch.items():
            if key not in self:
                content = array.tobytes()
                records.append((key, Entry(end, array.shape, zlib.crc32(content)), content))
                end += len(content)
        if not records:
            return
        try:
            write(self.path, records, self._index)
        except BaseException as error:
            # Entries that were written are valid, and other processes may have read them.
            with suppress(OSError):
                self._load()
            if isinstance(error, OSError):
                raise self._error(error) from error
            raise
        entries = self._index.entries
        entries.update((key, entry) for key, entry, _ in records)
        index_end = self._index.end + len(records) * ENTRY_BYTES
        self._index = Index(entries, index_end, end)

    def reserve(self, needed_bytes: int, limit_bytes: int) -> bool:
        """Free space for that many bytes by deleting the least recently used stores.

        Neither this store nor one that another process uses is deleted.

        Returns:
            Whether they fit now in the limit and on the disk, of which 1 GiB (5 % of a small one)
            stays free. If not, or if this store isn't writable, nothing was deleted.
        """
        return self.writable and make_room(needed_bytes, limit_bytes, keep=self.path)

    def close(self) -> None:
        """Release the store so that others can write to it. It is then empty and read-only."""
        self._blocked = "it is closed"
        self._index = Index({}, 0, 0)
        self._map = b""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Store], tuple[Path, str, str]]:
        return Store, (self.path, self._described, self.dtype.str)

    def _begin(self) -> bool:
        """Return whether the lock is held, acquiring it at the first append to a new folder.

        Raises:
            CacheError: If the folder can't be created.
        """
        if self._lock is None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._open()
            except OSError as error:
                self._release()
                raise self._error(error) from error
        return self._lock is not None

    def _open(self) -> None:
        """Acquire the lock if it is free, and read the index."""
        try:
            self._lock = lock(self.path)
            if self._lock is None:
                self._blocked = "another process is writing to it"
        except OSError as error:
            self._blocked = f"it can't be written: {error.strerror or error}"
        touch(self.path, self._described, write=self._lock is not None)
        self._load()

    def _load(self) -> None:
        index, records = self.path / INDEX, self.path / RECORDS
        content = index.read_bytes() if index.exists() else b""
        records_bytes = records.stat().st_size if records.exists() else 0
        self._index = read_index(content, records_bytes, self.dtype.itemsize)
        self._verified = set()
        if self._lock is not None:
            trim(self.path, self._index)
        if self._index.records_end:
            self._remap()

    def _remap(self) -> None:
        with (self.path / RECORDS).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _read(self, key: bytes) -> NDArray[Any] | None:
        entry = self._index.entries.get(key)
        if entry is None:
            return None
        end = entry.offset + entry.size(self.dtype.itemsize)
        if end > len(self._map):
            try:
                self._remap()
            except OSError:  # deleted by hand
                return None
        content = memoryview(self._map)[entry.offset : end]
        if key not in self._verified:
            if zlib.crc32(content) != entry.crc:
                del self._index.entries[key]
                return None
            self._verified.add(key)
        if not content:
            empty = np.empty(entry.shape, self.dtype)
            empty.flags.writeable = False
            return empty
        return np.frombuffer(content, self.dtype).reshape(entry.shape)

    def _check(self, key: bytes, array: NDArray[Any]) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        if array.dtype != self.dtype or array.ndim > MAX_DIMENSIONS:
            raise ValueError(
                f"the store {self.path} takes arrays of {self.dtype} with up to {MAX_DIMENSIONS} "
                f"dimensions, not of {array.dtype} with {array.ndim}"
            )

    def _release(self) -> None:
        # A forked process has a copy of the lock, which it must not release.
        if self._lock is not None and self._process == os.getpid():
            self._lock.release()
            self._lock = None

    def _error(self, error: OSError) -> CacheError:
        return CacheError(
            f"can't write to the cache in {self.path}: {error.strerror or error}",
            hint="free space with `zoo cache clear`, or set ZOO_HOME to a writable folder with "
            "free space",
        )
