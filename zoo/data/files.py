"""Safe reading of files in a data folder, which may be pipes, devices or broken links."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePath

from zoo.cache.keys import KEY_BYTES, derived_key, image_key
from zoo.errors import DataError
from zoo.io.text import printable

#: Largest file that is read, in bytes: more than the largest allowed image takes uncompressed.
MAX_BYTES = 2**29

#: Age in nanoseconds below which a file may change again with the same modification time: file
#: systems store times in milliseconds, those of memory cards in steps of two seconds.
_SETTLED_NS = 2_000_000_000

#: How often a file is waited for that keeps changing.
_MOST_WAITS = 5

_WAITS: ContextVar[bool] = ContextVar("_WAITS", default=False)

#: Folders created by operating systems and NAS devices, besides names that begin with a dot.
_NOT_OURS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"})

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """Content hash, size and modification time of a file when it was read or listed.

    Attributes:
        key: BLAKE2b (16 bytes) of its content: `zoo.cache.image_key`.
        size: File size in bytes.
        mtime_ns: Modification time in nanoseconds.
        hashed: Whether `key` is of the content; if not, it stands for the path, size and
            modification time of a file that has only been listed.
    """

    key: bytes
    size: int
    mtime_ns: int
    hashed: bool = True


def fingerprint(path: Path) -> Fingerprint:
    """Compute the fingerprint of a file, without loading all of it into memory.

    Raises:
        DataError: The file can't be read, is not a regular file, or is empty or too large.
    """
    with _opened(path) as file:
        return _fingerprint(file)


def listed(path: Path) -> Fingerprint:
    """Return the fingerprint of a file by path, size and modification time, without reading it.

    A file whose modification time is unreliable is read after all.

    Raises:
        DataError: As `fingerprint`.
    """
    key = file_key(path)
    with suppress(OSError, ValueError):
        state = path.stat()
        _refuse(state)
        if key:
            size, mtime_ns = state.st_size, state.st_mtime_ns
            return Fingerprint(key=key, size=size, mtime_ns=mtime_ns, hashed=False)
    return fingerprint(path)


@contextmanager
def waiting_for_fresh_files() -> Iterator[None]:
    """Within it, `file_key` waits until a file is old enough for a reliable key."""
    token = _WAITS.set(True)
    try:
        yield
    finally:
        _WAITS.reset(token)


def read_file(path: Path, *, same: Fingerprint | None = None) -> bytes:
    """Read all bytes of a file; with `same`, its fingerprint must still be that.

    Raises:
        DataError: As `fingerprint`, or the content has changed.
    """
    with _opened(path) as file:
        now = os.fstat(file.fileno())
        # Compare the content before failing, because the file may only have been touched.
        if same is not None and _differs(same, now, file):
            raise DataError(
                f"{printable(path)} has changed since it was first read", hint="start again"
            )
        file.seek(0)
        return file.read(now.st_size)


def file_key(path: Path) -> bytes:
    """Return a key for absolute path, size and modification time; empty if it is unreliable."""
    for waited in range(_MOST_WAITS + 1):
        try:
            state = path.stat()
        except (OSError, ValueError):
            return b""
        if (age := abs(time.time_ns() - state.st_mtime_ns)) >= _SETTLED_NS:
            break
        if not _WAITS.get() or waited == _MOST_WAITS:
            return b""
        time.sleep((_SETTLED_NS - age) / 1e9)
    # Not resolved, which takes longer than the rest; a file reached by two paths has two keys.
    name = image_key(os.fsencode(path.absolute()))
    return derived_key(name, state.st_size, state.st_mtime_ns)


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL (https://, s3:// ...); as a Path it has one slash only."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def extension(path: str | PurePath) -> str:
    """Return the lower-case extension of a file with its dot; empty if it has none."""
    # pathlib takes several times as long, and this runs for every file of a folder.
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


def is_hidden(name: str) -> bool:
    """Whether a file or folder name is hidden or belongs to the operating system."""
    return name.startswith(".") or name in _NOT_OURS


def _differs(same: Fingerprint, now: os.stat_result, file: BufferedReader) -> bool:
    if (same.size, same.mtime_ns) == (now.st_size, now.st_mtime_ns):
        return False
    return not same.hashed or _fingerprint(file).key != same.key


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file of at most `MAX_BYTES` without blocking."""
    try:
        # Opening a device may have side effects, and opening a pipe waits for a writer.
        _refuse(path.stat())
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            _refuse(os.fstat(file.fileno()))  # It may have been replaced since.
            yield file
    except FileNotFoundError as error:
        reason = "it is a link to nothing" if path.is_symlink() else "there is no such file"
        raise DataError(f"unreadable image {printable(path)}: {reason}") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"unreadable image {printable(path)}: {reason}") from error
    except ValueError as error:  # a name with a NUL in it, or raised by _refuse
        raise DataError(f"unreadable image {printable(path)}: {error}") from error


def _refuse(state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(state.st_mode)), "something else")
        raise ValueError(f"it is {kind}, not a file")
    if state.st_size == 0:
        raise ValueError("it is empty")
    if state.st_size > MAX_BYTES:
        raise ValueError(f"it has {state.st_size:,} bytes; zoo reads up to {MAX_BYTES:,}")


def _fingerprint(file: BufferedReader) -> Fingerprint:
    state = os.fstat(file.fileno())
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=KEY_BYTES)).digest()
    return Fingerprint(key=digest, size=state.st_size, mtime_ns=state.st_mtime_ns)
