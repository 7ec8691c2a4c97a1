"""Isolate plugin code: keep its output off stdout and describe its exceptions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from zoo.errors import ZooError

#: Maximum number of characters shown of a plugin's output, and of an error message.
_MOST = 400


@contextmanager
def off_stdout(printed: list[str]) -> Iterator[None]:
    """Capture what Python code prints inside, because stdout is for the output of `zoo`.

    The output of C libraries and other processes is not captured.

    Args:
        printed: The beginning of the output, if any, is appended to this list, as one line
            without control characters.
    """
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        if not text.closed and (beginning := text.getvalue().strip()):
            printed.append(harmless(beginning))


def harmless(text: str) -> str:
    """Truncate a text and escape control characters, so that it is a single line."""
    shown = text[:_MOST]
    rest = " ..." if len(text) > _MOST else ""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return "".join(escaped) + rest


def explain(error: BaseException) -> str:
    """Describe an exception of a plugin in one line; zoo's errors are shown without their type."""
    try:
        message = str(error).strip()
    except Exception:  # noqa: BLE001 - plugin code can raise anything, also in __str__
        message = "(its message can't be had)"
    if not isinstance(error, ZooError):
        message = f"{type(error).__name__}: {message}".removesuffix(": ")
    return harmless(message.splitlines()[0] if message else type(error).__name__)
