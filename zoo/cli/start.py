"""How a command that computes starts: allocator tuned, torch and the libraries imported fast."""

from __future__ import annotations

import atexit
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from zoo import allocator
from zoo.cli.later import put_off_compiler


@contextmanager
def starting(*, allocator_tuning: bool = True) -> Iterator[None]:
    """Import what computes in here, before anything else allocates.

    Garbage collection is off meanwhile, and passes over all that is there from then on: what
    modules define stays anyway, and looking through it again and again takes a fifth of the time.
    For the same reason nothing is collected when the process ends, which takes a second.

    What Pillow warns of while it reads an image is no news to anyone: the image is read or named.
    """
    if allocator_tuning:
        allocator.tune()
    put_off_compiler()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    gc.disable()
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
