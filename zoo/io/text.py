"""Escape untrusted text for output to terminals, spreadsheets and Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: Unicode categories that a terminal interprets instead of showing: control characters, direction
#: overrides and other invisible characters, surrogates, line and paragraph separators.
_INTERPRETED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

#: Invisible characters that are kept, because words and emoji contain them.
_JOINERS = frozenset("\u200c\u200d")

#: Characters that start markup or a link within a line of GitHub Flavored Markdown.
_MARKUP = frozenset("\\`*_[]<>|&~$:@")

#: Characters that start a formula in a spreadsheet, with the full-width forms that Excel accepts.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def printable(text: object, *, lines: bool = False) -> str:
    r"""Escape the characters that a terminal would interpret, as Python does: `\x1b`, `\u202e`.

    Args:
        text: Any object: a class or file name, a path, a message of a plugin or library.
        lines: Keep line ends and tabs, for text of several lines.
    """
    text = str(text)
    if text.isprintable():
        return text
    kept = _JOINERS | {"\n", "\t"} if lines else _JOINERS
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) in _INTERPRETED and c not in kept else c
        for c in text
    )


def spreadsheet_cell(text: str) -> str:
    """Escape a text for a CSV cell, so that no spreadsheet interprets it as a formula.

    Text that starts like a formula is prefixed with `'`, as OWASP advises, after `printable`.
    """
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def markdown(text: str) -> str:
    """Escape a text for a line of Markdown: no markup, HTML, links or ends of table cells."""
    escaped = "".join(f"\\{c}" if c in _MARKUP else c for c in printable(text))
    # GitHub also turns a bare www. into a link.
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:-1]}\\.", escaped)


def clip(text: str, most: int = 200) -> str:
    """Return the text as one line, shortened in the middle to at most `most` characters."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def count(number: int, noun: str, plural: str = "") -> str:
    """Format a number of things, as "1 image", "2,000 images" or, with `plural`, "2 classes"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Join names with commas; of more than `most`, give the first ones and the number of others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
