"""Declaration of an export format by a plugin."""

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

    A ModuleNotFoundError in `write` or `open` is reported with the package to install, so import
    the format's libraries inside these functions.

    Attributes:
        suffix: File name suffix of the format, such as ".onnx".
        write: `(model, example, path, metadata)`: writes the model to the single file `path`, which
            does not exist yet and ends in `suffix`. `model` is a module in eval mode on the CPU
            that maps images (N, C, H, W) uint8, usually RGB, to logits (N, classes) float32, whose
            softmax or sigmoid is the calibrated probabilities; `example` is a batch of such images;
            the file must accept any N >= 1. `metadata` (class names etc.) is stored inside the
            file.
        open: `path -> (images -> logits)`, both NumPy arrays as above: loads such a file with the
            runtime that its users would use.
        install: Requirement to install the format's libraries with pip, such as "acme[onnx]".
            Default: the name of the missing module.
        runtime: Name of what `open` computes with, such as "onnxruntime", under which
            `zoo predict` uses it as an engine. Default: it is no engine.
        libraries: Distributions whose versions determine what is written and computed; a network
            that was converted by others is converted again.
    """

    suffix: str
    write: Callable[[nn.Module, Tensor, Path, Mapping[str, str]], None]
    open: Callable[[Path], Callable[[np.ndarray], np.ndarray]]
    install: str | None = None
    runtime: str | None = None
    libraries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.suffix.startswith(".") or "/" in self.suffix:
            raise PluginError(f"Exporter: suffix begins with a dot, got {self.suffix!r}")
