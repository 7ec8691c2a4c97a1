"""LiteRT (TensorFlow Lite) models of one image, with the metadata as files packed into them."""

from __future__ import annotations

import importlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo_exporters.program import quiet, without_native_stderr

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

_NOTE = "the file takes one image at a time: LiteRT's converter fixes the batch size"


def write(
    model: nn.Module,
    example: Tensor,
    path: Path,
    metadata: Mapping[str, str],
    *,
    half: bool = False,
    int8: Iterable[np.ndarray] | None = None,
) -> str:
    """Write a LiteRT model with the input `images` and the output `logits` or `probabilities`.

    The metadata are appended as a ZIP archive, as TensorFlow Lite packs associated files: `unzip`
    reads them, and the runtime ignores them.

    Returns:
        A note that the model takes one image at a time.
    """
    import torch

    class Named(torch.nn.Module):
        """Gives the output its name."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {metadata.get("output_name", "logits"): self.model(images)}

    with quiet(), without_native_stderr():
        # Only `open` needs the runtime; a missing one is reported before computing.
        importlib.import_module("ai_edge_litert")
        import litert_torch

        one = {"images": example[:1]}
        litert_torch.convert(Named().eval(), sample_kwargs=one).export(str(path))
        if half or int8 is not None:
            _quantise(path, int8)
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in metadata.items():
            archive.writestr(name, text)
    return _NOTE


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load a LiteRT model on the CPU; a batch is computed image by image."""
    import numpy as np

    with quiet(), without_native_stderr():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()

    def compute(images: np.ndarray) -> np.ndarray:
        parts = [runner(images=images[n : n + 1]) for n in range(len(images))]
        return np.concatenate([output for part in parts for output in part.values()])

    return compute


def _quantise(path: Path, batches: Iterable[np.ndarray] | None) -> None:
    """Convert weights to float16; with calibration images, weights and activations to 8 bits.

    Weights of 8 bits have a scale per channel. The output stays float32.
    """
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.recipe import AlgorithmName

    names, everything = qtyping.TFLOperationName, ".*"
    converter = quantizer.Quantizer(str(path))
    calibrated: Any = None
    if batches is None:
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        converter.update_quantization_recipe(
            everything,
            names.ALL_SUPPORTED,
            qtyping.OpQuantizationConfig(weight_tensor_config=half, explicit_dequantize=True),
            AlgorithmName.FLOAT_CASTING,
        )
    else:
        converter.add_static_config(
            everything, names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8
        )
        for end in (names.INPUT, names.OUTPUT):
            converter.update_quantization_recipe(
                everything, end, algorithm_key=AlgorithmName.NO_QUANTIZE
            )
        images = [{"images": batch[n : n + 1]} for batch in batches for n in range(len(batch))]
        calibrated = converter.calibrate({"serving_default": images})
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        smaller = Path(folder) / path.name
        converter.quantize(calibrated).export_model(str(smaller))
        smaller.replace(path)
