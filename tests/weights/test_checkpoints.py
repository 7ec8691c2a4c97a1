"""Backbones that are named by a checkpoint: hf-hub:OWNER/NAME and local-dir:PATH."""

import json
import shutil

import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from timm.models import save_for_hf

import zoo
from tests.backbones.test_transformers import VIT
from tests.conftest import QUICK, zoo_
from tests.pipeline.crash import Crash, check_equal, crash_at
from tests.runs.forging import forge, take_apart
from tests.weights.conftest import COMMIT
from zoo import plugins
from zoo.errors import RunError, WeightsError, WeightsUnavailableError
from zoo.events import StepEnd

CARD = "---\nlicense: cc-by-4.0\nlibrary_name: timm\n---\n# A tiny network\n"

#: What a run needs besides QUICK's to start from a checkpoint.
FIELDS = {k: v for k, v in QUICK.items() if k not in ("weights", "backbone", "image_size")}


def publish(folder, architecture="test_resnet", **options):
    """A checkpoint as timm pushes it to the Hub, of a network with 12 classes of its own."""
    torch.manual_seed(1)
    model = timm.create_model(architecture, num_classes=12, **options)
    save_for_hf(model, folder, safe_serialization=True)
    (folder / "README.md").write_text(CARD)
    return folder


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


def dry_run(name, *more, code=0):
    return zoo_("finetune", "--backbone", name, "--dry-run", "--out", "run", *more, code=code)


@pytest.mark.medium
def test_a_run_from_the_hub_loads_without_it_and_in_timm(repositories, photos, monkeypatch):
    published = publish(repositories / "acme" / "tiny")
    fields = {**FIELDS, "backbone": "hf-hub:acme/tiny", "image_size": 64, "data": photos}
    run = zoo.finetune(out="run", **fields)
    assert run.info.backbone == f"timm/hf-hub:acme/tiny@{COMMIT}"
    assert "cc-by-4.0" in run.info.weights_source
    assert zoo.load("run").backbone.weights.num_classes == 12
    model = timm.create_model(f"local-dir:{run.path}", pretrained=True).eval()
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), run.model.cpu()(pixels), atol=1e-5, rtol=0)
    with pytest.raises(Crash):
        zoo.finetune(out="crashed", checkpoint_every=1, listen=crash_at(2, StepEnd), **fields)
    check_equal(zoo.resume("crashed"), run)
    assert run.evaluate().accuracy == run.info.val_accuracy
    # Elsewhere: no cache, no Hub.
    shutil.rmtree(published)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "elsewhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    image = Image.new("RGB", (64, 64), "red")
    assert zoo.load("run").predict(image) == run.predict(image)
    assert {found.state for found in zoo.verify("run")} == {"ok"}


@pytest.mark.medium
def test_a_run_from_a_folder_starts_from_its_weights_and_outlives_it(photos, tmp_path):
    folder = publish(tmp_path / "mine")
    started_from = load_file(folder / "model.safetensors")
    name = f"local-dir:{folder}"
    run = zoo.finetune(photos, out="run", train="probe", **{**FIELDS, "backbone": name})
    assert run.info.backbone == f"timm/{name}"
    trained = run.model.state_dict()
    assert all(
        torch.equal(tensor, started_from[key])
        for key, tensor in trained.items()
        if not key.startswith("fc.")
    )
    shutil.rmtree(folder)
    assert zoo.load("run").class_names == run.class_names
    # A run folder is a checkpoint too.
    again = plugins.get(f"local-dir:{run.path}")
    assert again.weights.num_classes == len(run.class_names)
    assert again.weights.license is None  # The run says nothing of a licence, whatever timm's are.
    assert zoo.weights.load(again, "pretrained").state_dict.keys() == trained.keys()


@pytest.mark.slow
def test_a_vision_transformer_of_the_hub_is_built_for_another_size(repositories, photos):
    publish(repositories / "acme" / "vit", "test_vit")
    change_config(repositories / "acme" / "vit", model_args={"img_size": [160, 160]})
    name = "hf-hub:acme/vit@main"
    fields = {**FIELDS, "backbone": name, "image_size": 96, "train": "probe"}
    run = zoo.finetune(photos, out="run", **fields)
    assert run.info.preprocess.size == 96
    assert zoo.load("run").info.backbone.endswith(f"acme/vit@{COMMIT}")


@pytest.mark.slow
def test_a_checkpoint_of_transformers_comes_back_to_it(repositories, photos, monkeypatch):
    torch.manual_seed(1)
    config = transformers.ViTConfig(**{**VIT, "num_labels": 12})
    transformers.ViTForImageClassification(config).save_pretrained(repositories / "acme" / "vit")
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3)
    processor.save_pretrained(repositories / "acme" / "vit")
    (repositories / "acme" / "vit" / "README.md").write_text(CARD)
    fields = {**FIELDS, "backbone": "hf-hub:acme/vit", "checkpoint_every": 1, "data": photos}
    run = zoo.finetune(out="run", **fields)
    assert run.info.backbone == f"transformers/hf-hub:acme/vit@{COMMIT}"
    assert "cc-by-4.0" in run.info.weights_source
    assert run.info.preprocess.interpolation == "bicubic"
    with pytest.raises(Crash):
        zoo.finetune(out="crashed", listen=crash_at(2, StepEnd), **fields)
    check_equal(zoo.resume("crashed"), run)
    assert run.evaluate().accuracy == run.info.val_accuracy
    shutil.rmtree(repositories / "acme")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "elsewhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(run.path).eval()
    ours = zoo.load("run").model.cpu()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(pixels).logits, ours(pixels), atol=1e-5, rtol=0)
    assert {found.state for found in zoo.verify("run")} == {"ok"}


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "bert"},
        {"model_type": None},
        {"image_size": "large"},
        {"hidden_size": "wide"},
        {"patch_size": 0},
        {"architectures": 5},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
    ],
)
@pytest.mark.medium
def test_a_configuration_of_transformers_that_lies_is_one_message(tmp_path, values):
    (tmp_path / "config.json").write_text(json.dumps({**VIT, **values}))
    result = dry_run(f"local-dir:{tmp_path}", code=2)
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_configuration_of_transformers_with_another_class_count_is_one_message(tmp_path):
    folder = tmp_path / "vit"
    config = transformers.ViTConfig(**{**VIT, "num_labels": 12})
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    change_config(folder, id2label={str(number): f"class {number}" for number in range(13)})
    result = dry_run(f"local-dir:{folder}", code=2)
    assert "classifier.weight (12" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cached_repository_is_used_when_the_hub_is_offline(repositories, monkeypatch):
    publish(repositories / "acme" / "tiny")
    once = zoo.weights.load(plugins.get("hf-hub:acme/tiny"), "pretrained")
    zoo.weights.checkpoint._open_hub.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = zoo.weights.load(plugins.get("hf-hub:acme/tiny"), "pretrained")
    assert again.source == once.source
    with pytest.raises(WeightsUnavailableError, match="HF_HUB_OFFLINE"):
        plugins.get("hf-hub:acme/other")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf-hub:acme/gated-net", ["acme/gated-net", "HF_TOKEN"]),
        ("hf-hub:acme/missing", ["acme/missing", "private", "HF_TOKEN"]),
        ("hf-hub:acme/tiny@v9", ["acme/tiny", "v9"]),
        ("hf-hub:acme/empty", ["acme/empty", "config.json"]),
        ("hf-hub:not a name", ["not a name"]),
        ("hf-hub:", ["hf-hub:"]),
        ("local-dir:nowhere", ["nowhere", "config.json"]),
        ("local-dir:", ["config.json"]),
    ],
)
def test_what_can_not_be_opened_is_one_message(repositories, name, said):
    publish(repositories / "acme" / "tiny")
    (repositories / "acme" / "empty").mkdir()
    result = dry_run(name, code=2)
    assert all(word in result.stderr for word in said)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"architecture": "no_such_net"}, "no_such_net"),
        ({"architecture": "test_vit"}, "test_vit"),
        ({"num_classes": 13}, "fc.weight (12"),
        ({"num_classes": "many"}, "num_classes"),
        ({"num_classes": 10**9}, "num_classes"),
        ({"pretrained_cfg": {"mean": [0, 0]}}, "mean"),
        ({"pretrained_cfg": 5}, "config.json"),
        ({"model_args": {"in_chans": 5}}, "5 channels"),
        ({"model_args": {"no_such_option": 5}}, "no_such_option"),
        ({"model_args": 5}, "config.json"),
    ],
)
@pytest.mark.medium
def test_a_configuration_that_lies_is_one_message(tmp_path, values, said):
    folder = publish(tmp_path / "mine")
    change_config(folder, **values)
    result = dry_run(f"local-dir:{folder}", code=2)
    assert str(folder) in result.stderr
    assert said in result.stderr or values.get("architecture") == "test_vit"
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": NaN}', b"[" * 1000])
def test_a_damaged_configuration_is_one_message(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json"):
        plugins.get(f"local-dir:{tmp_path}")


def test_a_checkpoint_that_is_only_a_pickle_is_read_as_tensors_alone(tmp_path):
    folder = publish(tmp_path / "mine")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    backbone = plugins.get(f"local-dir:{folder}")
    assert len(zoo.weights.load(backbone, "pretrained").state_dict) > 0
    torch.save({"fc.weight": print}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin.*print"):
        zoo.weights.load(backbone, "pretrained")


@pytest.mark.slow
def test_a_run_can_not_ask_for_a_network_larger_than_its_file(photos, tmp_path):
    folder = publish(tmp_path / "mine", "test_vit")
    run = zoo.finetune(
        photos, out="run", train="probe", **{**FIELDS, "backbone": f"local-dir:{folder}"}
    )
    file = run.path / "model.safetensors"
    original = file.read_bytes()
    definition = json.loads(take_apart(file)[0]["__metadata__"]["definition"])
    for options in ({"embed_dim": 2**20}, {"depth": 10**6}):
        definition["config"]["model_args"] = options
        forge(file, definition=json.dumps(definition))
        with pytest.raises(WeightsError, match="larger"):
            zoo.load("run")
        file.write_bytes(original)
    for broken in ("5", "{", '{"config": 5}', '{"config": {"architecture": "resnet18"}}'):
        forge(file, definition=broken)
        with pytest.raises((RunError, WeightsError, zoo.ZooError)):
            zoo.load("run")
        file.write_bytes(original)
