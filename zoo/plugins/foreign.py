"""What surrounds a plugin's code: nothing of it gets on stdout, and what it raises is explained."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from zoo.errors import ZooError

#: Characters of a plugin's output, and of an error's message, that are shown.
_MOST = 400


@contextmanager
def off_stdout(printed: list[str]) -> Iterator[None]:
    """Keep off stdout what Python code prints inside: stdout is the answer of `zoo`.

    What C libraries or other processes print is not kept off it.

    Args:
        printed: Gets the beginning of what was printed, as one line without control characters,
            if there was any.
    """
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        if not text.closed and (beginning := text.getvalue().strip()):
            printed.append(harmless(beginning))


def harmless(text: str) -> str:
    """The text cut, and on one line: what a terminal would obey is shown as an escape."""
    shown = text[:_MOST]
    rest = " ..." if len(text) > _MOST else ""
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return "".join(escaped) + rest


def explain(error: BaseException) -> str:
    """What a plugin's code raised, in one line; zoo's own errors speak for themselves."""
    try:
        message = str(error).strip()
    except Exception:  # noqa: BLE001 - foreign code raises anything, also when asked for its message
        message = "(its message can't be had)"
    if not isinstance(error, ZooError):
        message = f"{type(error).__name__}: {message}".removesuffix(": ")
    return harmless(message.splitlines()[0] if message else type(error).__name__)
