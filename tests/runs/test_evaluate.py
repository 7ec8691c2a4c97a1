import shutil

import pytest

import zoo
from tests.conftest import COLOURS, QUICK, save_photo
from zoo.errors import DataError


def test_training_evaluate_and_predict_agree_to_the_last_image(run, split_photos):
    evaluation = run.evaluate(split_photos)
    images = sorted((split_photos / "val").rglob("*.png"))
    correct = sum(p.label == p.path.parent.name for p in run.predict(images))
    assert evaluation.images == len(images) == 12
    assert evaluation.accuracy == run.info.val_accuracy == correct / len(images)


@pytest.mark.medium
def test_the_held_out_images_of_a_flat_folder_are_found_again(photos, tmp_path):
    run = zoo.finetune(photos, out=tmp_path / "run", **QUICK)
    evaluation = run.evaluate(photos)
    assert evaluation.images == 6
    assert evaluation.accuracy == run.info.val_accuracy
    assert run.evaluate() == evaluation
    assert evaluation.source.endswith("validation images")
    assert run.evaluate(photos, split="all").images == 30
    moved = shutil.copytree(photos, tmp_path / "moved")
    assert run.evaluate(moved).images == 30


def test_a_folder_that_has_changed_since_training_is_said_to_have(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    run = zoo.finetune(root, out=tmp_path / "run", **QUICK)
    assert "changed since" not in run.evaluate(root).source
    for n in range(8):
        save_photo(root / "red" / f"new{n}.png", COLOURS["red"], n)
    assert "changed since" in run.evaluate(root).source


def test_classes_may_be_called_like_splits(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    (root / "red").rename(root / "valid")
    (root / "blue").rename(root / "test")
    run = zoo.finetune(root, out=tmp_path / "run", **QUICK)
    assert run.class_names == ("green", "test", "valid")
    assert run.evaluate(root).accuracy == run.info.val_accuracy
    elsewhere = shutil.copytree(root, tmp_path / "elsewhere")
    assert run.evaluate(elsewhere).images == 30


def test_a_split_that_there_is_not_is_refused(run):
    with pytest.raises(DataError, match=r"'dev'.* val, train, test, all"):
        run.evaluate(split="dev")
    with pytest.raises(DataError, match=r"\btest\b"):
        run.evaluate(split="test")


@pytest.mark.medium
def test_each_split_is_measured(run, split_photos, photos, tmp_path):
    for split, images in (("train", 24), ("all", 36)):
        found = run.evaluate(split=split)
        assert found.images == images
        # The run has learnt from them.
        assert [issue.kind for issue in found.issues] == ["note"]
    assert not run.evaluate().issues
    root = shutil.copytree(split_photos, tmp_path / "data")
    shutil.copytree(photos, root / "test")
    for split, images in (("val", 12), ("train", 24), ("test", 30), ("all", 66)):
        assert run.evaluate(root, split=split).images == images
    shutil.rmtree(root / "val")
    assert run.evaluate(root).images == 30  # test, which the run has not seen
    flat = zoo.finetune(photos, out=tmp_path / "run", **QUICK)
    assert flat.evaluate(split="train").images == 24


def test_a_class_without_images_is_not_taken_for_right(run, split_photos, tmp_path):
    root = shutil.copytree(split_photos / "val", tmp_path / "data")
    shutil.rmtree(root / "red")
    (issue,) = run.evaluate(root).issues
    assert issue.kind == "note"
    assert issue.reason.endswith(": red")


def test_what_was_passed_over_is_said(run, photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    (root / "red").rename(root / "x")
    (root / "red").mkdir()
    (root / "x").rename(root / "red" / "deeper")
    issue = run.evaluate(root).issues[0]
    assert (issue.kind, issue.name) == ("skipped", str(root / "red"))
    assert " 10 " in issue.reason


def test_metrics_equal_those_counted_by_hand(run, split_photos):
    evaluation = run.evaluate(split_photos / "train")
    images = sorted((split_photos / "train").rglob("*.png"))
    pairs = [(p.path.parent.name, p.label) for p in run.predict(images)]
    names = run.class_names
    assert evaluation.confusion == tuple(
        tuple(pairs.count((truth, taken)) for taken in names) for truth in names
    )
    for metrics in evaluation.classes:
        hits = pairs.count((metrics.name, metrics.name))
        taken = sum(label == metrics.name for _, label in pairs)
        precision, recall = (hits / taken if taken else 0.0), hits / metrics.images
        assert (metrics.precision, metrics.recall, metrics.images) == (precision, recall, 8)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        assert metrics.f1 == pytest.approx(f1)


def test_classes_that_the_model_lacks_are_refused(run, photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    (root / "red").rename(root / "violet")
    with pytest.raises(DataError, match=": violet"):
        run.evaluate(root)
