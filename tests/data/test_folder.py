import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import COLOURS, make_photos, save_photo
from tests.data.reading import of_kind, read_labelled, read_splits
from zoo.data.sources.layout import images_in
from zoo.errors import DataError


def read(root: Path, **options):
    return read_splits(root, **{"val_split": 0.2, "seed": 0, **options})


def names(samples):
    return [s.name for s in samples]


def test_a_flat_folder_is_split_class_by_class(photos):
    splits = read(photos)
    assert splits.class_names == ("blue", "green", "red")
    assert splits.counts(splits.train) == [8, 8, 8]
    assert splits.counts(splits.val) == [2, 2, 2]
    assert not set(names(splits.train)) & set(names(splits.val))


def test_the_split_depends_on_the_seed_alone(photos, tmp_path):
    assert read(photos) == read(photos)
    assert names(read(photos).val) != names(read(photos, seed=1).val)
    elsewhere = shutil.copytree(photos, tmp_path / "elsewhere")
    assert names(read(elsewhere).val) == names(read(photos).val)


def test_the_split_hardly_changes_when_photos_are_added(photos, tmp_path):
    more = shutil.copytree(photos, tmp_path / "more")
    save_photo(more / "red" / "new.png", COLOURS["red"], 1)
    before, after = set(names(read(photos).val)), set(names(read(more).val))
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_train_and_val_folders_are_taken_as_they_are(split_photos, tmp_path, val):
    root = shutil.copytree(split_photos, tmp_path / "data")
    (root / "val").rename(root / val)
    splits = read(root)
    assert splits.counts(splits.train) == [8, 8, 8]
    assert splits.counts(splits.val) == [4, 4, 4]
    assert all(n.startswith(f"{val}/") for n in names(splits.val))


def test_a_test_folder_chooses_no_model(split_photos, tmp_path):
    root = shutil.copytree(split_photos, tmp_path / "data")
    (root / "val").rename(root / "test")
    splits = read(root)
    assert splits.counts(splits.train) == [6, 6, 6]
    assert splits.counts(splits.val) == [2, 2, 2]
    assert splits.counts(splits.test) == [4, 4, 4]
    for image in (root / "test").rglob("*.png"):
        image.rename(root / "test" / f"{image.parent.name}-{image.name}")
    for folder in (root / "test").iterdir():
        if folder.is_dir():
            folder.rmdir()
    (issue,) = [issue for issue in read(root).issues if issue.name == str(root / "test")]
    assert issue.left_out


@pytest.mark.parametrize("name", ["cafe\u0301", "caf\u00e9 ", " caf\u00e9", "caf\u00e9"])
def test_class_names_that_look_the_same_are_one_class(split_photos, tmp_path, name):
    root = shutil.copytree(split_photos, tmp_path / "data")
    (root / "train" / "red").rename(root / "train" / "caf\u00e9")
    (root / "val" / "red").rename(root / "val" / name)
    splits = read(root)
    assert splits.class_names == ("blue", "caf\u00e9", "green")
    assert splits.counts(splits.val) == [4, 4, 4]
    if name != "caf\u00e9":
        shutil.copytree(root / "val" / name, root / "train" / name)
        splits = read(root)
        assert splits.counts(splits.train) == [8, 12, 8]
        assert splits.issues[0].kind == "note"
        assert repr(name) in splits.issues[0].reason or name in splits.issues[0].reason


@pytest.mark.parametrize(
    ("name", "named"), [("violet", r"train.*: violet"), ("Red", r"Red \(there is red\)")]
)
def test_val_classes_that_train_lacks_are_refused(split_photos, tmp_path, name, named):
    root = shutil.copytree(split_photos, tmp_path / "data")
    (root / "val" / "red").rename(root / "val" / name)
    with pytest.raises(DataError, match=named):
        read(root)


def test_a_class_that_is_left_without_images_says_why(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    shutil.rmtree(root / "green")
    for image in (root / "red").iterdir():
        image.rename(image.with_suffix(".NEF"))
    with pytest.raises(DataError, match=r"blue[\s\S]*10 \.nef"):
        read(root)
    (root / "red" / "0.NEF").rename(root / "red" / "0.png")
    for image in root.rglob("*.png"):
        image.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"\.png[\s\S]* 11 "):
        read(root)


def test_a_train_folder_alone_is_split(split_photos, tmp_path):
    shutil.copytree(split_photos / "train", tmp_path / "data" / "train")
    shutil.copytree(split_photos / "train", tmp_path / "data" / "extra")
    splits = read(tmp_path / "data")
    assert splits.counts(splits.val) == [2, 2, 2]
    assert [(issue.kind, issue.name, issue.left_out) for issue in splits.issues] == [
        ("skipped", str(tmp_path / "data"), True),
        ("note", str(tmp_path / "data"), False),
    ]
    assert "extra" in splits.issues[0].reason


def test_labels_of_val_follow_the_names_not_the_order(split_photos, tmp_path):
    root = shutil.copytree(split_photos, tmp_path / "data")
    shutil.rmtree(root / "val" / "blue")
    splits = read(root)
    assert splits.counts(splits.val) == [0, 4, 4]


def test_hidden_and_empty_folders_are_no_classes(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    shutil.copytree(photos / "red", root / ".cache")
    (root / "empty").mkdir()
    (root / "notes").mkdir()
    (root / "notes" / "a.txt").write_text("hello")
    splits = read(root)
    assert splits.class_names == ("blue", "green", "red")
    skipped = of_kind("skipped", splits.issues)
    assert [name for name, _ in skipped] == [str(root / "empty"), str(root / "notes"), str(root)]
    assert "1 .txt" in skipped[-1][1]


def test_images_in_deeper_folders_are_said_not_to_count(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    shutil.copytree(photos / "red", root / "deep" / "deeper")
    (issue,) = read(root).issues
    assert issue.name == str(root / "deep")
    assert " 10 " in issue.reason
    save_photo(root / "red" / "more" / "a.png", COLOURS["red"], 1)
    assert str(root / "red") in {issue.name for issue in read(root).issues}


def test_a_class_of_unreadable_images_only_is_no_class(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    for photo in (root / "red").iterdir():
        photo.write_bytes(b"broken")
    assert read(root).class_names == ("blue", "green")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda root: None, "{root}"),
        (lambda root: root.write_text("x"), "{root}"),
        (lambda root: root.mkdir(), "{root}"),
        (lambda root: save_photo(root / "a.png", (1, 1, 1), 0), r"{root} \(.*\b1 image\b"),
        (lambda root: save_photo(root / "only" / "a.png", (1, 1, 1), 0), "only"),
        (lambda root: make_photos(root, 1), "{root}: .* 0.2 "),
    ],
)
def test_folders_that_give_no_classes_are_refused(tmp_path, make, named):
    root = tmp_path / "data"
    make(root)
    with pytest.raises(DataError, match=named.format(root=root)):
        read(root)


def test_an_empty_val_folder_is_refused(split_photos, tmp_path):
    root = shutil.copytree(split_photos, tmp_path / "data")
    shutil.rmtree(root / "val")
    (root / "val").mkdir()
    with pytest.raises(DataError, match=str(root / "val")):
        read(root)


def test_labelled_folders_keep_the_class_map_of_the_model(photos):
    splits = read_labelled(photos, ["red", "yellow", "green", "blue"])
    assert splits.counts(splits.val) == [10, 0, 10, 10]
    with pytest.raises(DataError, match=": blue, green"):
        read_labelled(photos, ["red", "yellow"])


def test_images_are_found_in_subfolders_but_not_in_hidden_ones(tmp_path):
    for name in ("b.png", "sub/a.png", ".hidden/a.png", "sub/.a.png"):
        save_photo(tmp_path / name, (1, 1, 1), 0)
    (tmp_path / "notes.txt").write_text("x")
    assert [p.relative_to(tmp_path).as_posix() for p in images_in(tmp_path)] == [
        "b.png",
        "sub/a.png",
    ]


def test_files_that_no_decoder_knows_are_counted(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    for name in ("a.jxl", "b.JXL", "noext", "c.eps"):
        (root / "red" / name).write_bytes(b"x")
    assert {issue.kind for issue in read(root).issues} == {"skipped"}
    assert "2 .jxl" in read(root).issues[0].reason


def test_file_names_that_are_no_text_are_fine_but_not_class_names(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    odd = os.fsdecode(b"caf\xe9.png")
    shutil.copy(root / "red" / "0.png", root / "red" / odd)
    assert any(odd in s.name for s in (*read(root).train, *read(root).val))
    (root / "red").rename(root / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"caf\\udce9"):
        read(root)
