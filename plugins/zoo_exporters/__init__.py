"""Exporters to ONNX, OpenVINO, torch.export, ExecuTorch and LiteRT: `zoo export RUN --to onnx`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import zoo
from zoo_exporters import (
    executorch_file,
    litert_file,
    onnx_file,
    openvino_file,
    scripts,
    torch_archive,
)


@zoo.hookimpl
def zoo_exporters() -> Mapping[str, zoo.Exporter]:
    """Register the formats, with those that can't be written, and why."""
    return {
        "onnx": zoo.Exporter(
            suffix=".onnx",
            write=onnx_file.write,
            open=onnx_file.load,
            install="zoo-finetune[onnx]",
            options=("half", "int8", "opset", "with_resize"),
            script=scripts.ONNX,
            requires=("onnxruntime",),
            runtime="onnxruntime",
            libraries=("onnx", "onnxscript"),
        ),
        "openvino": zoo.Exporter(
            suffix=".xml",
            companions=(".bin",),
            write=openvino_file.write,
            open=openvino_file.load,
            install="zoo-finetune[openvino]",
            options=("half", "with_resize"),
            script=scripts.OPENVINO,
            requires=("openvino",),
            runtime="openvino",
        ),
        "torch-export": zoo.Exporter(
            suffix=".pt2",
            write=torch_archive.write,
            open=torch_archive.load,
            options=("half", "with_resize"),
            script=scripts.TORCH_EXPORT,
            requires=("torch",),
        ),
        "executorch": zoo.Exporter(
            suffix=".pte",
            write=executorch_file.write,
            open=executorch_file.load,
            install="zoo-finetune[executorch]",
            script=scripts.EXECUTORCH,
            requires=("executorch", "torch"),
        ),
        "litert": zoo.Exporter(
            suffix=".tflite",
            write=litert_file.write,
            open=litert_file.load,
            install="zoo-finetune[litert]",
            options=("half", "int8"),
            script=scripts.LITERT,
            requires=("ai-edge-litert",),
            libraries=("litert-torch", "ai-edge-quantizer"),
        ),
        "coreml": _unavailable(
            ".mlpackage",
            "only macOS runs Core ML, so zoo could not compare the file with the run; export to "
            "torch-export, and convert that file on a Mac with coremltools.convert",
        ),
    }


def _unavailable(suffix: str, reason: str) -> zoo.Exporter:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(reason)

    return zoo.Exporter(suffix=suffix, write=refuse, open=refuse, unavailable=reason)
