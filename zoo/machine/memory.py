"""Memory that is too small: how that is known, and going on with less at once."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from zoo.errors import TrainingError

#: What RuntimeErrors say for which torch has no class: the CPU's allocator (Linux, Windows), C++,
#: Apple's GPUs, and NVIDIA's libraries, which allocate for themselves.
_SAID = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|bad_alloc|MPS backend out of memory"
    r"|STATUS_ALLOC_FAILED"
)

#: What oneDNN says, with which torch computes on CPUs, when there is no memory for the code that it
#: generates. That it has no such operation, it says of the primitive's descriptor.
_NO_CODE = re.compile(r"could not create a primitive(?! descriptor)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or this process, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and bool(_SAID.search(said) or _NO_CODE.search(said))


def leave_onednn(error: BaseException) -> str:
    """Compute without oneDNN from now on, if this error says that it had no memory for its code.

    It fails in that thread from then on, however much memory there is again: its generator's error
    (`Xbyak::GetError`) stays until it is cleared, which nothing outside can do.

    Returns:
        What was done, in words to go on with; empty if nothing was.
    """
    if not _NO_CODE.search(str(error)):
        return ""
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # A property, untyped.
    return "; and without oneDNN, which can't go on after that, so more slowly"


def free_memory() -> None:
    """Give back what no tensor needs any more.

    To be called after an `except` block: inside, the error's traceback holds on to the tensors of
    what failed.
    """
    # What failed just now is young; to look through all that a process ever made takes long.
    gc.collect(1)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def out_of_memory_as(text: str, *, hint: str) -> Iterator[None]:
    """Turn running out of memory into a TrainingError of this text and hint."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(text, hint=hint) from error


def in_parts(
    compute: Callable[[Tensor, int], Tensor],
    batch: Tensor,
    most: int,
    *,
    what: str,
    device: torch.device,
    say: Callable[[str], None],
) -> tuple[Tensor, int]:
    """What `compute` gives for a batch, `most` rows at a time, or half of that where memory ends.

    Args:
        compute: `(rows (n, ...), most) -> rows (n, ...)`, each of its own.
        batch: (N, ...).
        most: Rows at a time.
        what: Is computed, in words.
        device: Computes it.
        say: Called with a warning if it went on with fewer.

    Returns:
        The rows (N, ...), and how many went at a time: to begin with the next time.

    Raises:
        TrainingError: Memory is too small for one row.
    """
    given, left = most, ""
    while isinstance(rows := _attempt(compute, batch, most), str):
        left = left or rows
        if most == 1:
            raise TrainingError(
                f"{device} has too little memory for {what} of a single image",
                hint="free some of it, or use another `device` or a smaller backbone",
            )
        free_memory()
        most = (most + 1) // 2
    if most < given:
        say(
            f"{device} ran out of memory in computing {what}; "
            f"went on with {most} images at a time{left}"
        )
    return rows, most


def _attempt(compute: Callable[[Tensor, int], Tensor], batch: Tensor, most: int) -> Tensor | str:
    """The rows, or as `leave_onednn` says where memory ended."""
    try:
        return torch.cat([compute(part, most) for part in torch.split(batch, most)])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return leave_onednn(error)
