"""The cache folder: location of stores, listing them, making room, clearing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from filelock import FileLock, Timeout

from zoo.cache.records import ENTRY_BYTES, FORMAT, INDEX
from zoo.io.files import home, replacing

#: Kinds of records: a frozen backbone's features (C,), its activations at a stage boundary
#: (C, H, W), decoded and resized images (H, W, 3), results of examining an image file (JSON bytes).
Kind = Literal["features", "activations", "images", "examined"]

#: Kinds of what is listed and deleted: also networks that were converted for another engine, and
#: the measurements of engines, which `zoo.prediction.engines` keeps, and what was read from a
#: network (`zoo.cache.remote`).
StoredKind = Literal[Kind, "engines", "remote"]

ABOUT = "about.json"


@dataclass(frozen=True, kw_only=True)
class StoredEntry:
    """A store on this machine, a converted network, a measurement of engines, or remote files.

    Attributes:
        kind: Kind of its records.
        about: What the records depend on beside the image, or the images/s of the engines that were
            measured; empty if it can't be read.
        path: Folder of the store or network, or file of the measurement.
        bytes: Total size of its files.
        records: Number of arrays, networks, measurements or reads.
        used: When it was last opened for use, or measured.
    """

    kind: StoredKind
    about: Mapping[str, Any]
    path: Path
    bytes: int
    records: int
    used: datetime


@dataclass(frozen=True, kw_only=True)
class Cleared:
    """What `clear` deleted, and the stores that it could not delete."""

    stores: int
    bytes: int
    kept: tuple[StoredEntry, ...]


def root() -> Path:
    """Return the folder of all stores."""
    return home() / "cache"


def remote_root() -> Path:
    """Return the folder of what was read from a network."""
    return home() / "remote"


def describe(about: Mapping[str, Any], dtype: np.dtype[Any]) -> str:
    """Return what a store's records depend on, as canonical JSON.

    Raises:
        TypeError: If it is not JSON-serialisable.
    """
    described = {"about": about, "dtype": dtype.str, "format": FORMAT}
    return json.dumps(described, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def place(kind: Kind, described: str) -> Path:
    """Return the folder of the store of that kind and description."""
    name = hashlib.blake2b(described.encode(), digest_size=16).hexdigest()
    return root() / kind / name


def lock(path: Path) -> FileLock | None:
    """Acquire the lock of the store in that folder; None if another process holds it.

    The lock file is beside the folder and is never deleted, since then two could hold the lock.

    Raises:
        OSError: If the lock file can't be created.
    """
    held = FileLock(path.with_name(f"{path.name}.lock"), thread_local=False)
    try:
        held.acquire(timeout=0)
    except Timeout:
        return None
    return held


def touch(path: Path, described: str, *, write: bool) -> None:
    """Record that the store in that folder is used now, as the modification time of about.json.

    Raises:
        OSError: If it can't be written.
    """
    about = path / ABOUT
    content = described.encode()
    if not write:
        with suppress(OSError):
            os.utime(about)
    elif about.exists() and about.read_bytes() == content:
        os.utime(about)
    else:
        with replacing(about) as beside:
            beside.write_bytes(content)


def stored() -> list[StoredEntry]:
    """Return all that is kept on this machine, the least recently used first."""
    return sorted([*_stores(), *_engines(), *_remote()], key=lambda store: store.used)


def _stores() -> list[StoredEntry]:
    """Return all stores of records, the least recently used first."""
    found = []
    for kind in get_args(Kind):
        for path in (root() / kind).glob("*"):
            if re.fullmatch("[0-9a-f]{32}", path.name) and path.is_dir():
                found.append(_look(kind, path))
    return sorted(found, key=lambda store: store.used)


def _engines() -> list[StoredEntry]:
    """Return the converted networks and the measurements of engines."""
    found = []
    for path in (home() / "engines").glob("*"):
        if not re.fullmatch(r"[0-9a-f]{32}(\.json)?", path.name):
            continue
        # A network is touched at each use.
        files = [path] if path.suffix else [path, *path.glob("*")]
        found.append(
            StoredEntry(
                kind="engines",
                about=_read(path) if path.suffix else {},
                path=path,
                bytes=sum(_size(file) for file in files if not file.is_dir()),
                records=1,
                used=max(map(_modified, files)),
            )
        )
    return found


def _remote() -> list[StoredEntry]:
    """Return the cache of what was read from a network, as a single entry; none if it is empty."""
    files = [*remote_root().glob("[0-9a-f][0-9a-f]/*")]
    if not files:
        return []
    return [
        StoredEntry(
            kind="remote",
            about={},
            path=remote_root(),
            bytes=sum(map(_size, files)),
            records=len(files),
            used=max(map(_modified, files)),
        )
    ]


def clear(kind: StoredKind | None = None, *, older_than_days: float | None = None) -> Cleared:
    """Delete what `stored` returns, except stores that another process uses.

    Args:
        kind: Delete only what is of this kind.
        older_than_days: Delete only what has not been used for so many days.
    """
    now = datetime.now(UTC)
    deleted: list[StoredEntry] = []
    kept: list[StoredEntry] = []
    for store in stored():
        if kind not in (None, store.kind):
            continue
        if older_than_days is not None and now - store.used < timedelta(days=older_than_days):
            continue
        (deleted if _delete(store) else kept).append(store)
    return Cleared(
        stores=len(deleted), bytes=sum(store.bytes for store in deleted), kept=tuple(kept)
    )


def make_room(needed_bytes: int, limit_bytes: int, *, keep: Path) -> bool:
    """Delete the least recently used stores until the others and `needed_bytes` fit in the limit.

    They must also fit on the disk, of which 1 GiB, or 5 % of a small one, stays free. Stores that
    another process uses are never deleted.

    Returns:
        Whether they fit now. If deleting stores can't achieve this, none is deleted.
    """
    stores = _stores()
    over = max(
        sum(store.bytes for store in stores) + needed_bytes - limit_bytes,
        needed_bytes - free_bytes(),
    )
    with ExitStack() as locks:
        chosen: list[StoredEntry] = []
        for store in stores:
            if over <= sum(each.bytes for each in chosen):
                break
            if store.path != keep and (held := _lock_to_delete(store)) is not None:
                locks.callback(held.release)
                chosen.append(store)
        if over > sum(store.bytes for store in chosen):
            return False
        removed = [_remove(store.path) for store in chosen]
        return all(removed)


def _look(kind: Kind, path: Path) -> StoredEntry:
    about = _read(path / ABOUT).get("about")
    sizes = {file.name: _size(file) for file in path.glob("*")}
    return StoredEntry(
        kind=kind,
        about=about if isinstance(about, dict) else {},
        path=path,
        bytes=sum(sizes.values()),
        records=sizes.get(INDEX, 0) // ENTRY_BYTES,
        used=_used(path),
    )


def _read(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty if it can't be read."""
    with suppress(OSError, ValueError, RecursionError):
        read = json.loads(file.read_bytes())
        if isinstance(read, dict):
            return read
    return {}


def _used(path: Path) -> datetime:
    """Return the time of about.json, which is touched at each use, or of the folder without it."""
    about = path / ABOUT
    return _modified(about if about.exists() else path)


def _modified(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return datetime.now(UTC)  # another process deleted it just now


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0  # another process deleted it just now


def free_bytes() -> int:
    """Return the space that caches may take on the disk: 1 GiB, or 5 % of a small one, stays."""
    folder = root()
    while not folder.exists():
        folder = folder.parent
    disk = shutil.disk_usage(folder)
    return disk.free - min(disk.total // 20, 1 << 30)


def _delete(store: StoredEntry) -> bool:
    if store.kind in ("engines", "remote"):  # Nothing is appended, so that no lock is needed.
        return _remove(store.path)
    held = _lock_to_delete(store)
    if held is None:
        return False
    with held:
        return _remove(store.path)


def _lock_to_delete(store: StoredEntry) -> FileLock | None:
    try:
        return lock(store.path)
    except OSError:
        return None


def _remove(path: Path) -> bool:
    """Delete a path; return whether it is gone, as Windows does not delete files in use."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return not path.exists()
