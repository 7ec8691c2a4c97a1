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
