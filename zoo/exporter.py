"""What a plugin declares to export models in a format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import PluginError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A file format that `zoo export` can write.

    A ModuleNotFoundError of `write` or `open` is reported as the package to install, so import the
    format's libraries in them.

    Attributes:
        suffix: With which its files' names end, ".onnx".
        write: `(model, example, path, metadata)`: writes the model as this one file, which exists
            not yet and whose name ends in `suffix`. `model` is a module in eval mode on the CPU
            that maps images (N, 3, H, W) uint8, RGB, to logits (N, classes) float32; `example` is
            such a batch; the file must take any N from 1 on. `metadata` (class names and the like)
            is kept inside the file.
        open: `path -> (images -> logits)`, both NumPy arrays as above: loads such a file by the
            runtime that its users would use.
        install: What pip is given to install the libraries of this format, "acme[onnx]". If
            omitted, the missing module's name.
    """

    suffix: str
    write: Callable[[nn.Module, Tensor, Path, Mapping[str, str]], None]
    open: Callable[[Path], Callable[[np.ndarray], np.ndarray]]
    install: str | None = None

    def __post_init__(self) -> None:
        if not self.suffix.startswith(".") or "/" in self.suffix:
            raise PluginError(f"Exporter: suffix begins with a dot, got {self.suffix!r}")
