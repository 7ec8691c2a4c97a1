"""Exporters to ONNX and torch.export archives: `zoo export RUN --to onnx`."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.export import ExportedProgram

#: Bytes of weights above which torch writes a second file, near protobuf's limit of 2 GB.
_LARGEST_ONNX = 1536 * 1024 * 1024


@zoo.hookimpl
def zoo_exporters() -> Mapping[str, zoo.Exporter]:
    """Register the ONNX and torch.export formats."""
    return {
        "onnx": zoo.Exporter(
            suffix=".onnx",
            write=write_onnx,
            open=open_onnx,
            install="zoo-finetune[onnx]",
            runtime="onnxruntime",
            libraries=("onnx", "onnxruntime", "onnxscript"),
        ),
        "torch-export": zoo.Exporter(
            suffix=".pt2", write=write_torch_export, open=open_torch_export
        ),
    }


def write_torch_export(
    model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]
) -> None:
    """Write a torch.export archive, with the metadata as extra files."""
    import torch

    with _quiet():
        torch.export.save(_program(model, example), path, extra_files=dict(metadata))


def open_torch_export(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load a torch.export archive."""
    import torch

    with _quiet():
        model = torch.export.load(path).module()

    @torch.inference_mode()
    def compute(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = model(torch.from_numpy(images)).numpy()
        return logits

    return compute


def write_onnx(model: nn.Module, example: Tensor, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX model with the input `images` and the output `logits`.

    Raises:
        ModuleNotFoundError: If a required library is not installed.
        ValueError: If the weights are too large for one file.
    """
    import torch

    # Includes the runtime that only `open` needs, to report missing libraries before computing.
    for library in ("onnx", "onnxscript", "onnxruntime"):
        importlib.import_module(library)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _LARGEST_ONNX:
        raise ValueError(f"one ONNX file holds 1.6 GB of weights at most, these are {size:,} bytes")
    with _quiet():
        try:
            exported: Any = torch.onnx.export(
                _program(model, example),
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: "batch"},),
            )
        except torch.onnx.OnnxExporterError as error:
            raise _root(error) from error
        exported.model.metadata_props.update(metadata)
        exported.save(path, external_data=False)


def open_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load an ONNX model with ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def compute(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(["logits"], {"images": images})[0]
        return logits

    return compute


def _program(model: nn.Module, example: Tensor) -> ExportedProgram:
    import torch

    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(model, (example,), dynamic_shapes=({0: batch},))


def _root(error: Exception) -> Exception:
    """Return the root cause of an ONNX exporter error; its own text is advice to developers."""
    cause = error.__cause__
    return _root(cause) if isinstance(cause, Exception) else error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the output, logs and warnings of torch's exporters, meant for their developers.

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
