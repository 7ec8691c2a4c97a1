"""Signals that end a run: the step is finished, a checkpoint written, then the run ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from zoo.errors import Stopped

#: What each signal does where nobody has taken it over.
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@dataclass
class StopRequest:
    """Whether the run was told to stop.

    Attributes:
        signum: The signal that told so, or None.
        deferred: The signal waits until what is under way has ended; else it raises `Stopped`.
    """

    signum: int | None = None
    deferred: bool = False


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Have SIGINT and SIGTERM stop the run in good order; the second one at once.

    Only in the main thread, and only where the program has no handler of its own.
    """
    request = StopRequest()
    owner = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # A process that loads images for the run, which tells it when to end.
        if request.deferred and request.signum is None:
            request.signum = signum
            return
        raise Stopped(signum)

    taken: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        for signum, default in _DEFAULTS.items():
            if signal.getsignal(signum) is default:
                signal.signal(signum, handle)
                taken.append(signum)
    try:
        yield request
    finally:
        for signum in taken:
            signal.signal(signum, _DEFAULTS[signum])


@contextmanager
def deferring(request: StopRequest) -> Iterator[None]:
    """What happens in here is not cut short by the first signal; `Stopped` comes after it."""
    request.deferred = True
    try:
        yield
    finally:
        request.deferred = False
    if request.signum is not None:
        raise Stopped(request.signum)
