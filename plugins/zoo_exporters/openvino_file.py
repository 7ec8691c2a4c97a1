"""OpenVINO's intermediate representation: NAME.xml and NAME.bin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exporters.program import program, quiet

if TYPE_CHECKING:
    import numpy as np
    import openvino
    from torch import Tensor, nn

#: The package with which OpenVINO's converter reports its use.
_TELEMETRY = "openvino_telemetry"


def write(
    model: nn.Module,
    example: Tensor,
    path: Path,
    metadata: Mapping[str, str],
    *,
    half: bool = False,
    with_resize: bool = False,
) -> None:
    """Write an OpenVINO model, with the metadata as runtime information in the section `zoo`."""
    with quiet(), _without_telemetry():
        import openvino

        converted = openvino.convert_model(program(model, example, with_resize=with_resize))
        converted.inputs[0].get_tensor().set_names({"images"})
        converted.outputs[0].get_tensor().set_names({metadata.get("output_name", "logits")})
        for name, value in metadata.items():
            converted.set_rt_info(value, ["zoo", name])
        openvino.save_model(converted, path, compress_to_fp16=half)


def load(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Load an OpenVINO model on the CPU."""
    # Where the processor has bfloat16, OpenVINO would compute with 8 bits of precision.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    model = _core().compile_model(path, "CPU", exact)

    def compute(images: np.ndarray) -> np.ndarray:
        # A copy: OpenVINO reuses the memory of its output.
        logits: np.ndarray = model([images])[0].copy()
        return logits

    return compute


@cache
def _core() -> openvino.Core:
    """Return the one core of this process, which lives as long as the process.

    On processors with AMX the CPU device gives the thread that first compiles a model a stack for
    signal handlers, and takes it away in the thread that deletes the core. If that is another one
    (the garbage collector runs in any), the next signal ends the process, such as the SIGCHLD of
    a data-loading worker.
    """
    with _without_telemetry():
        import openvino

    return openvino.Core()


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Import OpenVINO without the package that sends usage data to Google Analytics unasked."""
    if "openvino" in sys.modules or _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
