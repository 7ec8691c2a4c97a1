"""Archives of torch.export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exporters.program import program, quiet

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


def write(
    model: nn.Module,
    example: Tensor,
    path: Path,
    metadata: Mapping[str, str],
    *,
    half: bool = False,
    with_resize: bool = False,
) -> None:
    """Write a torch.export archive, with the metadata as extra files."""
    import torch

    with quiet():
        found = program(model.half() if half else model, example, with_resize=with_resize)
        torch.export.save(found, path, extra_files=dict(metadata))


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load a torch.export archive."""
    import torch

    with quiet():
        model = torch.export.load(path).module()

    @torch.inference_mode()
    def compute(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = model(torch.from_numpy(images)).numpy()
        return logits

    return compute
