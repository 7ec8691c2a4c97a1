"""Parse untrusted JSON and TOML, with limits on size and nesting depth."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

#: Maximum bytes of a JSON text, such as a safetensors header: enough for a million class names.
MAX_JSON = 2**24

#: Maximum characters of a TOML text; a recipe has a few thousand.
MAX_TOML = 2**16

#: Maximum nesting depth of objects and arrays.
MAX_DEPTH = 20

#: Maximum dots in a line of TOML, because tomllib takes quadratic time for dotted keys.
_MAX_DOTS = 200


def read_bounded(path: Path, most: int) -> bytes:
    """Read a file or pipe of at most `most` bytes.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is larger, or a named pipe in a folder, where reading could block forever.
    """
    if path.is_fifo() and not path.is_relative_to("/dev") and not path.is_relative_to("/proc"):
        raise ValueError("it is a pipe")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than the {most:,} bytes that are read")
    return content


def parse_json(content: bytes | str) -> Any:
    """Parse a JSON text; NaN, infinity and duplicate keys are rejected.

    Raises:
        ValueError: If it is not valid JSON, too long, or nested too deeply.
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
    """Parse a TOML text.

    Raises:
        ValueError: If it is not valid TOML, too long, or nested too deeply.
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
        raise ValueError("an object has a duplicate key")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def _bounded(value: Any) -> Any:
    level, depth = [value], 0
    while level:
        # Python refuses to print integers of more than a few thousand digits.
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
