"""Signals that end a run after it has finished the step and written a checkpoint."""

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

#: The default handler of each signal.
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


@dataclass
class StopRequest:
    """Whether the run was asked to stop.

    Attributes:
        signum: The signal that was received, or None.
        deferred: Whether a signal waits until the current work has ended; else it raises `Stopped`.
    """

    signum: int | None = None
    deferred: bool = False


@contextmanager
def stoppable() -> Iterator[StopRequest]:
    """Make SIGINT and SIGTERM stop the run after the current work; a second one stops it at once.

    This applies only in the main thread, and only if the program has not set its own handler.
    """
    request = StopRequest()
    owner = os.getpid()

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # A worker process of a data loader, which the run itself ends.
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
    """Defer the first signal until the end of the context, which then raises `Stopped`."""
    request.deferred = True
    try:
        yield
    finally:
        request.deferred = False
    if request.signum is not None:
        raise Stopped(request.signum)
