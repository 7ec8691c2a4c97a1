"""Start of commands that compute: tune the allocator, and import torch and the libraries fast."""

from __future__ import annotations

import atexit
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from zoo import allocator
from zoo.cli.later import defer_compiler


@contextmanager
def starting(*, allocator_tuning: bool = True) -> Iterator[None]:
    """Context in which to import libraries that compute, before anything else allocates memory.

    Garbage collection is off in it and later ignores all objects that exist at its end: what
    modules define is never freed, and scanning it again and again takes a fifth of the time. For
    the same reason nothing is collected when the process ends, which would take a second.

    Pillow's warnings about images are ignored, because zoo reads such an image or reports it.
    """
    if allocator_tuning:
        allocator.tune()
    defer_compiler()
    warnings.filterwarnings("ignore", module=r"PIL\.")
    gc.disable()
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
