"""Resizing as operators of tensors gives what Pillow gives."""

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.backbone import Preprocess
from zoo.data.transforms import eval_transform
from zoo.engines.resize import Resize

#: Heights and widths: landscape, square, long, smaller than the input.
SIZES = [(48, 64), (64, 64), (30, 300), (7, 5)]


def levels_between(preprocess, size):
    """The difference of each pixel of a noisy image from Pillow's, in levels of 255."""
    shape = (*size, preprocess.channels)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mode = {1: "L", 3: "RGB", 4: "RGBX"}[preprocess.channels]
    pillow = Image.frombytes(mode, size[::-1], image.tobytes())
    expected = eval_transform(preprocess).prepare(pillow).astype(int)
    (found,) = Resize(preprocess)(torch.from_numpy(image)[None]).permute(0, 2, 3, 1).numpy()
    return np.abs(found - expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize(("input_size", "crop_pct"), [(32, 0.875), ((24, 40), 1.0), (33, 1.2)])
def test_pixels_are_those_of_pillow(size, interpolation, crop_mode, input_size, crop_pct):
    preprocess = Preprocess(
        size=input_size, interpolation=interpolation, crop_mode=crop_mode, crop_pct=crop_pct
    )
    levels = levels_between(preprocess, size)
    assert levels.max() <= 2
    assert levels.mean() < 0.1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop_mode", ["center", "border"])
def test_pixels_of_portraits_are_those_of_pillow(interpolation, crop_mode):
    preprocess = Preprocess(size=32, interpolation=interpolation, crop_mode=crop_mode)
    levels = levels_between(preprocess, (96, 70))
    assert levels.max() <= 2
    assert levels.mean() < 0.1


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_one_and_four_channels_are_resized(channels):
    preprocess = Preprocess(size=32, mean=(0.5,) * channels, std=(0.2,) * channels)
    assert levels_between(preprocess, (96, 70)).max() <= 2


def test_nearest_takes_whole_pixels():
    levels = levels_between(Preprocess(size=32, interpolation="nearest"), (96, 70))
    assert (levels > 0).mean() < 0.1
