"""Each backbone's pictures are prepared as its own library prepares them."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torchvision import models

from tests.backbones.test_declarations import TIMM, TORCHVISION
from tests.conftest import eval_input
from zoo import plugins


def timms(name):
    cfg = timm.get_pretrained_cfg(name.removeprefix("timm/"))
    return resolve_model_data_config(None, pretrained_cfg=cfg.to_dict())


def test_preprocessing_declared_for_timm_is_timms():
    ours = {name: plugins.get(name).preprocess for name in TIMM}
    theirs = {name: timms(name) for name in TIMM}
    assert {
        name: ((3, *p.height_width), p.mean, p.std, p.interpolation, p.crop_pct, p.crop_mode)
        for name, p in ours.items()
    } == {
        name: (
            tuple(t["input_size"]),
            tuple(t["mean"]),
            tuple(t["std"]),
            t["interpolation"],
            t["crop_pct"],
            t["crop_mode"],
        )
        for name, t in theirs.items()
    }


def test_preprocessing_declared_for_torchvision_is_torchvisions():
    ours = {name: plugins.get(name).preprocess for name in TORCHVISION}
    theirs = {
        name: models.get_model_weights(name.removeprefix("torchvision/")).DEFAULT.transforms()
        for name in TORCHVISION
    }
    assert {
        name: (p.height_width, p.resize, p.mean, p.std, p.interpolation, p.crop_mode)
        for name, p in ours.items()
    } == {
        name: (
            (t.crop_size[0],) * 2,
            (t.resize_size[0],) * 2,
            tuple(t.mean),
            tuple(t.std),
            t.interpolation.value,
            "center",
        )
        for name, t in theirs.items()
    }


@pytest.fixture(scope="module")
def pictures():
    values = np.random.default_rng(0).integers(0, 255, (150, 200, 3), dtype=np.uint8)
    wide = Image.fromarray(values).resize((400, 300), Image.Resampling.BICUBIC)
    return [wide, wide.transpose(Image.Transpose.ROTATE_90), wide.resize((90, 61))]


@pytest.mark.parametrize(
    "name",
    [
        "timm/vit_base_patch16_siglip_384",  # squash
        "timm/vit_base_patch14_reg4_dinov2",  # 518 pixels
        "timm/volo_d5_512",  # crop_pct above 1
        "timm/vit_pe_core_base_patch16_224",  # the library's odd mean, squash
        "timm/tf_efficientnet_b7",  # 600 pixels
        "timm/inception_v4",  # mean 0.5
        "torchvision/vit_h_14",  # 518 pixels, bicubic
        "torchvision/efficientnet_b3",  # crop_pct near 1, bicubic
        "torchvision/inception_v3",
        "torchvision/regnet_y_128gf",
    ],
)
def test_pixels_equal_the_librarys_own(name, pictures):
    preprocess = plugins.get(name).preprocess
    library, _, bare = name.partition("/")
    if library == "timm":
        theirs = create_transform(**timms(name))
    else:
        theirs = models.get_model_weights(bare).DEFAULT.transforms()
    for picture in pictures:
        assert torch.allclose(eval_input(picture, preprocess), theirs(picture), atol=1e-6)


def test_every_border_crop_of_timm_has_its_pixels(pictures):
    names = [n for n in TIMM if plugins.get(n).preprocess.crop_mode == "border"]
    for name in names:
        preprocess, theirs = plugins.get(name).preprocess, create_transform(**timms(name))
        for picture in pictures:
            assert torch.allclose(eval_input(picture, preprocess), theirs(picture), atol=1e-6)
