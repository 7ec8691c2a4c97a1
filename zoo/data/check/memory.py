"""Store of examination results, by the key of each image: path, size and modification time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import imagehash
import numpy as np
import PIL

from zoo.cache import Store, open_store
from zoo.data.image import RULES
from zoo.errors import CacheError

if TYPE_CHECKING:
    from zoo.data.check.examine import Examined

#: Version of the stored fields; increase it when they change.
_NOTED = 3


def examined_store() -> Store:
    """Open the store of results for the installed versions of Pillow and ImageHash."""
    about = {
        "pillow": PIL.__version__,
        "imagehash": imagehash.__version__,
        "rules": RULES,
        "noted": _NOTED,
    }
    return open_store("examined", about, dtype=np.uint8)


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
    """Store the results of usable images.

    Unreadable images are examined again each time, because the cause may not be their content.

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
