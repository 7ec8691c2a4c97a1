"""Keys of records: 16-byte hashes of an image's content."""

from __future__ import annotations

import hashlib
import json

#: Bytes of a key: 128 bits, so that two images never have the same key by accident.
KEY_BYTES = 16


def image_key(content: bytes) -> bytes:
    """Return an image's key: BLAKE2b of its file's bytes, so a renamed photo keeps its records."""
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()


def derived_key(key: bytes, *context: object) -> bytes:
    """Return the key of data derived from a record, as in `derived_key(key, "view", 3)`.

    Raises:
        TypeError: If the context is not JSON-serialisable.
    """
    return hashlib.blake2b(key + json.dumps(context).encode(), digest_size=KEY_BYTES).digest()
