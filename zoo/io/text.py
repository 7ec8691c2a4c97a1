"""Text that others wrote, made harmless where it is shown: terminal, spreadsheet, Markdown."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: Unicode's categories of what a terminal obeys instead of showing it: control characters,
#: direction overrides and other invisible ones, halves of characters, separators of lines.
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

#: Invisible too, but parts of words and of emoji.
_JOINERS = frozenset("\u200c\u200d")

#: What starts markup or a link inside a line of GitHub's Markdown.
_MARKUP = frozenset("\\`*_[]<>|&~$:@")

#: What a spreadsheet takes for the start of a formula, in the forms that Excel knows.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def printable(text: object, *, lines: bool = False) -> str:
    r"""The text with whatever a terminal would obey written as in Python: `\x1b`, `\u202e`.

    Args:
        text: Anything: a class or file name, a path, a plugin's or a library's words.
        lines: Leave line ends and tabs as they are, for text of several lines.
    """
    text = str(text)
    if text.isprintable():
        return text
    kept = _JOINERS | {"\n", "\t"} if lines else _JOINERS
    return "".join(
        repr(c)[1:-1] if unicodedata.category(c) in _OBEYED and c not in kept else c for c in text
    )


def spreadsheet_cell(text: str) -> str:
    """The text as a cell of a CSV file that no spreadsheet takes for a formula.

    `'` is put before what begins as one does, as OWASP advises; else it is as `printable` has it.
    """
    shown = printable(text)
    return f"'{shown}" if shown.lstrip().startswith(_FORMULA) else shown


def markdown(text: str) -> str:
    """The text as part of a line of Markdown: no markup, HTML, link, or end of a table's cell."""
    escaped = "".join(f"\\{c}" if c in _MARKUP else c for c in printable(text))
    # GitHub makes a link of a bare www. too.
    return re.sub(r"(?i)\bwww\.", lambda found: f"{found[0][:-1]}\\.", escaped)


def clip(text: str, most: int = 200) -> str:
    """The text in one line, its middle left out where it is longer than `most` characters."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def listed(names: Sequence[str], most: int = 10) -> str:
    """Names with commas between them; of more than `most` the first, and how many follow."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
