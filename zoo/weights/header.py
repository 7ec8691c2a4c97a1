"""The header of a safetensors file, bounded and checked before anything is made of it; its seal."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.io.parsing import MAX_JSON, parse_json

#: Key in the metadata of the SHA-256 over the header itself.
SEAL = "header_sha256"

#: What the SHA-256 is taken over in its own place.
UNSEALED = "0" * 64

_SEAL_IN_HEADER = re.compile(rb'"header_sha256":"([0-9a-f]{64})"')
_MOST_DIMENSIONS = 16


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a safetensors file says before its tensors.

    Attributes:
        metadata: Text by key.
        shapes: Of each tensor, by name.
        tensor_bytes: Of all tensors together.
        seal: `intact`, `broken`, or `none` in a file that bears no seal.
    """

    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    tensor_bytes: int
    seal: str


def read_header(path: Path) -> Header:
    """Read and check the header; nothing else of the file is read.

    Raises:
        OSError: It can't be read.
        ValueError: It is no header of a safetensors file, or not of one of this size.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError("it is cut off, or none")
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
        raise ValueError(f"its header tells of {tensor_bytes:,} bytes of tensors, not of its own")
    return Header(
        metadata=metadata,
        shapes={name: tuple(tensor["shape"]) for name, tensor in header.items()},
        tensor_bytes=tensor_bytes,
        seal=_seal_of(start + raw),
    )


def seal(content: bytes) -> tuple[bytes, memoryview]:
    """A safetensors file's bytes, its header sealed: (the header, all that follows).

    The header is all of the file before the tensors: length, metadata, names, types, shapes,
    places, padding. A byte of it that changes breaks the seal. Its metadata is put in order, which
    safetensors leaves to chance, so that the same run leaves the same bytes.

    Args:
        content: As safetensors writes it, with `UNSEALED` as the metadata's `SEAL`.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = _in_order(content[:end])
    digest = hashlib.sha256(header).hexdigest()
    mark = f'"{SEAL}":"'
    sealed = header.replace(f'{mark}{UNSEALED}"'.encode(), f'{mark}{digest}"'.encode())
    return sealed, memoryview(content)[end:]


def _in_order(header: bytes) -> bytes:
    """The header of the same length, its metadata first and sorted."""
    about = json.loads(header[8:])
    details = about.pop("__metadata__")
    about = {"__metadata__": dict(sorted(details.items())), **about}
    text = json.dumps(about, separators=(",", ":"), ensure_ascii=False).encode()
    ordered = header[:8] + text.ljust(len(header) - 8)
    return ordered if len(ordered) == len(header) else header


def seal_file(path: Path) -> None:
    """Seal the header of a file in place, whatever the size of its tensors.

    Raises:
        OSError: It can't be read or written.
    """
    with path.open("r+b") as file:
        start = file.read(8)
        header, _ = seal(start + file.read(int.from_bytes(start, "little")))
        file.seek(0)
        file.write(header)


def _seal_of(header: bytes) -> str:
    found = list(_SEAL_IN_HEADER.finditer(header))
    if not found:
        return "broken" if f'"{SEAL}"'.encode() in header else "none"
    if len(found) > 1:
        return "broken"
    first, last = found[0].span(1)
    unsealed = header[:first] + UNSEALED.encode() + header[last:]
    return "intact" if hashlib.sha256(unsealed).hexdigest().encode() == found[0][1] else "broken"


def _end(name: str, tensor: Any) -> int:
    """Where a tensor ends, counted from the header's end."""
    about = tensor if isinstance(tensor, dict) else {}
    shape, offsets = _whole_numbers(about.get("shape")), _whole_numbers(about.get("data_offsets"))
    if shape is None or len(shape) > _MOST_DIMENSIONS or offsets is None or len(offsets) != 2:
        raise ValueError(f"tensor {name[:100]!r} has no proper shape and place")
    return offsets[1]


def _whole_numbers(value: Any) -> list[int] | None:
    """The list if it is one of whole numbers from 0 on that 64 bits hold."""
    good = isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
    return value if good else None
