"""Declaration of an export format by a plugin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import PluginError

if TYPE_CHECKING:
    import numpy as np

#: Options of an export that a format may support.
OPTIONS = ("half", "int8", "opset", "with_resize")


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """A file format that `zoo export` can write.

    A ModuleNotFoundError in `write` or `open` is reported with the package to install, so import
    the format's libraries inside these functions.

    Attributes:
        suffix: File name suffix of the format, such as ".onnx".
        write: `(model, example, path, metadata, **options)`: writes the model to the single file
            `path`, which does not exist yet and ends in `suffix`. `model` is a module in eval mode
            on the CPU that maps images (N, C, H, W) uint8, usually RGB, to logits (N, classes)
            float32, whose softmax or sigmoid is the calibrated probabilities, or to these
            probabilities (`metadata["output_name"]` says which); `example` is a batch of such
            images; `open` must accept any N >= 1. `metadata` (class names etc., text by name) is
            stored inside the file. `options` are those in `options` that are asked for, none
            otherwise:

            - `half=True`: weights are stored as float16; `model.half()` converts the classifier,
              and leaves input and output as they are.
            - `int8=images`: quantise weights per channel, and activations, calibrated on an
              iterable of batches of images, NumPy arrays like `example`.
            - `opset=N`: the version of the operators.
            - `with_resize=True`: `model` and `example` take images (N, H, W, C) uint8, and the file
              must accept any H and W >= 2.

            Returns what users of this file must know, for the output and the report, or None.
        open: `path -> (images -> logits)`, both NumPy arrays as above: loads such a file with the
            runtime that its users would use.
        install: Requirement to install the format's libraries with pip, such as "acme[onnx]".
            Default: the name of the missing module.
        options: Names of the supported options, of `OPTIONS`.
        script: Python code that runs a file without zoo, for the predict.py that is written beside
            it: given `FILE`, a pathlib.Path, it defines `metadata`, a mapping with at least
            `class_names` and `thresholds`, and `compute(images)`, as `open` returns it. None: there
            is no script.
        companions: Suffixes of further files that `write` writes and `open` reads, named like
            `path` with that suffix in place of `suffix`, such as ".bin".
        requires: Distributions that running a file needs, for pip: those of `open` and `script`.
            predict.py and its Dockerfile install them.
        libraries: Further distributions that determine what `write` writes; those who run a file
            need not install them. The versions of both and of torch are part of the metadata, and
            after an upgrade of one, `zoo predict` converts a network again.
        unavailable: Reason why this format can't be written here, with a remedy; None if it can.
        runtime: Name of what `open` computes with, such as "onnxruntime", by which it can be chosen
            as the engine of predictions and features. Default: it is no engine.
    """

    suffix: str
    write: Callable[..., str | None]
    open: Callable[[Path], Callable[[np.ndarray], np.ndarray]]
    install: str | None = None
    options: tuple[str, ...] = ()
    script: str | None = None
    companions: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    unavailable: str | None = None
    runtime: str | None = None

    def __post_init__(self) -> None:
        if not self.suffix.startswith(".") or "/" in self.suffix:
            raise PluginError(f"Exporter: suffix begins with a dot, got {self.suffix!r}")
        if unknown := [option for option in self.options if option not in OPTIONS]:
            raise PluginError(
                f"Exporter: unknown option {unknown[0]!r}; options are {', '.join(OPTIONS)}"
            )

    def files(self, path: Path) -> list[Path]:
        """Return `path`, a file of this format, and its companions."""
        stem = path.name.removesuffix(self.suffix)
        return [path, *(path.with_name(stem + suffix) for suffix in self.companions)]
