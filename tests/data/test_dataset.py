import multiprocessing

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader

from tests.data.reading import read_splits
from zoo import plugins
from zoo.data.dataset import ImageDataset, eval_loader, train_loader, view_of
from zoo.data.decoded import DecodedImages, content_keys
from zoo.data.transforms import train_transform

PREPROCESS = plugins.get("timm/test_efficientnet").preprocess


_PREPARE = train_transform(PREPROCESS, "none", False).prepare


class Kept(dict):
    """A store: the simplest there is."""

    def get(self, key):
        return self[key]

    def append(self, items):
        self.update(items)


def samples_of(photos, drop=()):
    return [s for s in read_splits(photos, val_split=0.2, seed=0).train if s.name not in drop]


def batches(
    photos,
    workers=0,
    epoch=1,
    batch_size=4,
    seed=0,
    drop=(),
    augment="strong",
    views=None,
    repeats=1,
    store=None,
):
    samples = samples_of(photos, drop)
    transform = train_transform(PREPROCESS, augment, True)
    keys = content_keys(samples) if store is not None else ()
    loader, sampler = train_loader(
        ImageDataset(
            DecodedImages(samples, transform.prepare, store=store, keys=keys),
            torch.tensor([sample.labels == ("red",) for sample in samples]).long(),
            transform.augment,
            seed=seed,
            views=views,
        ),
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        repeats=repeats,
    )
    sampler.epoch = epoch
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_batches_are_uint8_and_channels_last(photos):
    images, labels = batches(photos, batch_size=8)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.shape == (24, 3, *PREPROCESS.height_width)
    decoded = DecodedImages(samples_of(photos), train_transform(PREPROCESS, "none", False).prepare)
    for pixels, _ in eval_loader(ImageDataset(decoded), batch_size=8):
        assert pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_augmentation_does_not_depend_on_workers_or_batches(photos):
    images, labels = batches(photos)
    for other in (batches(photos, workers=2), batches(photos, batch_size=8)):
        assert torch.equal(images, other[0])
        assert torch.equal(labels, other[1])


@pytest.mark.parametrize("augment", ["none", "light", "strong", "rand-augment", "auto-augment"])
def test_kept_bases_give_the_same_images_bit_for_bit(photos, augment):
    store = Kept()
    images, labels = batches(photos, augment=augment)
    samples = samples_of(photos)
    prepare = train_transform(PREPROCESS, augment, True).prepare
    DecodedImages(samples, prepare, store=store, keys=content_keys(samples)).fill()
    assert len(store) == len(samples)
    kept = batches(photos, augment=augment, store=store)
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])


@pytest.mark.parametrize(
    "method",
    [
        # All but fork import torch in a process of their own.
        pytest.param(method, marks=[] if method == "fork" else pytest.mark.slow)
        for method in multiprocessing.get_all_start_methods()
    ],
)
def test_kept_bases_go_to_workers_however_they_start(photos, method):
    samples, transform = samples_of(photos), train_transform(PREPROCESS, "strong", True)
    decoded = DecodedImages(samples, transform.prepare, store=Kept(), keys=content_keys(samples))
    decoded.fill()
    dataset = ImageDataset(decoded, augment=transform.augment)
    loader = DataLoader(
        dataset,
        sampler=[(1, position) for position in range(3)],
        batch_size=None,
        num_workers=1,
        multiprocessing_context=method,
    )
    for position, (pixels, label) in enumerate(loader):
        expected, expected_label = dataset[1, position]
        assert np.array_equal(pixels, expected)
        assert label == expected_label


def test_augmentation_and_order_depend_on_seed_and_epoch(photos):
    images, _ = batches(photos)
    assert not torch.equal(images, batches(photos, epoch=2)[0])
    assert not torch.equal(images, batches(photos, seed=1)[0])


def test_views_come_again_in_turn(photos):
    def seen(epoch, views):
        images, _ = batches(photos, epoch=epoch, views=views)
        return {image.numpy().tobytes() for image in images}

    assert seen(1, 2) == seen(3, 2)
    assert seen(2, 2) == seen(4, 2)
    assert not seen(1, 2) & seen(2, 2)
    assert [view_of(epoch, 3) for epoch in range(1, 8)] == [1, 2, 3, 1, 2, 3, 1]


@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_repeated_augmentation_shows_an_image_in_views_that_never_come_again(photos, repeats):
    _, plain_labels = batches(photos)
    seen = set()
    for epoch in (1, 2):
        images, labels = batches(photos, epoch=epoch, repeats=repeats)
        assert len(images) == len(plain_labels)
        views = [image.numpy().tobytes() for image in images]
        assert len(set(views)) == len(views)
        assert not seen & set(views)
        seen.update(views)
        for n in range(0, len(labels), repeats):
            assert len(set(labels[n : n + repeats].tolist())) == 1


def test_repeated_augmentation_uses_other_images_in_another_epoch(photos):
    def names(epoch):
        dataset = ImageDataset(DecodedImages(samples_of(photos), _PREPARE), repeats=2)
        _, sampler = train_loader(dataset, batch_size=4, seed=0, workers=0, repeats=2)
        sampler.epoch = epoch
        return [position for _, position in sampler]

    first, second = names(1), names(2)
    assert first[::2] == first[1::2]
    assert len(set(first)) == len(first) / 2
    assert set(first) != set(second)
    assert first == names(1)


def test_as_many_views_as_epochs_are_a_new_one_each_epoch(photos):
    for epoch in (1, 2, 3):
        fresh, _ = batches(photos, epoch=epoch)
        assert torch.equal(fresh, batches(photos, epoch=epoch, views=3)[0])


def test_an_image_is_augmented_the_same_whatever_else_there_is(photos):
    images, _ = batches(photos)
    fewer, _ = batches(photos, drop=("red/0.png", "red/1.png", "red/2.png", "blue/0.png"))
    everything = {image.numpy().tobytes() for image in images}
    assert all(image.numpy().tobytes() in everything for image in fewer)


def test_drawing_images_leaves_the_global_generator_alone(photos):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    batches(photos)
    assert torch.equal(torch.rand(1), expected)


def test_a_last_batch_of_one_image_is_left_out(photos):
    assert len(batches(photos, batch_size=23)[0]) == 23


class Numbers:
    """Rows that are their own positions."""

    stack = staticmethod(torch.tensor)

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index[1], torch.tensor(0)


@pytest.mark.parametrize(("images", "steps"), [(17, 1), (33, 1), (49, 2), (50, 2)])
def test_processes_lose_no_batch_to_a_single_image_that_is_left(images, steps):
    loader, _ = train_loader(Numbers(images), batch_size=16, seed=0, workers=0)
    shards = [BatchSamplerShard(loader.batch_sampler, 2, rank) for rank in (0, 1)]
    batches = [list(shard) for shard in shards]
    assert [len(each) for each in batches] == [steps, steps]
    seen = {index for each in batches for batch in each for index in batch}
    assert len(seen) == images - (images % 16 == 1)
