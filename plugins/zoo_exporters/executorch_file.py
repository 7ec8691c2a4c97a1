"""ExecuTorch programs for CPUs, whose operators are computed by XNNPACK."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_exporters.program import program, quiet, without_native_stderr

if TYPE_CHECKING:
    import numpy as np
    from executorch.exir import EdgeProgramManager
    from executorch.exir.backend.partitioner import PartitionResult
    from torch import Tensor, nn
    from torch.export import ExportedProgram
    from torch.fx import Node

#: Images that a program takes at once, at most. Its memory is planned for as many.
_LARGEST_BATCH = 16

#: Operations of a converted network, at most. The converter's memory grows with their square: it
#: needs more than 24 GB for 26,000, into which recurrent layers are unrolled.
_MOST_OPERATIONS = 20_000

_ONE_BY_ONE = "the file takes one image at a time: ExecuTorch can't vary this network's batch size"


def write(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> str | None:
    """Write an ExecuTorch program, with the metadata as methods that return them.

    Returns:
        A note if the program takes only one image at a time.

    Raises:
        ModuleNotFoundError: If a required library is not installed.
        RuntimeError: If the network has too many operations.
    """
    with quiet():
        # Only `open` needs the runtime; a missing one is reported before computing.
        importlib.import_module("executorch.runtime")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        class Partitioner(XnnpackPartitioner):  # type: ignore[misc]
            def partition(self, exported_program: ExportedProgram) -> PartitionResult:
                count = sum(node.op == "call_function" for node in exported_program.graph.nodes)
                if count > _MOST_OPERATIONS:
                    raise RuntimeError(
                        f"ExecuTorch converts networks of {_MOST_OPERATIONS:,} operations at most, "
                        f"this one has {count:,} (each step of a recurrent layer has its own)"
                    )
                return super().partition(exported_program)

        def lowered(most: int) -> EdgeProgramManager:
            """Convert the model for up to `most` images."""
            return to_edge_transform_and_lower(
                _contiguous(
                    _without_negative_padding(program(model, example[:most], max_batch=most))
                ),
                partitioner=[Partitioner()],
                constant_methods=dict(metadata),
            )

        try:
            found = lowered(_LARGEST_BATCH)
            fixed = _takes_one_size(found)
        except ValueError:
            # Raised by torch where the strides of a view depend on the batch size.
            fixed = True
        if fixed:
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


def _without_negative_padding(exported: ExportedProgram) -> ExportedProgram:
    """Replace padding by negative sizes, which ExecuTorch's operators refuse, by slices."""
    import torch
    from torch._decomp import get_decompositions

    aten = torch.ops.aten

    def pad(
        images: Tensor, sizes: list[int], mode: str = "constant", value: float | None = None
    ) -> Any:
        if mode != "constant" or min(sizes, default=0) >= 0:
            return NotImplemented
        for number, (before, after) in enumerate(zip(sizes[::2], sizes[1::2], strict=True), 1):
            length = images.shape[-number] + min(before, 0) + min(after, 0)
            images = images.narrow(-number, max(-before, 0), length)
        return aten.constant_pad_nd(images, [max(size, 0) for size in sizes], value or 0)

    def constant_pad(images: Tensor, sizes: list[int], value: float = 0) -> Any:
        return pad(images, sizes, value=value)

    def crops(node: Node) -> bool:
        if node.target is aten.col2im.default:
            return True
        sizes: Any = node.args[1] if node.target in table else ()
        return any(isinstance(size, int) and size < 0 for size in sizes)

    table: dict[Any, Callable[..., Any]] = {
        aten.pad.default: pad,
        aten.constant_pad_nd.default: constant_pad,
        # That of `torch.nn.functional.fold`, which removes its padding by negative sizes.
        **get_decompositions([aten.col2im.default]),
    }
    if not any(crops(node) for node in exported.graph.nodes):
        return exported
    changed: ExportedProgram = exported.run_decompositions(table)
    return changed


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
