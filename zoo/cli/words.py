"""Numbers as people read them."""

from __future__ import annotations


def human_size(size: float) -> str:
    """Bytes, as "1.44 MB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def count(number: int, noun: str) -> str:
    """A number of things, as "1 file" or "2 files"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
