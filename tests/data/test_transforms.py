import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import models

from zoo import plugins
from zoo.backbone import Preprocess
from zoo.data.transforms import eval_transform, train_transform


def photo(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width * 2, height * 2), Image.Resampling.BICUBIC)


PHOTOS = [photo(200, 150), photo(90, 160), photo(40, 30), photo(301, 77)]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "efficientnet_b1", "efficientnet_v2_s", "convnext_tiny", "swin_t"],
)
def test_preprocessing_equals_torchvisions_own(name):
    ours = eval_transform(plugins.get(f"torchvision/{name}").preprocess)
    theirs = models.get_model_weights(name).DEFAULT.transforms()
    for image in PHOTOS:
        assert torch.allclose(ours(image), theirs(image), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",  # bicubic, centre
        "tf_efficientnet_lite0",  # other mean and std
        "vit_base_patch16_siglip_224",  # squash
        "volo_d1_224",  # crop_pct near 1
        "convnextv2_tiny",
        "caformer_s18",  # crop_pct 1
    ],
)
def test_preprocessing_equals_timms_own(name):
    ours = eval_transform(plugins.get(f"timm/{name}").preprocess)
    cfg = timm.get_pretrained_cfg(name)
    theirs = create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict()))
    for image in PHOTOS:
        assert torch.allclose(ours(image), theirs(image), atol=1e-6)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [48, (64, 48)])
def test_every_crop_mode_equals_timms(crop_mode, size):
    preprocess = Preprocess(size=size, crop_pct=0.9, crop_mode=crop_mode)
    theirs = create_transform(
        (3, *preprocess.height_width),
        interpolation="bicubic",
        crop_pct=0.9,
        crop_mode=crop_mode,
    )
    for image in PHOTOS:
        ours = eval_transform(preprocess)(image)
        assert ours.shape == (3, *preprocess.height_width)
        assert torch.allclose(ours, theirs(image), atol=1e-6)


@pytest.mark.parametrize("augment", ["light", "strong"])
def test_augmentation_changes_pictures_but_not_their_shape(augment):
    transform = train_transform(Preprocess(size=48), augment, True)
    torch.manual_seed(0)
    first, second = transform(PHOTOS[0]), transform(PHOTOS[0])
    assert first.shape == second.shape == (3, 48, 48)
    assert not torch.equal(first, second)


def test_no_augmentation_is_the_preprocessing_alone():
    preprocess = Preprocess(size=48)
    image = PHOTOS[0]
    assert torch.equal(
        train_transform(preprocess, "none", True)(image), eval_transform(preprocess)(image)
    )
