"""Keys of records: 16 bytes that stand for an image's content."""

from __future__ import annotations

import hashlib
import json

#: Bytes of a key: 128 bits, so that two images never share one by accident.
KEY_BYTES = 16


def image_key(content: bytes) -> bytes:
    """The key of an image: BLAKE2b over its file's bytes, so a renamed photo keeps its records.

    Args:
        content: All bytes of the file.

    Returns:
        16 bytes.
    """
    return hashlib.blake2b(content, digest_size=KEY_BYTES).digest()


def derived_key(key: bytes, *context: object) -> bytes:
    """The key of something made of a record, as `derived_key(key, "view", 3)`.

    Args:
        key: The key that it is derived from, 16 bytes.
        context: What tells it from others made of the same: strings, numbers, booleans, None.

    Returns:
        16 bytes.

    Raises:
        TypeError: JSON can't express the context.
    """
    return hashlib.blake2b(key + json.dumps(context).encode(), digest_size=KEY_BYTES).digest()
