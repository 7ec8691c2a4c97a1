"""The part of predict.py that runs a file of each format."""

ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession(FILE, providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map


def compute(images):
    return session.run(None, {"images": images})[0]
"""

OPENVINO = """\
import openvino

core = openvino.Core()
model = core.read_model(FILE)
metadata = {k: model.get_rt_info(["zoo", k]).astype(str) for k in ("class_names", "thresholds")}
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def compute(images):
    return compiled([images])[0]
"""

EXECUTORCH = """\
import torch
from executorch.runtime import Runtime

program = Runtime.get().load_program(FILE)
metadata = {k: program.load_method(k).execute([])[0] for k in ("class_names", "thresholds")}
model = program.load_method("forward")


def compute(images):
    return model.execute([torch.from_numpy(images)])[0].numpy()
"""

TORCH_EXPORT = """\
import torch

metadata = {"class_names": "", "thresholds": ""}
model = torch.export.load(FILE, extra_files=metadata).module()


@torch.inference_mode()
def compute(images):
    return model(torch.from_numpy(images)).numpy()
"""

LITERT = """\
import zipfile

from ai_edge_litert.interpreter import Interpreter

with zipfile.ZipFile(FILE) as archive:
    metadata = {k: archive.read(k) for k in ("class_names", "thresholds")}
model = Interpreter(str(FILE)).get_signature_runner()


def compute(images):
    return next(iter(model(images=images).values()))
"""
