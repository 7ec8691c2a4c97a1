"""Other people's software loads what zoo writes, with the same scores."""

import json
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import zoo
from tests.conftest import QUICK, eval_input


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("zoo/efficientnet_lite0", marks=pytest.mark.medium),
        "timm/test_vit",
        "timm/test_efficientnet",
    ],
)
def timm_run(request, photos, tmp_path_factory) -> zoo.Run:
    fields = {**QUICK, "backbone": request.param}
    if request.param == "timm/test_vit":
        del fields["image_size"]
    if request.param.startswith("zoo/"):
        fields["weights"] = "pretrained"
    return zoo.finetune(photos, out=tmp_path_factory.mktemp("timm") / "run", **fields)


@pytest.fixture
def photo(photos) -> Image.Image:
    return Image.open(photos / "red" / "0.png").convert("RGB")


def our_logits(run: zoo.Run, photo: Image.Image) -> np.ndarray:
    """The probabilities without the temperature, which other libraries know nothing of."""
    run = replace(run, info=replace(run.info, temperature=1.0))
    return np.array([dict(p.top)[n] for p in run.predict(photo) for n in run.class_names])


def test_timm_loads_the_folder(timm_run, photo):
    model = timm.create_model(f"local-dir:{timm_run.path}", pretrained=True).eval()
    assert model.pretrained_cfg["label_names"] == ["blue", "green", "red"]
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    with torch.inference_mode():
        scores = model(transform(photo)[None]).softmax(dim=1)[0]
    assert np.allclose(scores.numpy(), our_logits(timm_run, photo), atol=1e-5)


def test_transformers_loads_the_folder(timm_run, photo):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(timm_run.path).eval()
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    processor = AutoImageProcessor.from_pretrained(timm_run.path)
    with torch.inference_mode():
        scores = model(**processor(photo, return_tensors="pt")).logits.softmax(dim=1)[0]
    assert np.allclose(scores.numpy(), our_logits(timm_run, photo), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "mobilenet_v3_small", pytest.param("resnet18", marks=pytest.mark.slow)],
)
def test_torchvision_loads_the_weights(name, photos, photo, tmp_path):
    from torchvision import models

    run = zoo.finetune(photos, out=tmp_path / "run", **{**QUICK, "backbone": name})
    model = models.get_model(name, weights=None, num_classes=3)
    model.load_state_dict(load_file(run.path / "model.safetensors"))
    config = json.loads((run.path / "config.json").read_text())
    assert (config["architecture"], config["library_name"]) == (name, "torchvision")
    assert config["label_names"] == ["blue", "green", "red"]
    with torch.inference_mode():
        batch = eval_input(photo, run.info.preprocess)[None]
        scores = model.eval()(batch).softmax(dim=1)[0]
    assert np.allclose(scores.numpy(), our_logits(run, photo), atol=1e-5)
