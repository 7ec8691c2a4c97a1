"""Read and validate the header of an untrusted safetensors file, with limits on its size."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.io.parse import MAX_JSON, parse_json

#: Metadata key of the SHA-256 over all other metadata.
METADATA_SHA256 = "metadata_sha256"

_MOST_DIMENSIONS = 16


@dataclass(frozen=True, kw_only=True)
class Header:
    """Header of a safetensors file.

    Attributes:
        metadata: The file's metadata, strings by key.
        shapes: Shapes of the tensors, by name.
        tensor_bytes: Total size of the tensors, in bytes.
    """

    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    tensor_bytes: int


def read_header(path: Path) -> Header:
    """Read and validate the header; the tensors are not read.

    Raises:
        OSError: If the file can't be read.
        ValueError: If it is not a safetensors file, or its size does not match the header.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError("it is truncated, or of another format")
        if length > MAX_JSON:
            raise ValueError(f"its header of {length:,} bytes is longer than {MAX_JSON:,}")
        raw = file.read(length)
    if not raw.startswith(b"{"):
        raise ValueError("it has no header")
    header = parse_json(raw)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is not text by key")
    ends = [_end(name, tensor) for name, tensor in header.items()]
    tensor_bytes = max(ends, default=0)
    if 8 + length + tensor_bytes != size:
        raise ValueError(
            f"its tensors take {size - 8 - length:,} bytes, its header declares {tensor_bytes:,}"
        )
    return Header(
        metadata=metadata,
        shapes={name: tuple(tensor["shape"]) for name, tensor in header.items()},
        tensor_bytes=tensor_bytes,
    )


def metadata_sha256(metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 over the metadata, sorted by key, without the entry of the SHA-256."""
    values = {key: value for key, value in sorted(metadata.items()) if key != METADATA_SHA256}
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _end(name: str, tensor: Any) -> int:
    """Return the end of a tensor's data, in bytes after the header."""
    about = tensor if isinstance(tensor, dict) else {}
    shape, offsets = _whole_numbers(about.get("shape")), _whole_numbers(about.get("data_offsets"))
    if shape is None or len(shape) > _MOST_DIMENSIONS or offsets is None or len(offsets) != 2:
        raise ValueError(f"tensor {name[:100]!r} has no valid shape and position")
    return offsets[1]


def _whole_numbers(value: Any) -> list[int] | None:
    """Return the value if it is a list of non-negative 64-bit integers, else None."""
    good = isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
    return value if good else None
