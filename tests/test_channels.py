"""Runs on images of one and of four channels, by the option `in_chans` of backbones."""

import dataclasses
import io
import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import adapt_input_conv

import zoo
from tests.conftest import QUICK, zoo_
from tests.pipeline.crash import Crash, check_equal, crash_at
from tests.runs.forging import MODEL, copy, forge
from zoo import plugins, testing
from zoo.data.image import image_from_bytes
from zoo.errors import DataError, OptionError, PluginError, RecipeError, RunError
from zoo.events import Note, StepEnd, ignore
from zoo.models.channels import adapt
from zoo.models.variant import variant
from zoo.weights import load

#: TIFF tag for the meaning of the bands beside red, green and blue.
EXTRA_SAMPLES = 338


def pixels(label: int, n: int) -> np.ndarray:
    """Two classes that differ in the fourth band alone, which Pillow would weigh the others by."""
    noise = np.random.default_rng(n).integers(0, 256, (48, 40, 4), dtype=np.uint8)
    noise[..., 3] = noise[..., 3] // 4 + 160 * label
    return noise


def without_alpha(image: Image.Image) -> bytes:
    """A TIFF of four bands, of which the fourth is not transparency."""
    written = io.BytesIO()
    image.save(written, "TIFF")
    content = bytearray(written.getvalue())
    (start,) = struct.unpack("<I", content[4:8])
    (entries,) = struct.unpack("<H", content[start : start + 2])
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack("<H", content[place : place + 2])[0] == EXTRA_SAMPLES:
            content[place + 8 : place + 10] = struct.pack("<H", 0)
    return bytes(content)


@pytest.fixture(scope="module")
def four_bands(tmp_path_factory) -> Path:
    """PNG with transparency and TIFF with near infrared, say; two classes of 10."""
    root = tmp_path_factory.mktemp("four") / "bands"
    for label, name in enumerate(("low", "high")):
        (root / name).mkdir(parents=True)
        for n in range(10):
            image = Image.fromarray(pixels(label, 2 * n + label))
            if n % 2:
                image.save(root / name / f"{n}.png")
            else:
                (root / name / f"{n}.tif").write_bytes(without_alpha(image))
    return root


@pytest.fixture(params=[1, 4])
def channels(request) -> int:
    return request.param


@pytest.fixture
def data(channels, photos, four_bands) -> Path:
    return four_bands if channels == 4 else photos


def fields(channels: int, **changes: object) -> dict:
    return {**QUICK, "epochs": 2, "backbone_options": {"in_chans": channels}, **changes}


@pytest.mark.medium
def test_a_run_of_other_channels_from_end_to_end(channels, data, tmp_path):
    quick = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    option = f"--backbone-option=in_chans={channels}"
    said = zoo_("finetune", "--data", data, *quick, option, "--out", "run").stdout
    assert "not used" not in said  # The fourth band is.
    run = zoo.load("run", device="cpu")
    assert run.info.preprocess.channels == channels
    means = timm.get_pretrained_cfg("test_efficientnet").mean
    assert run.info.preprocess.mean == tuple(means[n % 3] for n in range(channels))
    assert {found.state for found in zoo.verify("run")} == {"ok"}
    evaluated = json.loads(zoo_("evaluate", "run", "--format", "json").stdout)
    assert evaluated["metrics"]["accuracy"] == run.info.val_accuracy
    photo = next(data.rglob("3.png"))
    (found,) = json.loads(zoo_("predict", "run", photo, "--format", "json").stdout)
    assert found["probability"] == pytest.approx(run.predict(photo)[0].probability)
    report = zoo.export.export(run, "torch-export", tmp_path / "run.pt2")
    assert report.agreement == 1
    zoo_("report", "run", "--output", tmp_path / "report.html")
    assert "bands beside red" not in (tmp_path / "report.html").read_text()


@pytest.mark.medium
def test_timm_loads_a_run_of_other_channels_with_the_same_logits(channels, data):
    run = zoo.finetune(data, out="run", listen=ignore, **fields(channels, train="probe"))
    config = json.loads(Path("run/config.json").read_text())
    assert config["model_args"] == {"in_chans": channels}
    assert config["pretrained_cfg"]["input_size"][0] == channels
    model = timm.create_model(f"local-dir:{run.path}", pretrained=True).eval()
    resolved = timm.data.resolve_model_data_config(model)
    assert tuple(resolved["mean"]) == run.info.preprocess.mean
    images = torch.rand(2, channels, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), run.model.cpu()(images))
    # A run is a checkpoint too, whose weights are adapted already.
    again = zoo.build(f"local-dir:{run.path}", 2, options={"in_chans": channels})
    assert torch.equal(again.conv_stem.weight, run.model.conv_stem.weight)
    with pytest.raises(OptionError, match=f"in_chans=3.* {channels}$"):
        zoo.build(f"local-dir:{run.path}", 2, options={"in_chans": 3})
    started = zoo.build(QUICK["backbone"], 2, weights="run", options={"in_chans": channels})
    assert torch.equal(started.conv_stem.weight, run.model.conv_stem.weight)


@pytest.mark.slow
def test_a_run_of_other_channels_resumes_to_the_bit(channels, data):
    whole = zoo.finetune(data, out="whole", listen=ignore, **fields(channels))
    more = fields(channels, checkpoint_every=1)
    with pytest.raises(Crash):
        zoo.finetune(data, out="cut", listen=crash_at(3, StepEnd), **more)
    check_equal(zoo.resume("cut"), whole)


@pytest.mark.medium
def test_the_fourth_band_is_read_as_it_is_and_learnt_from(four_bands):
    given = pixels(1, 1)
    kept = image_from_bytes((four_bands / "high" / "0.tif").read_bytes(), channels=4)
    assert np.array_equal(np.asarray(kept), given)
    run = zoo.finetune(four_bands, out="run", listen=ignore, **fields(4))
    # At the same size, nothing is resampled: bands are not weighed by each other.
    exact = dataclasses.replace(run.info.preprocess, size=(48, 40), crop_pct=1.0)
    again = dataclasses.replace(run, info=dataclasses.replace(run.info, preprocess=exact))
    assert np.array_equal(again.prepare(given), given)
    arrays = [pixels(label, 100 + n) for n in range(4) for label in (0, 1)]
    images = [Image.fromarray(each) for each in arrays]
    assert [p.probability for p in run.predict(arrays)] == [
        p.probability for p in run.predict(images)
    ]


@pytest.mark.medium
def test_grey_and_coloured_images_are_one_channel(photos):
    run = zoo.finetune(photos, out="run", listen=ignore, **fields(1, train="probe"))
    image = Image.fromarray(pixels(0, 0)[..., :3])
    grey = image.convert("L")
    found = run.predict([image, grey, np.asarray(grey), np.asarray(image)])
    assert len({each.probability for each in found}) == 1
    assert run.prepare(image).shape == (32, 32, 1)


@pytest.mark.medium
@pytest.mark.parametrize(
    "name", ["zoo/efficientnet_lite0", "torchvision/resnet18", "timm/test_vit"]
)
def test_the_first_convolution_is_adapted_as_by_timm(name, channels, tmp_path):
    backbone = plugins.get(name)
    if not name.startswith("zoo/"):
        torch.manual_seed(0)
        original = plugins.build(backbone, None, False)
        from safetensors.torch import save_file

        save_file(original.state_dict(), tmp_path / "own.safetensors")
        zoo.weights.add(backbone, tmp_path / "own.safetensors")
    own = load(backbone, "pretrained").state_dict
    adapted = load(variant(backbone, options={"in_chans": channels}), "pretrained").state_dict
    assert own.keys() == adapted.keys()
    changed = [key for key in own if own[key].shape != adapted[key].shape]
    assert len(changed) == 1
    for key, tensor in own.items():
        expected = adapt_input_conv(channels, tensor) if key in changed else tensor
        assert torch.equal(adapted[key], expected)


def test_pixels_that_are_stacked_before_the_convolution_are_adapted_for_grey_alone():
    weight = torch.randn(5, 12, 3, 3)
    torch.testing.assert_close(adapt(weight, 1), adapt_input_conv(1, weight))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("timm/test_vit", {"in_chans": 2}, "1, 3, 4 channels"),
        ("timm/test_vit", {"in_chans": 5}, "in_chans = 5 must be a whole number from 1 to 4"),
        ("timm/test_vit", {"in_chans": "RGBA"}, "must be a whole number"),
        ("torchvision/googlenet", {"in_chans": 1}, "no option 'in_chans'"),
        ("timm/tresnet_m", {"in_chans": 4}, "its weights can't be adapted"),
    ],
)
def test_other_numbers_and_networks_that_take_no_other_are_refused(name, options, said):
    with pytest.raises(OptionError) as error:
        zoo.build(name, 2, weights="none", options=options)
    assert said in str(error.value)


def test_an_image_without_a_fourth_band_is_one_message(photos):
    quick = [f"--{k.replace('_', '-')}={v}" for k, v in QUICK.items()]
    words = ["finetune", "--data", photos, *quick, "--backbone-option", "in_chans=4"]
    done = zoo_(*words, "--out", "run", code=2)
    assert "its mode is RGB, and four channels are needed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.medium
def test_images_without_a_fourth_band_are_left_out(four_bands, photos, tmp_path):
    data = tmp_path / "mixed"
    shutil.copytree(four_bands, data)
    shutil.copy(photos / "red" / "0.png", data / "low" / "red.png")
    asked = fields(4, train="probe")
    notes = []
    zoo.finetune(data, out="run", listen=notes.append, **asked)
    warned = [each.text for each in notes if isinstance(each, Note) and each.warning]
    assert any("low/red.png" in text and "four channels" in text for text in warned)
    rows = json.loads(zoo_("evaluate", "run", "--split", "all", "--format", "json").stdout)
    assert rows["images"] == 20
    with pytest.raises(DataError, match=re.escape("red.png")):
        zoo.finetune(data, strict=True, listen=ignore, **asked)


@pytest.mark.parametrize("augment", ["strong", "rand-augment", "auto-augment"])
def test_strong_augmentation_of_four_bands_is_refused(four_bands, augment):
    with pytest.raises(RecipeError, match=f"`augment` = {augment}"):
        zoo.finetune(four_bands, listen=ignore, **fields(4, augment=augment))
    assert list(Path().iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["strong", "rand-augment", "auto-augment"])
def test_strong_augmentation_of_grey_images(photos, augment):
    run = zoo.finetune(photos, out="run", listen=ignore, **fields(1, augment=augment))
    assert run.info.preprocess.channels == 1


@pytest.mark.medium
def test_a_run_of_four_bands_refuses_other_images(four_bands, tmp_path):
    run = zoo.finetune(four_bands, out="run", listen=ignore, **fields(4, train="probe"))
    for image in (pixels(0, 0)[..., :3], pixels(0, 0)[..., 0], Image.new("CMYK", (9, 9))):
        with pytest.raises(DataError, match="four channels"):
            run.predict(image)
    folder = copy(run, tmp_path)
    stated = {**run.info.preprocess.to_dict(), "mean": [0.5], "std": [0.5]}
    forge(folder / MODEL, preprocess=json.dumps(stated))
    with pytest.raises(RunError, match=rf"{MODEL}: .*\b1 .*\b4"):
        zoo.load(folder)


def test_preprocessing_is_of_one_three_or_four_channels():
    for values in ((0.5,) * 2, (0.5,) * 5, ()):
        with pytest.raises(PluginError, match="mean and std"):
            zoo.Preprocess(size=32, mean=values, std=values)
    with pytest.raises(PluginError, match="mean and std"):
        zoo.Preprocess(size=32, mean=(0.5,))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/test_vit", "torchvision/resnet18", "transformers/resnet"])
def test_the_kit_checks_the_option(name):
    results = testing.check_backbone(name)
    assert {r.check: r.message for r in results if r.status == "failed"} == {}
