import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision import models
from torchvision.transforms import InterpolationMode, v2

from tests.conftest import eval_input
from zoo import plugins
from zoo.backbone import Preprocess
from zoo.data.prepare import Prepare
from zoo.data.transforms import eval_transform, to_input, train_transform
from zoo.machine.device import place_images


def photo(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width * 2, height * 2), Image.Resampling.BICUBIC)


PHOTOS = [photo(200, 150), photo(90, 160), photo(40, 30), photo(301, 77)]
#: (width, height) of the tiniest, and of thin ones.
THIN = [Image.new("RGB", (1, 1), "red")]
THIN += [photo(250, 30).resize(size) for size in ((3, 500), (500, 3), (2, 1))]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "efficientnet_b1", "efficientnet_v2_s", "convnext_tiny", "swin_t"],
)
def test_preprocessing_equals_torchvisions_own(name):
    preprocess = plugins.get(f"torchvision/{name}").preprocess
    theirs = models.get_model_weights(name).DEFAULT.transforms()
    for image in PHOTOS:
        assert torch.allclose(eval_input(image, preprocess), theirs(image), atol=1e-6)


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
    preprocess = plugins.get(f"timm/{name}").preprocess
    cfg = timm.get_pretrained_cfg(name)
    theirs = create_transform(**resolve_data_config(pretrained_cfg=cfg.to_dict()))
    for image in PHOTOS:
        assert torch.allclose(eval_input(image, preprocess), theirs(image), atol=1e-6)


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
        ours = eval_input(image, preprocess)
        assert ours.shape == (3, *preprocess.height_width)
        assert torch.allclose(ours, theirs(image), atol=1e-6)


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_input_equals_the_usual_composition_bit_for_bit(crop_mode, interpolation):
    preprocess = Preprocess(size=48, interpolation=interpolation, crop_mode=crop_mode)
    side = preprocess.resize[0]
    composition = v2.Compose(
        [
            v2.Resize(
                [side] * (2 if crop_mode == "squash" else 1), InterpolationMode(interpolation)
            ),
            v2.CenterCrop(48),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(preprocess.mean), list(preprocess.std)),
        ]
    )
    for image in [*PHOTOS, *THIN]:
        assert torch.equal(eval_input(image, preprocess), composition(image))


@pytest.mark.parametrize("size", [(48, 64), (1, 7)])
def test_normalising_a_batch_equals_normalising_each_image_bit_for_bit(size):
    preprocess = Preprocess(size=size, mean=(0.1, 0.5, 0.9), std=(0.21, 0.33, 1.7))
    each = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(preprocess.mean), list(preprocess.std)),
        ]
    )
    pixels = torch.randint(0, 256, (5, 3, *size), dtype=torch.uint8)
    expected = torch.stack([each(image) for image in pixels])
    cpu = torch.device("cpu")
    for layout in (torch.contiguous_format, torch.channels_last):
        batch = to_input(pixels.contiguous(memory_format=layout), preprocess, cpu)
        assert torch.equal(batch, expected)
        assert batch.stride() == place_images(expected, cpu).stride()
        mixed = pixels.to(torch.float32).contiguous(memory_format=layout)
        assert torch.equal(to_input(mixed, preprocess, cpu), expected)
        assert torch.equal(mixed, pixels.to(torch.float32)), "the given images have changed"


@pytest.mark.parametrize("augment", ["light", "strong", "rand-augment", "auto-augment"])
@pytest.mark.parametrize("size", [48, (64, 48)])
def test_augmentation_changes_pictures_but_not_their_shape(augment, size):
    preprocess = Preprocess(size=size)
    transform = train_transform(preprocess, augment, True)
    for image in [*PHOTOS, *THIN]:
        base = transform.prepare(image)
        torch.manual_seed(0)
        views = [transform.augment(base) for _ in range(5)]
        assert {(view.shape, view.dtype) for view in views} == {
            ((*preprocess.height_width, 3), np.dtype(np.uint8))
        }
        assert len({view.tobytes() for view in views}) > 1 or image.size == (1, 1)


@pytest.mark.parametrize(("augment", "asked"), [("strong", None), ("light", 0.1)])
def test_an_erased_part_is_nearly_zero_once_normalised(augment, asked):
    preprocess = Preprocess(size=48)
    transform = train_transform(preprocess, augment, False, random_erasing=asked)
    white = np.full((60, 60, 3), 255, np.uint8)
    colour = [round(255 * m) for m in preprocess.mean]
    torch.manual_seed(0)
    views = [transform.augment(white) for _ in range(200)]
    erased = [view for view in views if (view == colour).all(axis=2).mean() > 0.02]
    assert 8 <= len(erased) <= 35
    pixels = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1)
    assert to_input(pixels, preprocess, torch.device("cpu")).abs().max() < 0.01


@pytest.mark.parametrize(
    ("augment", "policy"),
    [
        ("strong", v2.TrivialAugmentWide),
        ("rand-augment", v2.RandAugment),
        ("auto-augment", v2.AutoAugment),
    ],
)
def test_a_policy_is_torchvisions_own_after_the_crop_bit_for_bit(augment, policy):
    preprocess = Preprocess(size=48)
    with_policy = train_transform(preprocess, augment, False, random_erasing=0.0)
    cropped = train_transform(preprocess, "light", False, with_policy.prepare.smallest_crop)
    base = with_policy.prepare(PHOTOS[0])
    for seed in range(20):
        torch.manual_seed(seed)
        view = with_policy.augment(base)
        torch.manual_seed(seed)
        expected = policy()(v2.functional.to_pil_image(cropped.augment(base)))
        assert np.array_equal(view, np.asarray(expected))


def test_erasing_is_drawn_as_often_as_asked():
    white = np.full((60, 60, 3), 255, np.uint8)

    def erased(probability):
        transform = train_transform(Preprocess(size=48), "light", False, random_erasing=probability)
        torch.manual_seed(0)
        return sum(int((transform.augment(white) < 255).any()) for _ in range(100))

    assert (erased(0.0), erased(1.0)) == (0, 100)
    assert 35 <= erased(0.5) <= 65


def test_no_augmentation_is_the_preprocessing_alone():
    preprocess = Preprocess(size=48)
    assert train_transform(preprocess, "none", True) == eval_transform(preprocess)


@pytest.mark.parametrize("crop", [0.5, 0.2])
@pytest.mark.parametrize("size", [48, (64, 48)])
def test_a_base_for_crops_covers_what_the_smallest_needs_and_is_never_enlarged(crop, size):
    prepare = Prepare(preprocess=Preprocess(size=size), smallest_crop=crop)
    needed = [side / crop**0.5 for side in prepare.preprocess.height_width]
    for image in [*PHOTOS, *THIN]:
        base = prepare(image)
        height, width = base.shape[:2]
        assert (height, width) <= (image.height, image.width)
        if (height, width) == (image.height, image.width):
            assert np.array_equal(base, np.asarray(image))
            continue
        assert width / height == pytest.approx(image.width / image.height, rel=0.02)
        over = [side / need for side, need in zip((height, width), needed, strict=True)]
        assert min(over) == pytest.approx(1, rel=0.02)


def test_a_base_for_crops_is_reduced_as_pillow_reduces():
    prepare = Prepare(preprocess=Preprocess(size=48), smallest_crop=0.5)
    for image in PHOTOS:
        base = prepare(image)
        pillows = image.resize((base.shape[1], base.shape[0]), Image.Resampling.BICUBIC)
        assert np.abs(base.astype(int) - np.asarray(pillows).astype(int)).max() <= 1


def test_what_decides_a_base_is_told_and_nothing_else():
    about = eval_transform(Preprocess(size=48)).prepare.about()
    same = Preprocess(size=48, std=(1, 1, 1), mean=(0, 0, 0), fixed_size=True)
    assert eval_transform(same).prepare.about() == about
    others = [
        Preprocess(size=64),
        Preprocess(size=48, crop_pct=1.0),
        Preprocess(size=48, crop_mode="squash"),
        Preprocess(size=48, crop_mode="border"),
        Preprocess(size=48, crop_mode="border", mean=(0, 0, 0)),
        Preprocess(size=48, interpolation="bilinear"),
    ]
    made = [eval_transform(other).prepare.about() for other in others]
    made += [
        train_transform(Preprocess(size=48), a, True).prepare.about() for a in ("light", "strong")
    ]
    assert len({str(other) for other in [about, *made]}) == 1 + len(made)
