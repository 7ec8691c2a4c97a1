"""transformers' classifiers: declared with their layers and preprocessing, and loaded by it."""

import dataclasses
import json
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

import zoo
import zoo_transformers
from tests.conftest import QUICK, eval_input, zoo_
from tests.pipeline.crash import Crash, check_equal, crash_at
from tests.runs.test_round_trip import our_logits
from zoo import plugins
from zoo.data.transforms import to_input
from zoo.errors import OptionError, SizeError
from zoo.events import StepEnd
from zoo.testing import check_backbone

VIT = {
    "model_type": "vit",
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
CONVNEXT = {
    "model_type": "convnext",
    "image_size": 32,
    "patch_size": 4,
    "num_stages": 2,
    "hidden_sizes": [8, 16],
    "depths": [1, 2],
}
CLIP = {
    "model_type": "clip",
    "vision_config": {key: VIT[key] for key in VIT if key != "model_type"},
}

PLUGIN = """
import zoo
import zoo_transformers


@zoo.hookimpl
def zoo_backbones():
    for config in CONFIGS:
        yield zoo_transformers.declare(config, name=config["model_type"])
"""


@pytest.fixture
def acme(install):
    """A plugin with tiny networks."""
    configs = f"CONFIGS = {[VIT, CONVNEXT, CLIP]!r}\n"
    install("acme-transformers", "acme", "acme_transformers", configs + PLUGIN)


def test_every_class_is_declared_or_left_out():
    plugin = plugins.load("transformers")
    names = [*plugin.backbones, *plugin.left_out]
    assert sorted(names) == sorted(f"transformers/{name}" for name in zoo_transformers.NAMES)
    assert {x.name.partition("/")[2] for x in plugin.left_out.values()} == set(
        zoo_transformers.LEFT_OUT
    )
    assert len(plugin.backbones) >= 38


#: All pass the same checks in the sweep of test_sweep.py.
@pytest.mark.parametrize("name", ["convnext", "levit-with-teacher", "mobilevit", "pvt", "siglip"])
@pytest.mark.medium
def test_some_pass_every_check_of_shapes(name):
    results = check_backbone(f"transformers/{name}", shapes_only=True)
    assert {r.check: r.message for r in results if r.status == "failed"} == {}


@pytest.mark.parametrize("config", [VIT, CONVNEXT, CLIP], ids=lambda config: config["model_type"])
def test_tiny_ones_pass_every_check_with_values_too(config):
    backbone = zoo_transformers.declare(config, name=config["model_type"])
    results = check_backbone(backbone)
    assert {r.check: r.message for r in results if r.status == "failed"} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["hgnet_v2", "levit", "mobilenet_v2", "poolformer", "pp_lcnet", "pvt_v2", "swiftformer"]
)
def test_small_ones_pass_every_check_with_values_too(name):
    results = check_backbone(f"transformers/{name}")
    assert {r.check: r.message for r in results if r.status == "failed"} == {}


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("vit", (("vit.embeddings",), ("vit.layers.0",), ("vit.layers.1",), ("vit.layernorm",))),
        (
            "convnext",
            (
                ("convnext.embeddings",),
                ("convnext.encoder.stages.0.layers.0",),
                (
                    "convnext.encoder.stages.1.downsampling_layer",
                    "convnext.encoder.stages.1.layers.0",
                ),
                ("convnext.encoder.stages.1.layers.1",),
                ("convnext.layernorm",),
            ),
        ),
    ],
)
def test_stages_are_embeddings_layers_and_the_last_norm(name, stages, acme):
    backbone = plugins.get(f"acme/{name}")
    assert tuple(backbone.stages(plugins.build(backbone, 3, False))) == stages


@pytest.mark.medium
def test_rates_of_the_configuration_are_options(acme, photos):
    options = {"drop_path_rate": 0.5}
    fields = {**QUICK, "backbone": "acme/convnext", "image_size": 32, "train": "probe"}
    run = zoo.finetune(photos, out="run", backbone_options=options, **fields)
    theirs = AutoModelForImageClassification.from_pretrained(run.path)
    assert theirs.config.drop_path_rate == zoo.load("run").model.config.drop_path_rate == 0.5
    with pytest.raises(OptionError, match="hidden_dropout_prob"):
        zoo.build("acme/convnext", 2, weights="none", options={"hidden_dropout_prob": 0.5})


@pytest.mark.medium
@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_a_run_of_grey_images_is_loaded_by_transformers(name, acme, photos):
    fields = {**QUICK, "backbone": f"acme/{name}", "image_size": 32, "train": "probe"}
    run = zoo.finetune(photos, out="run", backbone_options={"in_chans": 1}, **fields)
    theirs = AutoModelForImageClassification.from_pretrained(run.path).eval()
    assert theirs.config.num_channels == 1
    photo = photos / "red" / "0.png"
    pixels = torch.from_numpy(run.prepare(photo).copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = theirs(to_input(pixels, run.info.preprocess, torch.device("cpu"))).logits
    scores = logits.softmax(dim=1)[0].numpy()
    assert np.allclose(scores, our_logits(run, Image.open(photo)), atol=1e-5)


def test_without_transformers_each_network_says_what_to_install(monkeypatch, fresh_plugins):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("zoo_transformers.metadata.version", missing)
    plugin = plugins.load("transformers")
    assert (plugin.state, len(plugin.backbones)) == ("ok", 0)
    result = zoo_("show", "transformers/vit", code=2)
    assert "pip install 'zoo-finetune[transformers]'" in result.stderr


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((300, 224), Image.Resampling.BICUBIC)


#: As checkpoints on the Hub have them.
PREPROCESSORS = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
    "vit of version 4": {
        "feature_extractor_type": "ViTFeatureExtractor",
        "size": 32,
        "resample": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 36},
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "deit": {
        "image_processor_type": "DeiTImageProcessorFast",
        "size": {"height": 36, "width": 36},
        "crop_size": {"height": 32, "width": 32},
    },
    "convnext": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_pct": 0.875,
    },
    "levit": {
        "image_processor_type": "LevitImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
    },
    "poolformer": {
        "image_processor_type": "PoolFormerImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "crop_pct": 0.8,
    },
    "efficientnet": {
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": 32, "width": 32},
        "image_std": [0.47853944, 0.4732864, 0.47434163],
        "include_top": True,
    },
    "pixels in -1..1": {
        "image_processor_type": "EfficientNetImageProcessor",
        "size": {"height": 32, "width": 32},
        "rescale_factor": 1 / 127.5,
        "rescale_offset": True,
        "do_normalize": False,
        "include_top": False,
    },
}


@pytest.mark.parametrize("preprocessor", PREPROCESSORS.values(), ids=PREPROCESSORS)
def test_pixels_equal_those_of_the_image_processor(preprocessor, picture):
    backbone = zoo_transformers.declare(VIT, name="net", preprocessor=preprocessor)
    named = preprocessor.get("image_processor_type", "ViTImageProcessor").removesuffix("Fast")
    own = {k: v for k, v in preprocessor.items() if not k.endswith("_type")}
    theirs = getattr(transformers, f"{named}Pil")(**own)(picture, return_tensors="pt")
    ours = eval_input(picture, backbone.preprocess)
    assert backbone.preprocess.size == 32
    assert torch.allclose(ours, theirs["pixel_values"][0], atol=1e-5)


def test_networks_of_blue_green_and_red_are_given_these():
    for name in ("mobilevit", "mobilevitv2", "pp_lcnet"):
        backbone = plugins.get(f"transformers/{name}")
        written = backbone.files(("a", "b"), backbone.preprocess)["preprocessor_config.json"]
        assert written["image_processor_type"] in (
            "MobileViTImageProcessor",
            "PPLCNetImageProcessor",
        )
    backbone = plugins.get("transformers/pp_lcnet")
    model = plugins.build(backbone, 3, False).eval()
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert model(images).shape == (1, 3)
    assert torch.equal(seen[0], images.flip(1))


@pytest.mark.parametrize("name", ["vit", "convnext"])
@pytest.mark.medium
def test_a_run_is_loaded_by_transformers_with_equal_scores(name, acme, photos, tmp_path):
    fields = {**QUICK, "backbone": f"acme/{name}", "image_size": None, "checkpoint_every": 1}
    run = zoo.finetune(photos, out=tmp_path / "run", **fields)
    photo = Image.open(photos / "red" / "0.png").convert("RGB")
    model = AutoModelForImageClassification.from_pretrained(run.path).eval()
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    ours = our_logits(run, photo)
    processor = AutoImageProcessor.from_pretrained(run.path, backend="pil")
    with torch.inference_mode():
        scores = model(**processor(photo, return_tensors="pt")).logits.softmax(dim=1)[0]
    assert np.allclose(scores.numpy(), ours, atol=1e-5)
    # Its own resizing may differ by a level of 255.
    found = transformers.pipeline("image-classification", model=str(run.path))(photo)
    assert {x["label"]: x["score"] for x in found} == pytest.approx(
        dict(zip(run.class_names, ours, strict=True)), abs=1e-3
    )
    assert {f.file: f.detail for f in zoo.verify(run.path) if f.state == "wrong"} == {}
    assert {"config.json", "preprocessor_config.json"} <= {f.file for f in zoo.verify(run.path)}
    with pytest.raises(Crash):
        zoo.finetune(photos, out=tmp_path / "crashed", listen=crash_at(2, StepEnd), **fields)
    check_equal(zoo.resume(tmp_path / "crashed"), run)


def test_weights_in_the_names_that_transformers_publishes_are_loaded(acme, tmp_path):
    for name in ("vit", "convnext", "clip"):
        backbone = plugins.get(f"acme/{name}")
        torch.manual_seed(0)
        model = plugins.build(backbone, 5, False)
        model.save_pretrained(tmp_path / name)
        file = tmp_path / name / "model.safetensors"
        if name == "vit":
            assert load_file(file).keys() != model.state_dict().keys()
        loaded = zoo.build(backbone, 3, weights=str(file)).state_dict()
        own = {k: v for k, v in model.state_dict().items() if not k.startswith("classifier")}
        assert all(torch.equal(loaded[key], value) for key, value in own.items())


def test_a_checkpoint_is_declared_with_its_weights(tmp_path):
    config = {**VIT, "architectures": ["ViTForImageClassification"], "num_labels": 4}
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(transformers.AutoConfig.for_model(**config))
    model.save_pretrained(tmp_path / "vit")
    given = json.loads((tmp_path / "vit" / "config.json").read_text())
    weights = zoo.Weights(path=str(tmp_path / "vit" / "model.safetensors"))
    backbone = zoo_transformers.declare(given, name="local", weights=weights)
    results = check_backbone(backbone)
    assert {r.check: r.message for r in results if r.status == "failed"} == {}
    loaded = zoo.build(backbone, 3)
    assert torch.equal(loaded.vit.layers[0].mlp.fc1.weight, model.vit.layers[0].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "bert"}, "'bert'"),
        ({"model_type": "siglip2"}, "it takes patches"),
        ({**VIT, "quantization_config": {"bits": 4}}, "quantized"),
    ],
)
def test_a_configuration_that_cannot_be_a_backbone_is_refused_with_the_reason(config, reason):
    with pytest.raises(ValueError, match=reason):
        zoo_transformers.declare(config, name="net")


def test_position_embeddings_are_resampled_as_transformers_does(acme, tmp_path):
    backbone = plugins.get("acme/vit")
    torch.manual_seed(0)
    model = plugins.build(backbone, 5, False).eval()
    file = tmp_path / "own.safetensors"
    save_file(model.state_dict(), file)
    model.save_pretrained(tmp_path / "published")
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        theirs = model.vit(images, interpolate_pos_encoding=True).last_hidden_state
        for weights in (file, tmp_path / "published" / "model.safetensors"):
            other = zoo.build(backbone, 3, weights=str(weights), image_size=48).eval()
            assert other(images).shape == (2, 3)
            ours = other.vit(images).last_hidden_state
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_size_that_the_patches_do_not_divide_is_refused(acme):
    with pytest.raises(SizeError, match=r"\b44 .*\b8 "):
        zoo.build("acme/vit", 3, weights="none", image_size=44)


def test_the_files_of_a_run_at_another_size_are_of_that_size(acme):
    backbone = plugins.get("acme/clip")
    other = backbone.resized(48)
    config = other.files(("a", "b"), other.preprocess)["config.json"]
    assert config["vision_config"]["image_size"] == 48
    assert other.preprocess == dataclasses.replace(backbone.preprocess, size=48)
