"""How a command that computes starts: allocator tuned, torch and the libraries imported fast."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from zoo import allocator


@contextmanager
def starting(*, allocator_tuning: bool = True) -> Iterator[None]:
    """Import what computes in here, before anything else allocates.

    Garbage collection stands still meanwhile: what modules define stays anyway, and looking through
    it again and again takes a fifth of the time.
    """
    if allocator_tuning:
        allocator.tune()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
