"""Train to learn, val to choose, test to report: where each comes from."""

import shutil

import pytest

import zoo
from tests.conftest import COLOURS, QUICK, make_photos, save_photo
from zoo.data.sources import open_source
from zoo.data.split import read_splits
from zoo.errors import DataError


def read(data, **options):
    return read_splits(open_source(data, **options), val_split=0.2, seed=0)


@pytest.fixture
def three(tmp_path):
    """Folders for each role, of 10, 3 and 2 photos a class."""
    return [
        make_photos(tmp_path / name, count, first_seed=seed)
        for name, count, seed in (("learn", 10, 0), ("choose", 3, 400), ("report", 2, 700))
    ]


def test_val_and_test_may_be_in_other_places(three):
    learn, choose, report = three
    splits = read(learn, val=str(choose), test=str(report))
    assert splits.counts(splits.train) == [10, 10, 10]
    assert splits.counts(splits.val) == [3, 3, 3]
    assert splits.counts(splits.test) == [2, 2, 2]
    assert not splits.issues
    only_test = read(learn, test=str(report))
    assert only_test.counts(only_test.val) == [2, 2, 2]
    assert not {s.content for s in only_test.val} & {s.content for s in only_test.test}


def test_a_split_of_the_data_is_replaced_and_this_is_noted(three, split_photos):
    splits = read(split_photos, val=str(three[1]))
    assert splits.counts(splits.val) == [3, 3, 3]
    assert [issue.kind for issue in splits.issues] == ["skipped"]


def test_a_place_that_is_split_itself_gives_the_split_of_that_name(three, split_photos):
    splits = read(three[0], val=str(split_photos))
    assert splits.counts(splits.val) == [4, 4, 4]
    with pytest.raises(DataError, match="no test split"):
        read(three[0], test=str(split_photos))


def test_a_run_records_the_places_and_evaluate_reproduces_them(three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = zoo.finetune("learn", out="run", val="choose", test="report", **QUICK)
    assert (run.info.recipe.val, run.info.recipe.test) == tuple(map(str, three[1:]))
    monkeypatch.chdir("/")
    found = {split: run.evaluate(split=split) for split in ("train", "val", "test", "all")}
    assert {split: each.images for split, each in found.items()} == {
        "train": 30,
        "val": 9,
        "test": 6,
        "all": 45,
    }
    assert found["val"].accuracy == pytest.approx(run.info.val_metrics["accuracy"])
    assert found["test"].accuracy == pytest.approx(run.info.test_metrics["accuracy"])


def test_a_test_folder_without_labels_is_noted(split_photos, tmp_path):
    for name in ("0.png", "all/0.png"):
        root = shutil.copytree(split_photos, tmp_path / name.replace("/", "-"))
        save_photo(root / "test" / name, COLOURS["red"], 900)
        splits = read(root)
        assert not splits.test
        assert [issue.kind for issue in splits.issues] == ["skipped"]
