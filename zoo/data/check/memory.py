"""What was found, remembered by path, size and time of change of each file."""

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

#: To be raised when something else is noted of a file.
_NOTED = 2

#: A file that changed less than so long ago may change again without another time: the clocks of
#: file systems tick in milliseconds, those of memory cards every two seconds.
_SETTLED_NS = 2_000_000_000


def examined_store() -> Store:
    """What was found in image files by this Pillow and this ImageHash."""
    about = {
        "pillow": PIL.__version__,
        "imagehash": imagehash.__version__,
        "rules": RULES,
        "noted": _NOTED,
    }
    return open_store("examined", about, dtype=np.uint8)


def file_key(path: Path) -> bytes:
    """Stands for absolute path, size and time of change; empty if these don't tell enough."""
    try:
        stat = path.stat()
    except OSError:
        return b""
    if abs(time.time_ns() - stat.st_mtime_ns) < _SETTLED_NS:
        return b""
    # Not resolved, which takes longer than all else here; another way to a file is another key.
    name = image_key(os.fsencode(path.absolute()))
    return derived_key(name, stat.st_size, stat.st_mtime_ns)


def recall(known: Store, key: bytes) -> dict[str, Any] | None:
    """The fields of an `Examined`; None if that key is not remembered."""
    try:
        record = known.get(key)
    except KeyError:
        return None
    fields: dict[str, Any] = json.loads(record.tobytes())
    fields["extremes"] = fields["extremes"] and tuple(fields["extremes"])
    return fields


def remember(store: Store, examined: Iterable[Examined]) -> str:
    """Keep what was found in files that can be used.

    What can't be read is tried again each time: there may be another reason than its bytes.

    Returns:
        Why it could not be kept; empty if it was.
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
