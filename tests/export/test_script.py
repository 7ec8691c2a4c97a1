"""predict.py decodes images as runs do; what it predicts is tested with the formats."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from tests.test_channels import pixels, without_alpha
from zoo.errors import DataError
from zoo.export.options import ExportOptions
from zoo.export.script import script_file, scripts
from zoo.exporter import Exporter

#: A format whose runtime keeps the pixels that it is given.
KEPT = Exporter(
    suffix=".kept",
    write=lambda *given: None,
    open=lambda path: lambda images: images,
    script="""
metadata = {"class_names": '["a", "b", "c"]'}


def compute(images):
    assert images.flags.writeable  # or torch warns
    np.save("given.npy", images)
    return np.zeros((len(images), 3), np.float32)
""",
)


def with_preprocess(run, channels=3, **changes):
    """The run with other preprocessing; its network is not used."""
    repeated = {"mean": (0.5,) * channels, "std": (0.5,) * channels}
    preprocess = replace(run.info.preprocess, **repeated, **changes)
    return replace(run, info=replace(run.info, preprocess=preprocess))


def given_by_script(run, image, monkeypatch):
    """The pixels (H, W, C) that the script of an export of the run hands to the network."""
    out = Path("a.kept")
    script_file(out).write_text(scripts(run, KEPT, out, ExportOptions())[script_file(out)])
    monkeypatch.setattr(sys, "argv", [str(script_file(out)), str(image)])
    runpy.run_path(str(script_file(out)), run_name="__main__")
    (given,) = np.load("given.npy")
    return given.transpose(1, 2, 0)


@pytest.mark.parametrize("kind", ["tiff", "png", "palette"])
def test_the_script_keeps_the_fourth_band(run, monkeypatch, kind):
    image = Image.fromarray(pixels(0, 0))
    if kind == "tiff":
        Path("a.image").write_bytes(without_alpha(image))
    elif kind == "png":
        image.save("a.image", "PNG")
    else:
        image.quantize(method=Image.Quantize.FASTOCTREE).save("a.image", "PNG")
    run = with_preprocess(run, channels=4)
    expected = run.prepare("a.image")
    assert np.ptp(expected[..., 3]) > 0
    assert np.array_equal(given_by_script(run, "a.image", monkeypatch), expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_script_refuses_images_without_the_fourth_band(run, monkeypatch, mode):
    Image.new(mode, (40, 40)).save("a.tif")
    run = with_preprocess(run, channels=4)
    with pytest.raises(DataError):
        run.prepare("a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif.* {mode}.*four channels"):
        given_by_script(run, "a.tif", monkeypatch)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_script_turns_tiffs_upright(run, monkeypatch, mode):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels(0, 0)).convert(mode).save("a.tif", exif=exif)
    run = with_preprocess(run)
    assert np.array_equal(given_by_script(run, "a.tif", monkeypatch), run.prepare("a.tif"))


#: Images of more than 8 bits, by the rule by which runs scale them that have no `value_range`.
DEEP = {
    "float": np.linspace(0, 0.7, 1600, dtype=np.float32),
    "float above 1": np.linspace(3, 90, 1600, dtype=np.float32),
    "float below 0": np.linspace(-30, -4, 1600, dtype=np.float32),
    "float not finite": np.array([np.nan, np.inf, -np.inf, 0.2] * 400, dtype=np.float32),
    "float without values": np.full(1600, np.nan, dtype=np.float32),
    "one float below 0": np.full(1600, -2, dtype=np.float32),
    "16 bits": np.linspace(0, 200, 1600).astype(np.uint16),
    "32 bits to 255": np.linspace(0, 200, 1600).astype(np.int32),
    "32 bits to 65535": np.linspace(0, 4000, 1600).astype(np.int32),
    "32 bits": np.linspace(0, 200000, 1600).astype(np.int32),
    "32 bits below 0": np.linspace(-7, 4000, 1600).astype(np.int32),
}


@pytest.mark.parametrize("value_range", [None, (0.1, 3000.0)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_script_scales_deep_images_as_the_run(run, monkeypatch, channels, value_range):
    run = with_preprocess(run, channels, value_range=value_range)
    for name, values in DEEP.items():
        Image.fromarray(values.reshape(40, 40)).save("a.tif")
        given = given_by_script(run, "a.tif", monkeypatch)
        assert np.array_equal(given, run.prepare("a.tif")), name
