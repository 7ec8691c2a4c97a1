"""ExecuTorch programs for CPUs, whose operators are computed by XNNPACK."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exporters.program import program, quiet, without_native_stderr

if TYPE_CHECKING:
    import numpy as np
    from executorch.exir import EdgeProgramManager
    from torch import Tensor, nn
    from torch.export import ExportedProgram

#: Images that a program takes at once, at most. Its memory is planned for as many.
_LARGEST_BATCH = 16

_ONE_BY_ONE = "the file takes one image at a time: ExecuTorch can't vary this network's batch size"


def write(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> str | None:
    """Write an ExecuTorch program, with the metadata as methods that return them.

    Returns:
        A note if the program takes only one image at a time.
    """
    with quiet():
        # Only `open` needs the runtime; a missing one is reported before computing.
        importlib.import_module("executorch.runtime")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        def lowered(most: int) -> EdgeProgramManager:
            """Convert the model for up to `most` images."""
            return to_edge_transform_and_lower(
                _contiguous(program(model, example[:most], max_batch=most)),
                partitioner=[XnnpackPartitioner()],
                constant_methods=dict(metadata),
            )

        found = lowered(_LARGEST_BATCH)
        if fixed := _takes_one_size(found):
            found = lowered(1)
        path.write_bytes(found.to_executorch().buffer)
    return _ONE_BY_ONE if fixed else None


def _takes_one_size(lowered: EdgeProgramManager) -> bool:
    """Return whether the conversion has fixed the batch size at that of the example."""
    from torch.fx.experimental.symbolic_shapes import is_concrete_int

    exported = lowered.exported_program()
    (name,) = exported.graph_signature.user_inputs
    (images,) = (node for node in exported.graph.nodes if node.name == name)
    return is_concrete_int(images.meta["val"].shape[0])


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

    with quiet(), without_native_stderr():
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
    largest = method.metadata.input_tensor_meta(0).sizes()[0]

    def compute(images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), largest)
        parts = [torch.from_numpy(images[n : n + largest]) for n in starts]
        return np.concatenate([method.execute([part])[0].numpy() for part in parts])

    return compute
