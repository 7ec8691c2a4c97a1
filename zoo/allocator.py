"""Prevent glibc from returning memory to the system after every layer; imports no torch."""

from __future__ import annotations

import ctypes
import os
import sys

#: Parameters of mallopt(3), as defined in <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

#: Bytes of freed memory that glibc keeps at the end of its heap, and by which the heap grows.
KEPT = 2**28
GROWTH = 2**26

#: Variables with which the user configures glibc; they take precedence.
_ENVIRONMENT = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


_state = "the system's own settings"


def tune() -> str:
    """Configure glibc to keep freed memory for the next layer; call it before torch allocates any.

    By default, glibc requests each block of more than 32 MiB from the system and returns it when it
    is freed, so every layer of a network on a CPU waits until its memory is mapped and zeroed
    again. With mallopt(3), large blocks come from the heap (M_MMAP_MAX = 0), which keeps up to 256
    MiB of freed memory (M_TRIM_THRESHOLD) and grows by 64 MiB (M_TOP_PAD).

    Returns:
        A description of the settings, also returned by `state`.
    """
    global _state
    _state = _tune()
    return _state


def state() -> str:
    """Return a description of the settings of this process' memory allocator."""
    return _state


def _tune() -> str:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        return "the system's own settings (only glibc's are tuned)"
    if os.environ.get("LD_PRELOAD") or any(os.environ.get(name) for name in _ENVIRONMENT):
        return "as the environment says"
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, KEPT), (_M_TOP_PAD, GROWTH))
    if not all(libc.mallopt(parameter, value) for parameter, value in settings):
        return "the system's own settings (glibc refused others)"
    return f"glibc, tuned to keep up to {KEPT >> 20} MiB of freed memory"
