"""Train to learn, val to choose, test to report: where each comes from."""

import shutil

import pytest

import zoo
from tests.conftest import COLOURS, QUICK, make_photos, save_photo, zoo_
from zoo.data.sources import open_source
from zoo.data.split import read_splits
from zoo.errors import DataError
from zoo.events import EpochEnd
from zoo.integrity import verify
from zoo.planning.inputs import read_data
from zoo.recipe import Recipe


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


def test_a_val_split_that_has_no_effect_is_noted(split_photos):
    notes = []
    for val_split in (0.2, 0.0):
        recipe = Recipe(data=str(split_photos), val_split=val_split)
        read_data(recipe, notes.append)
    assert sum("val_split = 0 " in note.text for note in notes if note.warning) == 1


def test_a_place_that_is_split_itself_gives_the_split_of_that_name(three, split_photos):
    splits = read(three[0], val=str(split_photos))
    assert splits.counts(splits.val) == [4, 4, 4]
    with pytest.raises(DataError, match=r"\btest\b"):
        read(three[0], test=str(split_photos))


@pytest.mark.medium
def test_a_run_records_the_places_and_evaluate_reproduces_them(three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = zoo.finetune("learn", out="run", val="choose", test="report", **QUICK)
    assert (run.info.recipe.val, run.info.recipe.test) == tuple(map(str, three[1:]))
    monkeypatch.chdir("/")
    found = {split: run.evaluate(split=split) for split in ("train", "val", "test", "all")}
    images = {split: each.images for split, each in found.items()}
    assert images == {"train": 30, "val": 9, "test": 6, "all": 45}
    assert found["val"].accuracy == pytest.approx(run.info.val_metrics["accuracy"])
    assert found["test"].accuracy == pytest.approx(run.info.test_metrics["accuracy"])


def test_a_test_folder_without_labels_is_noted(split_photos, tmp_path):
    for name in ("0.png", "all/0.png"):
        root = shutil.copytree(split_photos, tmp_path / name.replace("/", "-"))
        save_photo(root / "test" / name, COLOURS["red"], 900)
        splits = read(root)
        assert not splits.test
        assert [issue.kind for issue in splits.issues] == ["skipped"]


@pytest.mark.parametrize("train", ["probe", "finetune", "probe+finetune"])
@pytest.mark.medium
def test_a_final_model_is_trained_on_all_images(photos, tmp_path, train):
    events = []
    fields = {**QUICK, "epochs": 2, "train": train, "freeze": "none"}
    out = tmp_path / "run"
    run = zoo.finetune(photos, out=out, val_split=0, listen=events.append, **fields)
    ends = [event for event in events if isinstance(event, EpochEnd)]
    assert all(end.best for end in ends)
    assert {end.interpolation for end in ends} <= {0.0, 1.0}
    assert not any(name.startswith("val_") for end in ends for name in end.metrics)
    assert run.info.epoch == (0 if train == "probe" else 2)
    assert run.info.score is None
    assert not run.info.val_metrics
    assert run.evaluate(split="train").images == 30
    with pytest.raises(DataError):
        run.evaluate()
    assert {finding.state for finding in verify(out)} <= {"ok", "unchecked"}


@pytest.mark.medium
def test_a_final_model_is_resumed_to_the_same_weights(photos, tmp_path):
    fields = {**QUICK, "epochs": 2, "val_split": 0}
    whole = zoo.finetune(photos, out=tmp_path / "whole", **fields)

    def stop(event):
        if isinstance(event, EpochEnd) and event.epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zoo.finetune(photos, out=tmp_path / "run", listen=stop, **fields)
    resumed = zoo.resume(tmp_path / "run")
    for name, tensor in whole.model.state_dict().items():
        assert tensor.equal(resumed.model.state_dict()[name])


@pytest.mark.medium
def test_a_final_model_is_measured_on_test_alone(three, tmp_path):
    out = tmp_path / "run"
    run = zoo.finetune(three[0], out=out, val_split=0, test=three[2], train="probe", **QUICK)
    assert set(run.info.test_metrics) >= {"accuracy", "loss"}
    assert run.evaluate(split="test").images == 6
    zoo_("predict", str(out), str(three[2]))


@pytest.mark.medium
def test_the_command_line_says_that_nothing_was_measured(photos):
    command = ["finetune", "--data", str(photos), "--val-split", "0", "--train", "probe"]
    for name in ("backbone", "weights", "image_size", "device"):
        command += [f"--{name.replace('_', '-')}", str(QUICK[name])]
    result = zoo_(*command)
    assert "not measured on held-out images" in result.output
