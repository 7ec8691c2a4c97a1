"""ExecuTorch programs for CPUs, whose operators are computed by XNNPACK."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exporters.program import program, quiet

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.export import ExportedProgram

#: Images that a program takes at once, at most. Its memory is planned for as many.
_LARGEST_BATCH = 16


def write(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ExecuTorch program, with the metadata as methods that return them."""
    with quiet():
        # Only `open` needs the runtime; a missing one is reported before computing.
        importlib.import_module("executorch.runtime")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            _contiguous(program(model, example, max_batch=_LARGEST_BATCH)),
            partitioner=[XnnpackPartitioner()],
            constant_methods=dict(metadata),
        )
        path.write_bytes(lowered.to_executorch().buffer)


def _contiguous(exported: ExportedProgram) -> ExportedProgram:
    """Replace channels-last by contiguous tensors, which all of ExecuTorch's operators support.

    XNNPACK chooses the memory format of what it computes itself.
    """
    import torch

    for node in exported.graph.nodes:
        if "memory_format" in node.kwargs:
            node.kwargs = {**node.kwargs, "memory_format": torch.contiguous_format}
    return exported


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load an ExecuTorch program with its Python runtime; large batches are computed in parts."""
    import numpy as np
    import torch

    with quiet(), _without_native_stderr():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
    largest = method.metadata.input_tensor_meta(0).sizes()[0]

    def compute(images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), largest)
        parts = [torch.from_numpy(images[n : n + largest]) for n in starts]
        return np.concatenate([method.execute([part])[0].numpy() for part in parts])

    return compute


@contextmanager
def _without_native_stderr() -> Iterator[None]:
    """Drop what C++ code writes to stderr, such as ExecuTorch's notes on the processor."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
