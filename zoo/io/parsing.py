"""JSON and TOML that others wrote: bounded in size and depth before anything looks at them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

#: Bytes of a JSON text, such as a safetensors header: enough for a million class names.
MAX_JSON = 2**24

#: Bytes of a TOML text; a recipe has some thousand.
MAX_TOML = 2**16

#: Objects and arrays inside each other.
MAX_DEPTH = 20

#: Parts of a dotted key. tomllib takes the square of their number in steps.
_MAX_DOTS = 200


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file, or of a pipe, that must not be larger than `most` bytes.

    Raises:
        OSError: It can't be read.
        ValueError: It is larger, or a pipe left in a folder, into which nobody may ever write.
    """
    if path.is_fifo() and not path.is_relative_to("/dev") and not path.is_relative_to("/proc"):
        raise ValueError("it is a pipe")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than the {most:,} bytes that are read")
    return content


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text; NaN and infinity are no JSON, nor is a key that comes twice.

    Raises:
        ValueError: It is no JSON, too long, or too deep.
    """
    if len(content) > MAX_JSON:
        raise ValueError(f"it is longer than {MAX_JSON:,} bytes")
    text = content.decode() if isinstance(content, bytes) else content
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    return _bounded(value)


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text.

    Raises:
        ValueError: It is no TOML, too long, or too deep.
    """
    if len(text) > MAX_TOML:
        raise ValueError(f"it is longer than {MAX_TOML:,} characters")
    if any(line.count(".") > _MAX_DOTS for line in text.split("\n")):
        raise ValueError(f"a line has more than {_MAX_DOTS} dots")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise _too_deep() from None
    _bounded(table)
    return table


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice in one object")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _bounded(value: Any) -> Any:
    level, depth = [value], 0
    while level:
        # Python can't even show those of more than some thousand digits.
        if any(isinstance(v, int) and abs(v) >= 2**63 for v in level):
            raise ValueError("a whole number is beyond 64 bits")
        containers = [v for v in level if isinstance(v, dict | list)]
        level = [v for c in containers for v in (c.values() if isinstance(c, dict) else c)]
        depth += bool(containers)
        if depth > MAX_DEPTH:
            raise _too_deep()
    return value


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
