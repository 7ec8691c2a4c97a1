"""torch.export programs with a dynamic batch, and silence around torch's exporters."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram


def program(
    model: nn.Module, example: Tensor, *, with_resize: bool = False, max_batch: int | None = None
) -> ExportedProgram:
    """Trace a model for up to `max_batch` images; with `with_resize`, of any height and width."""
    import torch

    dynamic: dict[int, Any] = {}
    if max_batch != 1:
        dynamic[0] = torch.export.Dim("batch", max=max_batch)
    if with_resize:
        dynamic |= {1: torch.export.Dim("height", min=2), 2: torch.export.Dim("width", min=2)}
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=(dynamic,))


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output, logs and warnings of exporters, meant for their developers.

    Errors are still raised.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            with redirect_stderr(io.StringIO()):
                yield
    finally:
        logging.disable(before)


@contextmanager
def without_native_stderr() -> Iterator[None]:
    """Drop what C++ code writes to stderr, such as notes on the processor."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
