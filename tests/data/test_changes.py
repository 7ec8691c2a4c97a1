"""Photos that vanish or change while a run uses them."""

import gc
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.conftest import COLOURS, QUICK, save_photo, zoo_
from tests.data.reading import read_splits
from tests.fuzz.images_support import within
from zoo import planning
from zoo.cache import image_key
from zoo.data.dataset import ImageDataset, eval_loader, raising
from zoo.data.decoded import DecodedImages, content_keys
from zoo.data.transforms import eval_transform
from zoo.errors import DataError
from zoo.training import train as training

FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]


def vanish(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    save_photo(path, COLOURS["green"], 99)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES = [
    (vanish, "unreadable image {}: there is no such file"),
    (change, "{} has changed since it was first read; start again"),
    (become_a_pipe, "unreadable image {}: it is a named pipe, not a file"),
]


@pytest.fixture
def root(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "data")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("spoil", "message"), CHANGES)
def test_a_loader_says_which_photo_it_is_and_ends(root, run, spoil, message, workers):
    splits = read_splits(root, val_split=0.2, seed=0)
    path = splits.train[5].file
    spoil(path)
    decoded = DecodedImages(splits.train, eval_transform(run.info.preprocess).prepare)
    loader = eval_loader(ImageDataset(decoded), batch_size=4, workers=workers)
    with within(20), pytest.raises(DataError) as error:
        list(raising(loader))
    assert str(error.value) == message.format(path)
    del loader, error
    gc.collect()
    until = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("train", ["probe", "finetune"])
def test_finetune_ends_with_one_line_and_exit_code_2(root, monkeypatch, train):
    path = root / "red" / "1.png"
    plan = planning.prepare

    def plan_then_vanish(*args, **kwargs):
        prepared = plan(*args, **kwargs)
        path.unlink()
        return prepared

    monkeypatch.setattr(planning, "prepare", plan_then_vanish)
    result = zoo_("finetune", "--data", str(root), "--out=run", f"--train={train}", *FLAGS, code=2)
    (error,) = result.stderr.splitlines()
    assert f" {path}: " in error


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_photo_that_changes_between_two_epochs_ends_the_run(
    split_photos, tmp_path, monkeypatch, split, workers
):
    root = shutil.copytree(split_photos, tmp_path / "data")
    path = root / split / "red" / "1.png"
    validate = training.validate

    def validate_then_change(*args):
        found = validate(*args)
        change(path)
        return found

    monkeypatch.setattr(training, "validate", validate_then_change)
    asked = [f"--data={root}", "--out=run", "--train=finetune", *FLAGS, "--epochs=3"]
    result = zoo_("finetune", *asked, "--cache-size=0", f"--workers={workers}", code=2)
    said, kept, resume = result.stderr.splitlines()
    assert said.startswith(f"Error: {path} ")
    assert "epoch 1" in kept
    assert resume.endswith("zoo finetune --resume run")


def test_what_is_kept_is_never_another_picture_s(root, run):
    splits = read_splits(root, val_split=0.2, seed=0)
    path = splits.train[0].file
    prepare = eval_transform(run.info.preprocess).prepare
    kept: dict[bytes, object] = {}

    class Kept(dict):
        def append(self, items):
            kept.update(items)

    change(path)
    decoded = DecodedImages(splits.train, prepare, store=Kept(), keys=content_keys(splits.train))
    with pytest.raises(DataError, match=path.name):
        decoded.fill()
    assert kept == {}


def test_a_photo_is_hashed_once(root):
    splits = read_splits(root, val_split=0.2, seed=0)
    path = splits.train[0].file
    expected = image_key(path.read_bytes())
    path.unlink()
    assert content_keys(splits.train)[0] == expected
