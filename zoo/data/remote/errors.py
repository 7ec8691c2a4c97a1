"""What can go wrong with a network, and when to try again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from zoo.errors import UnavailableError
from zoo.io.text import printable

T = TypeVar("T")

#: How often a file is asked for.
ATTEMPTS = 4

#: Seconds before the second attempt; twice as many before each further one.
BACKOFF = 0.5

#: Most seconds before an attempt, also if the server asks for more.
LONGEST = 30.0

#: Seconds that a server may take to connect or to send more.
SECONDS = 20.0


class TransientError(Exception):
    """An attempt that failed, although another one may succeed.

    Attributes:
        after: Seconds that the server asks to wait; None if it does not.
    """

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def retrying(address: str, attempt: Callable[[], T]) -> T:
    """Call a function until it does not raise a `TransientError`, `ATTEMPTS` times at most.

    Raises:
        UnavailableError: All attempts failed.
    """
    for n in range(ATTEMPTS):
        try:
            return attempt()
        except TransientError as error:
            if n == ATTEMPTS - 1:
                raise UnavailableError(
                    f"can't read {printable(address)}: {printable(error)} ({ATTEMPTS} attempts)",
                    hint="try again later; finished work is kept",
                ) from error
            wait = BACKOFF * 2**n if error.after is None else error.after
            time.sleep(min(wait, LONGEST))
    raise AssertionError


def changed(address: str) -> UnavailableError:
    """Return the error of a file that is no longer the one that was listed."""
    return UnavailableError(
        f"{printable(address)} has changed since it was listed", hint="start again"
    )


def denied(address: str, reason: object) -> UnavailableError:
    """Return the error of missing or insufficient credentials."""
    return UnavailableError(
        f"can't read {printable(address)}: access denied ({printable(reason)})",
        hint="check the credentials, which are read from the environment, and what they permit",
    )
