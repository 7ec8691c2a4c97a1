"""Out-of-memory errors: how to recognise them, and how to continue with smaller batches."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from zoo.errors import TrainingError
from zoo.io.text import count

#: Messages of RuntimeErrors for which torch has no class: the CPU's allocator (Linux, Windows),
#: C++, Apple's GPUs, and NVIDIA's libraries, which have their own allocators.
_SAID = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|bad_alloc|MPS backend out of memory"
    r"|STATUS_ALLOC_FAILED"
)

#: Message of oneDNN, which torch uses on CPUs, if there is no memory for the code that it
#: generates. If an operation is not supported, the message names the primitive's descriptor.
_NO_CODE = re.compile(r"could not create a primitive(?! descriptor)")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a device, or this process, is out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and bool(_SAID.search(said) or _NO_CODE.search(said))


def disable_onednn_after(error: BaseException) -> str:
    """Disable oneDNN if this error means that it had no memory for its generated code.

    After such an error, oneDNN fails in that thread even if memory is available again: the error of
    its code generator (`Xbyak::GetError`) persists until it is cleared, which no caller can do.

    Returns:
        What was done, as the end of a sentence; empty if nothing was.
    """
    if not _NO_CODE.search(str(error)):
        return ""
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # A property, untyped.
    return "; and without oneDNN, which can't be used after that, so more slowly"


def free_memory() -> None:
    """Release memory that no tensor uses any more.

    Call it after the `except` block: inside, the error's traceback still refers to the tensors of
    the failed computation.
    """
    # Objects of the failed computation are in the young generations; a full collection takes long.
    gc.collect(1)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def out_of_memory_as(text: str, *, hint: str) -> Iterator[None]:
    """Turn an out-of-memory error into a TrainingError with this text and hint."""
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
    """Apply `compute` to a batch, `most` rows at a time, which is halved when out of memory.

    Args:
        compute: `(rows (n, ...), most) -> rows (n, ...)`; each row depends only on its own input.
        batch: Input of shape (N, ...).
        most: Number of rows at a time.
        what: What is computed, for messages.
        device: Device of the computation.
        say: Called with a warning if the number of rows was reduced.

    Returns:
        The rows (N, ...), and the number of rows at a time to begin with the next time.

    Raises:
        TrainingError: If there is too little memory for one row.
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
            f"continuing with {count(most, 'image')} at a time{left}"
        )
    return rows, most


def _attempt(compute: Callable[[Tensor, int], Tensor], batch: Tensor, most: int) -> Tensor | str:
    """Return the rows or, when out of memory, the text returned by `disable_onednn_after`."""
    try:
        return torch.cat([compute(part, most) for part in torch.split(batch, most)])
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return disable_onednn_after(error)
