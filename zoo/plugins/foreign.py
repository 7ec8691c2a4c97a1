"""What surrounds a plugin's code while it is loaded: no output on stdout, no more than its time."""

from __future__ import annotations

import io
import math
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO, cast

from zoo.errors import PluginError, ZooError

#: Environment variable with the seconds that a plugin may take to load; 0 is no limit.
TIMEOUT = "ZOO_PLUGIN_TIMEOUT"

_DEFAULT_TIMEOUT = 60.0

#: Characters of a plugin's output, and of an error's message, that are shown.
_MOST = 400


class _StillLoading(BaseException):
    """Time is up. No Exception, which the plugin's own code may well catch."""


def timeout() -> float:
    """Seconds that a plugin may take to load; 0 is no limit.

    Raises:
        PluginError: The environment says something else than a number of seconds.
    """
    text = os.environ.get(TIMEOUT, "").strip()
    if not text:
        return _DEFAULT_TIMEOUT
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 1e6:
        raise PluginError(
            f"{TIMEOUT}={text!r} in the environment: give the seconds that a plugin may take to "
            f"load, or 0 for no limit"
        )
    return seconds


@contextmanager
def time_limit(seconds: float, module: str) -> Iterator[None]:
    """Stop what runs inside after so many seconds, be it a Python loop or a call that waits.

    By a signal: a thread could stop neither, and libraries that set signal handlers could not be
    imported in one. Where there is none (Windows, another thread than the main one), or while C
    code runs that never comes back to Python, there is no limit.

    Args:
        seconds: 0 is no limit.
        module: The plugin's module, to say where in it the time went.

    Raises:
        PluginError: Time was up; says where.
    """
    if seconds == 0 or not _can_be_interrupted():
        yield
        return

    def stop(_signal: int, frame: FrameType | None) -> None:
        raise _StillLoading(
            f"still loading after {seconds:g} s, in {_where(frame, module)} "
            f"({TIMEOUT}=SECONDS gives it longer)"
        )

    started = time.monotonic()
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, stop)
    # Again every second, for code that catches the first.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _StillLoading as error:
        raise PluginError(str(error)) from None
    finally:
        # Once more: an alarm may have come just before the first.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            left = remaining - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001), interval)


@contextmanager
def off_stdout(printed: list[str]) -> Iterator[None]:
    """Keep off stdout what is printed inside, by Python or below it; it is part of `zoo`'s answer.

    Args:
        printed: Gets the beginning of what was printed, as one line without control characters,
            if there was any.
    """
    # A file, not a pipe: a C library that fills a pipe while it holds the interpreter's lock would
    # wait for ever.
    with tempfile.TemporaryFile() as file:
        stdout = sys.stdout
        _flush(stdout)
        saved = _duplicate(1)
        if saved is not None:
            os.dup2(file.fileno(), 1)
        # Unbuffered, so that what both levels print keeps its order.
        text = io.TextIOWrapper(
            io.FileIO(os.dup(file.fileno()), "w"),
            encoding="utf-8",
            errors="backslashreplace",
            write_through=True,
        )
        stand_in = _StandIn(text)
        sys.stdout = cast("TextIO", stand_in)
        try:
            yield
        finally:
            sys.stdout = stdout
            stand_in.target = stdout
            _flush(stdout)
            if saved is not None:
                os.dup2(saved, 1)
                os.close(saved)
            with suppress(OSError, ValueError):
                text.close()
            file.seek(0)
            beginning = file.read(4 * _MOST + 1).decode(errors="replace").strip()
            if beginning:
                printed.append(harmless(beginning))


class _StandIn:
    """Stands for sys.stdout while a plugin is loaded, and passes all on to it afterwards.

    A logger or console that the plugin made keeps the stream it found.
    """

    def __init__(self, target: TextIO) -> None:
        self.target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


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


def _can_be_interrupted() -> bool:
    return (
        hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        # Set by C code; Python could not put it back.
        and signal.getsignal(signal.SIGALRM) is not None
    )


def _where(frame: FrameType | None, module: str) -> str:
    """The innermost line of the plugin's own package, else the innermost of all."""
    package = module.partition(".")[0]
    innermost = frame
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package:
            break
        frame = frame.f_back
    found = frame or innermost
    return f"{found.f_code.co_filename} line {found.f_lineno}" if found else "unknown code"


def _duplicate(descriptor: int) -> int | None:
    try:
        return os.dup(descriptor)
    except OSError:  # It is closed: nothing can come out of it.
        return None


def _flush(stdout: TextIO | None) -> None:
    """Empty every buffer before stdout: Python's, and the C library's."""
    for stream in (stdout, sys.__stdout__):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()
    if os.name == "posix":
        import ctypes

        ctypes.CDLL(None).fflush(None)
