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

#: The signal that a child process has ended; None on Windows.
_CHILD = getattr(signal, "SIGCHLD", None)


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
    replaced: dict[int, Any] = {}

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # A worker process of a data loader, which the run itself ends.
        if _CHILD and _CHILD not in replaced and signal.getsignal(_CHILD) is not None:
            # A signal to all processes of the run also ends the workers of a data loader, and
            # torch's handler would raise a RuntimeError between any two instructions here. A loader
            # that waits for them finds out by itself, within 5 seconds.
            replaced[_CHILD] = signal.signal(_CHILD, lambda signum, frame: None)
        if request.deferred and request.signum is None:
            request.signum = signum
            return
        raise Stopped(signum)

    if threading.current_thread() is threading.main_thread():
        for signum, default in _DEFAULTS.items():
            if signal.getsignal(signum) is default:
                replaced[signum] = signal.signal(signum, handle)
    try:
        yield request
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


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
