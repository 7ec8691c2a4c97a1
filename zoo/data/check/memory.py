"""Store of examination results, by path, size and modification time of each file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagehash
import numpy as np
import PIL

from zoo.cache import Store, derived_key, image_key, open_store
from zoo.data.image import RULES
from zoo.errors import CacheError

if TYPE_CHECKING:
    from zoo.data.check.examine import Examined

#: Version of the stored fields; increase it when they change.
_NOTED = 2

#: Age in nanoseconds below which a file may change again with the same modification time: file
#: systems store times in milliseconds, those of memory cards in steps of two seconds.
_SETTLED_NS = 2_000_000_000


def examined_store() -> Store:
    """Open the store of results for the installed versions of Pillow and ImageHash."""
    about = {
        "pillow": PIL.__version__,
        "imagehash": imagehash.__version__,
        "rules": RULES,
        "noted": _NOTED,
    }
    return open_store("examined", about, dtype=np.uint8)


def file_key(path: Path) -> bytes:
    """Return a key for absolute path, size and modification time; empty if it is unreliable."""
    try:
        stat = path.stat()
    except OSError:
        return b""
    if abs(time.time_ns() - stat.st_mtime_ns) < _SETTLED_NS:
        return b""
    # Not resolved, which takes longer than the rest; a file reached by two paths has two keys.
    name = image_key(os.fsencode(path.absolute()))
    return derived_key(name, stat.st_size, stat.st_mtime_ns)


def recall(known: Store, key: bytes) -> dict[str, Any] | None:
    """Return the stored fields of an `Examined`; None if the key is not stored."""
    try:
        record = known.get(key)
    except KeyError:
        return None
    fields: dict[str, Any] = json.loads(record.tobytes())
    fields["extremes"] = fields["extremes"] and tuple(fields["extremes"])
    return fields


def remember(store: Store, examined: Iterable[Examined]) -> str:
    """Store the results of usable files.

    Unreadable files are examined again each time, because the cause may not be their content.

    Returns:
        Why the results could not be stored; empty if they were.
    """
    new = [(each.key, _packed(each)) for each in examined if each.key and each.key not in store]
    try:
        store.append(new)
    except CacheError as error:
        return str(error)
    return (store.blocked or "") if new else ""


def _packed(examined: Examined) -> np.ndarray:
    fields = asdict(examined)
    del fields["key"], fields["problem"]
    return np.frombuffer(json.dumps(fields, separators=(",", ":")).encode(), dtype=np.uint8)
