"""A GPU resizes and mirrors random crops a batch at a time: the same views, but for rounding."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.backbone import Preprocess
from zoo.data.dataset import ImageDataset
from zoo.data.decoded import Bases
from zoo.data.sample import Sample
from zoo.data.transforms import eval_transform, train_transform
from zoo.training.batches import image_feed

SIZES = [
    (90, 60),
    (60, 90),
    (200, 41),
    (41, 200),
    (30, 30),
    (400, 300),
    (1, 1),
    (64, 64),
    (65, 130),
]


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def samples():
    """Smooth pictures of many sizes with noise on them."""
    draw = np.random.default_rng(0)
    found = []
    for n, size in enumerate(SIZES):
        coarse = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        values = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int)
        noisy = (values + draw.normal(0, 10, values.shape)).clip(0, 255).astype(np.uint8)
        found.append(Sample(name=f"{n}.png", labels=("a",), load=partial(png, noisy)))
    return found


def batches(device, preprocess, augment, hflip=True, epoch=1, workers=0):
    """What training is fed where it computes on such a device: pixels and labels of an epoch."""
    train = train_transform(preprocess, augment, hflip)
    seen = eval_transform(preprocess)
    labels = torch.arange(len(SIZES)) % 3
    feed = image_feed(
        ImageDataset(Bases(samples(), train.prepare), labels, train.augment, seed=3),
        ImageDataset(Bases(samples(), seen.prepare)),
        preprocess,
        batch_size=4,
        workers=workers,
        device=torch.device(device),
    )
    feed.sampler.epoch = epoch
    loaded = list(feed.train)
    return loaded, [(feed.on_device(rows), labels) for rows, labels in loaded]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [48, (40, 56), 224])
def test_a_gpu_is_fed_what_a_cpu_is_but_for_rounding(interpolation, size):
    preprocess = Preprocess(size=size, interpolation=interpolation)
    for epoch in (1, 2, 3):
        _, ours = batches("cuda", preprocess, "light", epoch=epoch)
        _, theirs = batches("cpu", preprocess, "light", epoch=epoch)
        for (pixels, labels), (expected, expected_labels) in zip(ours, theirs, strict=True):
            assert labels.equal(expected_labels)
            assert pixels.dtype == expected.dtype == torch.uint8
            assert pixels.shape == expected.shape
            assert pixels.is_contiguous(memory_format=torch.channels_last)
            apart = (pixels.float() - expected.float()).abs()
            # A CPU rounds, and cuts what bicubic overshoots, between the sides too.
            assert apart.mean() < 0.3
            assert apart.max() <= 6


def test_a_gpu_resizes_crops_and_a_cpu_loads_views():
    preprocess = Preprocess(size=48)
    loaded, _ = batches("cuda", preprocess, "light")
    assert all(len(rows.pixels) == len(rows.sizes) == len(rows.mirrored) for rows, _ in loaded)
    assert {tuple(rows.pixels.shape[1:]) for rows, _ in loaded} != {(48, 48, 3)}
    assert any(rows.mirrored.any() for rows, _ in loaded)
    loaded, _ = batches("cpu", preprocess, "light")
    assert {tuple(rows.shape[1:]) for rows, _ in loaded} == {(3, 48, 48)}


def test_nothing_is_mirrored_where_the_recipe_says_so():
    loaded, _ = batches("cuda", Preprocess(size=48), "light", hflip=False)
    assert not any(rows.mirrored.any() for rows, _ in loaded)


@pytest.mark.parametrize(
    ("augment", "interpolation"), [("none", "bicubic"), ("strong", "bicubic"), ("light", "nearest")]
)
def test_what_a_gpu_can_not_do_alone_is_loaded_as_for_a_cpu(augment, interpolation):
    preprocess = Preprocess(size=48, interpolation=interpolation)
    _, ours = batches("cuda", preprocess, augment)
    _, theirs = batches("cpu", preprocess, augment)
    for (pixels, _), (expected, _) in zip(ours, theirs, strict=True):
        assert pixels.equal(expected)


def test_processes_load_the_same_crops():
    (alone, _), (together, _) = (
        batches("cuda", Preprocess(size=48), "light", workers=n) for n in (0, 2)
    )
    for (one, _), (other, _) in zip(alone, together, strict=True):
        assert all(a.equal(b) for a, b in zip(one, other, strict=True))
