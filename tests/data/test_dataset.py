import pytest
import torch

from zoo import plugins
from zoo.data.dataset import train_loader
from zoo.data.folder import read_splits
from zoo.data.transforms import train_transform


def batches(photos, *, workers=0, epoch=1, batch_size=4, seed=0, drop=()):
    samples = read_splits(photos, val_split=0.2, seed=0).train
    samples = [s for s in samples if s.name not in drop]
    preprocess = plugins.get("timm/test_efficientnet").preprocess
    loader, sampler = train_loader(
        samples,
        train_transform(preprocess, "strong", True),
        batch_size=batch_size,
        seed=seed,
        workers=workers,
    )
    sampler.epoch = epoch
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_augmentation_does_not_depend_on_workers_or_batches(photos):
    images, labels = batches(photos)
    for other in (batches(photos, workers=2), batches(photos, batch_size=8)):
        assert torch.equal(images, other[0])
        assert torch.equal(labels, other[1])


def test_augmentation_and_order_depend_on_seed_and_epoch(photos):
    images, _ = batches(photos)
    assert not torch.equal(images, batches(photos, epoch=2)[0])
    assert not torch.equal(images, batches(photos, seed=1)[0])


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
