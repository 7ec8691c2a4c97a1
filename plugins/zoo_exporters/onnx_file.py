"""ONNX models, written by torch.onnx and run by ONNX Runtime."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_exporters.program import program, quiet

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.export import ExportedProgram

#: Bytes of weights above which torch writes a second file, near protobuf's limit of 2 GB.
_LARGEST = 1536 * 1024 * 1024

#: Oldest opset that torch writes.
_OLDEST_OPSET = 18

#: The operators with weights, which are quantised.
_QUANTISED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


def write(
    model: nn.Module,
    example: Tensor,
    path: Path,
    metadata: Mapping[str, str],
    *,
    opset: int | None = None,
    half: bool = False,
    int8: Iterable[np.ndarray] | None = None,
    with_resize: bool = False,
) -> None:
    """Write an ONNX model with the input `images` and the output `logits` or `probabilities`.

    Raises:
        ModuleNotFoundError: If a required library is not installed.
        ValueError: If the weights are too large for one file, or there is no such opset.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # Includes the runtime that only `open` needs, to report missing libraries before computing.
    for library in ("onnx", "onnxscript", "onnxruntime"):
        importlib.import_module(library)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > _LARGEST:
        raise ValueError(f"one ONNX file holds 1.6 GB of weights at most, these are {size:,} bytes")
    if opset is not None:
        _check_opset(opset)
    output = metadata.get("output_name", "logits")
    dynamic = {0: "batch", 1: "height", 2: "width"} if with_resize else {0: "batch"}
    # torch.onnx decomposes attention as this backend does; results of others have other strides,
    # which views that were traced can't take if the attention has a mask or a bias.
    with quiet(), sdpa_kernel(SDPBackend.MATH):
        try:
            traced = program(model.half() if half else model, example, with_resize=with_resize)
            exported: Any = torch.onnx.export(
                _with_known_attention(traced),
                verbose=False,
                input_names=["images"],
                output_names=[output],
                opset_version=opset,
                dynamic_shapes=(dynamic,),
            )
        except torch.onnx.OnnxExporterError as error:
            raise _root(error) from error
        written = exported.model.opset_imports[""]
        if opset is not None and written != opset:
            raise ValueError(f"torch can't convert this model to opset {opset}, only to {written}")
        exported.model.metadata_props.update(metadata)
        if int8 is None:
            exported.save(path, external_data=False)
        else:
            _quantise(exported, path, int8)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load an ONNX model with ONNX Runtime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def compute(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {"images": images})[0]
        return logits

    return compute


def _check_opset(opset: int) -> None:
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if not _OLDEST_OPSET <= opset <= newest:
        raise ValueError(
            f"there is no opset {opset} for it: the installed libraries write opsets "
            f"{_OLDEST_OPSET} to {newest}"
        )


def _with_known_attention(traced: ExportedProgram) -> ExportedProgram:
    """Decompose attention if torch.onnx can't: it knows queries of four dimensions only."""
    import torch

    aten = torch.ops.aten
    attention = aten.scaled_dot_product_attention.default
    queries = (node.args[0] for node in traced.graph.nodes if node.target is attention)
    if all(query.meta["val"].dim() == 4 for query in queries):
        return traced

    def decomposed(*args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
        return result

    changed: ExportedProgram = traced.run_decompositions({attention: decomposed})
    return changed


class _Calibration:
    """Batches of images as ONNX Runtime's calibration reads them."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _quantise(exported: Any, path: Path, batches: Iterable[np.ndarray]) -> None:
    """Write a model with 8-bit weights, per channel, and activations.

    Only operators with weights are quantised. Weights use 7 of the 8 bits, because processors
    without VNNI instructions add two products of 8 bits in 16 and would saturate.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        whole, prepared = Path(folder) / "float.onnx", Path(folder) / "prepared.onnx"
        exported.save(whole, external_data=False)
        # Folds batch norms, so that they are not between a convolution and its activation.
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        weights = {tensor.name for tensor in graph.initializer}
        without = [
            node.name
            for node in graph.node
            if node.op_type == "MatMul" and weights.isdisjoint(node.input)
        ]
        quantization.quantize_static(
            prepared,
            path,
            _Calibration(batches),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=_QUANTISED,
            nodes_to_exclude=without,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(exported.model.metadata_props))
    onnx.save(model, path)


def _root(error: Exception) -> Exception:
    """Return the root cause of an ONNX exporter error; its own text is advice to developers."""
    cause = error.__cause__
    return _root(cause) if isinstance(cause, Exception) else error
