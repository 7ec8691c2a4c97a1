"""Classes with few images, left out by `min_count`."""

import json
import shutil
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, make_photos
from tests.data.reading import of_kind
from zoo.data.sources import frequent, open_source
from zoo.data.split import read_splits
from zoo.errors import DataError
from zoo.events import ignore


@pytest.fixture
def photos_with_few_blue(tmp_path):
    photos = make_photos(tmp_path / "photos", 8)
    for n in range(3, 8):
        (photos / "blue" / f"{n}.png").unlink()
    return photos


def read(data, *, min_count, **options):
    source = frequent(open_source(data, **options), min_count)
    return read_splits(source, val_split=0.25, seed=0)


def write(folder: Path, labels_of) -> Path:
    photos = make_photos(folder / "photos", 8)
    rows = [
        {"path": str(file.relative_to(folder)), "label": labels_of(n, file.parent.name)}
        for n, file in enumerate(sorted(photos.rglob("*.png")))
    ]
    table = folder / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    return table


def test_images_of_rare_classes_are_left_out_and_this_is_said(photos_with_few_blue):
    splits = read(photos_with_few_blue, min_count=4)
    assert splits.class_names == ("green", "red")
    assert len(splits.train) + len(splits.val) == 16
    ((_, reason),) = of_kind("skipped", splits.issues)
    assert "blue (3)" in reason
    assert "3 train images" in reason
    assert read(photos_with_few_blue, min_count=3) == read(photos_with_few_blue, min_count=1)


def test_a_rare_class_is_left_out_of_val_and_test_too(photos_with_few_blue, tmp_path):
    other = make_photos(tmp_path / "other", 2, first_seed=500)
    splits = read(photos_with_few_blue, val=str(other), test=str(other), min_count=4)
    for split in (splits.val, splits.test):
        assert splits.counts(split) == [2, 2]
        assert len(split) == 4


def test_images_of_several_labels_only_lose_the_rare_ones(tmp_path):
    def labels_of(n, colour):
        return {0: [colour, "odd"], 1: ["odd"]}.get(n, [colour])

    splits = read(write(tmp_path, labels_of), min_count=3)
    assert splits.class_names == ("blue", "green", "red")
    labels = {s.name: s.labels for s in (*splits.train, *splits.val)}
    assert len(labels) == 24
    assert labels["photos/blue/0.png"] == ("blue",)
    assert labels["photos/blue/1.png"] == ()


def test_two_classes_must_be_left(photos):
    with pytest.raises(DataError):
        read(photos, min_count=100)


@pytest.mark.medium
def test_a_run_records_it_and_evaluates_the_same_images(photos_with_few_blue):
    shutil.move(photos_with_few_blue, "photos")
    run = zoo.finetune("photos", out="run", min_count=4, listen=ignore, **QUICK)
    assert run.class_names == ("green", "red")
    assert run.info.recipe.min_count == 4
    figures = run.evaluate()
    classes = {name.partition("/")[0] for name in figures.rows["name"]}
    assert classes == {"green", "red"}
    assert any("blue" in issue.reason for issue in figures.issues)
