"""Backbones of fixed input size, at another: built, their weights resampled, trained, read back."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models.vision_transformer import interpolate_embeddings

import zoo
from tests.backbones.meta import no_values
from tests.conftest import QUICK
from tests.pipeline.conftest import hear
from tests.runs.forging import forge, take_apart
from tests.runs.test_round_trip import our_logits
from zoo import plugins
from zoo.errors import RunError, SizeError
from zoo.models.build import build
from zoo.models.head import in_head
from zoo.models.size import resized
from zoo_timm.models import quiet_resampling


def own_weights(name, file):
    """Random weights of the network at its own size, in a file."""
    torch.manual_seed(0)
    backbone = plugins.get(name)
    model = plugins.build(backbone, None, False)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, file)
    return backbone, model.state_dict()


@pytest.mark.parametrize(
    ("name", "size", "moved"),
    [
        ("test_vit", 96, "pos_embed"),
        pytest.param("deit_tiny_distilled_patch16_224", 160, "pos_embed", marks=pytest.mark.slow),
        ("test_vit_relpos", 96, ""),
        ("test_coatnet", 192, "stages.2.blocks.0.attn.rel_pos.relative_position_bias_table"),
        pytest.param(
            "swin_tiny_patch4_window7_224",
            112,
            "layers.3.blocks.0.attn.relative_position_bias_table",
            marks=pytest.mark.slow,
        ),
        pytest.param("swinv2_tiny_window8_256", 192, "", marks=pytest.mark.slow),
        pytest.param("swinv2_cr_tiny_ns_224", 256, "", marks=pytest.mark.slow),
        pytest.param(
            "beit_base_patch16_224",
            160,
            "blocks.0.attn.relative_position_bias_table",
            marks=pytest.mark.slow,
        ),
        pytest.param("eva02_tiny_patch14_224", 280, "pos_embed", marks=pytest.mark.slow),
        pytest.param(
            "maxvit_tiny_rw_224",
            256,
            "stages.0.blocks.0.attn_block.attn.rel_pos.relative_position_bias_table",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_timms_weights_are_resampled_as_timm_does(name, size, moved, tmp_path):
    file = tmp_path / "own.safetensors"
    backbone, original = own_weights(f"timm/{name}", file)
    other = resized(backbone, size)
    assert (other.name, other.preprocess.size) == (f"timm/{name}", size)

    model = build(other, 3, weights=str(file)).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, size, size)).shape == (1, 3)

    # The file that timm would have downloaded.
    with quiet_resampling():
        theirs = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, img_size=size
        ).state_dict()
    loaded = model.state_dict()
    body = [k for k in theirs if not in_head(k, backbone.head_paths)]
    assert all(torch.equal(loaded[k], theirs[k]) for k in body)
    changed = {k for k in body if original[k].shape != loaded[k].shape}
    assert moved in changed if moved else not changed


def test_torchvisions_position_embeddings_are_resampled_as_torchvision_does():
    given = {"encoder.pos_embedding": torch.rand(1, 50, 768), "conv_proj.bias": torch.rand(768)}
    converted = plugins.convert(resized(plugins.get("torchvision/vit_b_32"), 160), dict(given))
    theirs = interpolate_embeddings(160, 32, dict(given))
    assert converted["encoder.pos_embedding"].shape == (1, 26, 768)
    assert all(torch.equal(converted[k], theirs[k]) for k in theirs)


@pytest.mark.slow
def test_torchvisions_weights_are_resampled_and_the_network_runs(tmp_path):
    file = tmp_path / "own.safetensors"
    backbone, original = own_weights("torchvision/vit_b_32", file)
    model = build(resized(backbone, 160), 3, weights=str(file)).eval()
    theirs = interpolate_embeddings(160, 32, dict(original))
    assert torch.equal(model.state_dict()["encoder.pos_embedding"], theirs["encoder.pos_embedding"])
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 160, 160)).shape == (1, 3)


def test_weights_that_fit_stay_as_they_are(tmp_path):
    for name, size in [("timm/test_vit", 96), ("torchvision/vit_b_32", 64)]:
        other = resized(plugins.get(name), size)
        with no_values():
            state_dict = plugins.build(other, None, False).state_dict()
        converted = plugins.convert(other, dict(state_dict))
        assert converted.keys() == state_dict.keys()
        assert all(converted[k] is v for k, v in state_dict.items())


def test_a_model_for_ones_own_loop_is_built_at_another_size():
    model = zoo.build("timm/test_vit", 3, weights="none", image_size=96).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 96, 96)).shape == (1, 3)
    # A network that takes any size needs no building for it.
    model = zoo.build("timm/test_efficientnet", 3, weights="none", image_size=96).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 96, 96)).shape == (1, 3)


@pytest.mark.slow
def test_a_head_of_another_class_count_does_not_hinder_resampling():
    backbone = plugins.get("timm/test_vit")
    given = plugins.build(backbone, 5, False).state_dict()
    converted = plugins.convert(resized(backbone, 96), dict(given))
    assert converted["pos_embed"].shape == (1, 37, 64)
    assert torch.equal(converted["head.weight"], given["head.weight"])


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("timm/test_vit", 100, "100: .* 16 pixels"),
        pytest.param("timm/cait_xxs24_224", 256, "pos_embed", marks=pytest.mark.slow),
        ("timm/vit_small_resnet26d_224", 256, "256: .*stem"),
        ("torchvision/vit_b_32", 100, "100: .* 32 pixels"),
        ("torchvision/maxvit_t", 256, "256: .* 7"),
        ("torchvision/inception_v3", 256, "256: "),
    ],
)
def test_a_size_that_cannot_be_is_refused_with_the_reason(name, size, reason):
    with pytest.raises(SizeError, match=reason):
        zoo.build(name, 3, weights="none", image_size=size)


@pytest.mark.parametrize(
    ("name", "size"),
    [pytest.param("maxvit_t", 448, marks=pytest.mark.slow), ("inception_v3", 320)],
)
def test_torchvisions_others_take_the_sizes_that_fit_their_layers(name, size):
    with no_values():
        other = resized(plugins.get(f"torchvision/{name}"), size)
        model = plugins.build(other, 3, False).eval()
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 3)


@pytest.fixture(scope="module")
def small_run(photos, tmp_path_factory):
    """A run of a network for 160 pixels, at 96, from weights for 160."""
    folder = tmp_path_factory.mktemp("sizes")
    weights = folder / "own.safetensors"
    own_weights("timm/test_vit", weights)
    fields = {**QUICK, "backbone": "timm/test_vit", "image_size": 96, "weights": str(weights)}
    run, notes, _ = hear(photos, folder / "run", **fields)
    return run, notes


@pytest.mark.slow
def test_a_run_at_another_size_says_so_and_comes_back(small_run, photos):
    run, notes = small_run
    assert any("96 x 96" in note and "160 x 160" in note for note in notes)
    again = zoo.load(run.path)
    assert again.info.preprocess.size == 96
    assert again.info.recipe.image_size == 96
    assert again.model.state_dict()["pos_embed"].shape == (1, 37, 64)
    photo = photos / "red" / "0.png"
    assert again.predict(photo) == run.predict(photo)


@pytest.mark.slow
def test_timm_and_transformers_load_a_run_at_another_size(small_run, photos):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    run, _ = small_run
    photo = Image.open(photos / "red" / "0.png").convert("RGB")
    config = json.loads((run.path / "config.json").read_text())
    assert config["model_args"] == {"img_size": 96}
    model = timm.create_model(f"local-dir:{run.path}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    processor = AutoImageProcessor.from_pretrained(run.path)
    transformer = AutoModelForImageClassification.from_pretrained(run.path).eval()
    with torch.inference_mode():
        timms = model(transform(photo)[None])
        transformers = transformer(**processor(photo, return_tensors="pt")).logits
    ours = torch.from_numpy(our_logits(run, photo)).float()
    for theirs in (timms, transformers):
        assert torch.allclose(theirs.softmax(dim=1)[0], ours, atol=1e-5)


@pytest.mark.slow
def test_a_run_serves_as_weights_at_its_own_size_and_at_others(small_run, photos):
    run, _ = small_run
    fields = {**QUICK, "backbone": "timm/test_vit", "weights": str(run.path), "train": "probe"}
    positions = run.model.state_dict()["pos_embed"]
    for size in (96, 128):
        again = zoo.finetune(photos, out=f"again{size}", **{**fields, "image_size": size})
        same = torch.equal(again.model.state_dict()["pos_embed"], positions)
        assert same == (size == 96)


def test_a_size_that_cannot_be_built_is_refused_with_backbone_size_and_reason(photos):
    with pytest.raises(SizeError) as error:
        zoo.finetune(photos, **{**QUICK, "backbone": "timm/test_vit", "image_size": 100})
    for name in ("timm/test_vit", "160 x 160", "100", "16 pixels"):
        assert name in error.value.text
    assert "`image_size`" in error.value.hint


@pytest.mark.slow
def test_a_run_that_cannot_be_built_any_more_is_named(small_run, tmp_path):
    run, _ = small_run
    odd = Path(shutil.copy(run.path / "model.safetensors", tmp_path / "odd.safetensors"))
    header, _ = take_apart(odd)
    preprocess = json.loads(header["__metadata__"]["preprocess"])
    forge(odd, preprocess=json.dumps({**preprocess, "size": 100}))
    with pytest.raises(RunError, match=r"odd\.safetensors: .* 100: "):
        zoo.load(odd)
