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
metadata = {"class_names": model.get_rt_info(["zoo", "class_names"]).astype(str)}
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def compute(images):
    return compiled([images])[0]
"""

EXECUTORCH = """\
import torch
from executorch.runtime import Runtime

program = Runtime.get().load_program(FILE)
metadata = {"class_names": program.load_method("class_names").execute([])[0]}
model = program.load_method("forward")


def compute(images):
    return model.execute([torch.from_numpy(images)])[0].numpy()
"""

TORCH_EXPORT = """\
import torch

metadata = {"class_names": ""}
model = torch.export.load(FILE, extra_files=metadata).module()


@torch.inference_mode()
def compute(images):
    return model(torch.from_numpy(images)).numpy()
"""
