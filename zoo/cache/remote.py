"""Cache of bytes that were read from a network, on this machine and bounded by size.

Each entry is a file `$ZOO_HOME/remote/AB/KEY`: the BLAKE2b (16 bytes) of its content, then the
content. A file is moved into place when it is complete, and its digest is checked when it is read.
The total size is in the file `bytes` beside them, and changed under a lock before an entry is
written, so that several processes keep to the limit together.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from zoo.cache.folder import free_bytes, remote_root
from zoo.cache.keys import KEY_BYTES
from zoo.errors import CacheError

#: Environment variable with the maximum size of the cache in GB; 0: nothing is kept.
LIMIT = "ZOO_REMOTE_CACHE"

#: Its default, in GB.
LIMIT_GB = 10.0

#: Part of the limit that is left after an eviction.
_LEFT = 0.9

#: Seconds after which the use of an entry is recorded again.
_USED = 60.0

#: Seconds that a process waits for another one that evicts entries, before it keeps nothing.
_WAIT = 10.0

# Threads wait here, because a lock of files is polled.
_HELD = threading.Lock()


def limit_bytes() -> int:
    """Return the maximum total size of the cache in bytes.

    Raises:
        CacheError: `ZOO_REMOTE_CACHE` is not a number of at least 0.
    """
    text = os.environ.get(LIMIT) or str(LIMIT_GB)
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise CacheError(f"{LIMIT} is {text!r}", hint="give a number of GB; 0 keeps nothing")
    return int(limit * 10**9)


def recall(key: bytes) -> bytes | None:
    """Return the content of that key; None if there is none, or it is damaged."""
    path = _place(key)
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:KEY_BYTES], content[KEY_BYTES:]
    if digest != _digest(content):
        with suppress(OSError):
            path.unlink()
        return None
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > _USED:
            os.utime(path)
    return content


def keep(key: bytes, content: bytes) -> bool:
    """Store content under a key; the least recently used entries are evicted for it.

    Returns:
        Whether it is stored: not if it is too large, or the disk is full.

    Raises:
        CacheError: As `limit_bytes`.
    """
    size, limit = len(content) + KEY_BYTES, limit_bytes()
    if size > limit * _LEFT or size > free_bytes():
        return False
    path = _place(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or not _reserve(size, limit):
            return False
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_digest(content) + content)
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError:  # A cache that can't be written only makes the next run slower.
        return False
    return True


def _reserve(size: int, limit: int) -> bool:
    """Add to the total size, after deleting entries if it would exceed the limit."""
    root = remote_root()
    total = root / "bytes"
    with _HELD:
        try:
            with FileLock(root / "lock", timeout=_WAIT, poll_interval=0.002):
                try:
                    used = int(total.read_text())
                except (OSError, ValueError):
                    used = limit  # Unknown, so count.
                if used + size > limit:
                    used = _shrink(int(limit * _LEFT) - size)
                total.write_text(str(used + size))
        except Timeout:
            return False
    return True


def _shrink(target: int) -> int:
    """Delete the entries used longest ago until the rest has that size; return its size."""
    found = []
    for path in remote_root().glob("*/*"):
        with suppress(OSError):
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_size, path))
    used = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if used <= target:
            break
        with suppress(OSError):
            path.unlink()
            used -= size
    return used


def _place(key: bytes) -> Path:
    return remote_root() / key.hex()[:2] / key.hex()


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()
