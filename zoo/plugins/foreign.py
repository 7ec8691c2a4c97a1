"""Isolate plugin code: keep its output off stdout and describe its exceptions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from zoo.errors import ZooError
from zoo.io.text import clip, printable

#: Maximum number of characters shown of a plugin's output, and of an error message.
_MOST = 400


@contextmanager
def off_stdout(printed: list[str]) -> Iterator[None]:
    """Capture what Python code prints inside, because stdout is for the output of `zoo`.

    The output of C libraries and other processes is not captured.

    Args:
        printed: The output, if any, is appended to this list, as one line that is shortened and
            has no control characters.
    """
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield
    finally:
        if not text.closed and (output := clip(text.getvalue(), _MOST)):
            printed.append(printable(output))


def explain(error: BaseException) -> str:
    """Describe an exception of a plugin in one line; zoo's errors are shown without their type."""
    try:
        message = str(error).strip()
    except Exception:  # noqa: BLE001 - plugin code can raise anything, also in __str__
        message = "(str() of it fails)"
    if not isinstance(error, ZooError):
        message = f"{type(error).__name__}: {message}".removesuffix(": ")
    first_line = message.splitlines()[0] if message else type(error).__name__
    return printable(clip(first_line, _MOST))
