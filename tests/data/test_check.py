"""What is wrong with a data folder is found, each thing by planting it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import zoo
from tests.data.scenes import (
    findings_of,
    garble,
    make_scenes,
    make_split_scenes,
    save,
    scene,
    settle,
)
from zoo.data.image import read_image
from zoo.errors import DataError


def finding(root: Path, kind: str):
    return next((f for f in zoo.check_data(root).findings if f.kind == kind), None)


@pytest.fixture
def root(tmp_path):
    return make_split_scenes(tmp_path / "data")


@pytest.fixture
def flat(tmp_path):
    return make_scenes(tmp_path / "flat", 4)


def test_nothing_is_said_of_a_folder_with_nothing_wrong(root, flat):
    assert findings_of(zoo.check_data(root)) == []
    assert findings_of(zoo.check_data(flat)) == []


def test_images_are_counted_by_split_and_class(root, flat):
    report = zoo.check_data(root)
    assert report.counts == {"train": {"ants": 4, "bees": 4}, "val": {"ants": 2, "bees": 2}}
    assert report.images == 12
    assert report.formats == {"PNG": 12}
    assert report.modes == {"RGB": 12}
    assert zoo.check_data(str(flat)).counts == {"": {"ants": 4, "bees": 4}}


def copy(root, source, target):
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / source, root / target)


def add_test(root):
    """Two test pictures of each class, nothing wrong with them."""
    make_scenes(root / "test", 2, first_seed=700)
    return root


def imbalanced(root):
    for n in range(40):
        save(scene(100 + n), root / "train" / "ants" / f"more-{n}.png")


def huge(root):
    save(Image.new("1", (8000, 6400)), root / "train" / "ants" / "huge.png")


def modes(root):
    save(scene(70).convert("L"), root / "train" / "ants" / "grey.png")
    save(scene(71).convert("CMYK"), root / "train" / "ants" / "print.jpg")
    save(scene(72).convert("RGBA"), root / "train" / "bees" / "sticker.png")
    deep = np.asarray(scene(73).convert("L")).astype(np.uint16) * 257
    save(Image.fromarray(deep), root / "train" / "bees" / "deep.png")
    save(scene(74).quantize(), root / "train" / "bees" / "palette.png")


#: kind: (severity, count, what plants it, paths)
PLANTED = {
    "leakage": (
        "error",
        1,
        lambda root: copy(root, "train/ants/0.png", "val/ants/same.png"),
        {"train/ants/0.png", "val/ants/same.png"},
    ),
    "label-conflict": (
        "error",
        1,
        lambda root: copy(root, "train/ants/0.png", "train/bees/same.png"),
        {"train/ants/0.png", "train/bees/same.png"},
    ),
    "near-leakage": (
        "error",
        1,
        lambda root: save(scene(0).resize((120, 90)), root / "val" / "ants" / "small.jpg"),
        {"train/ants/0.png", "val/ants/small.jpg"},
    ),
    "near-conflict": (
        "warning",
        2,
        lambda root: save(scene(0), root / "train" / "bees" / "other.jpg", quality=70),
        {"train/ants/0.png", "train/bees/other.jpg"},
    ),
    "duplicates": (
        "warning",
        1,
        lambda root: copy(root, "train/ants/0.png", "train/ants/copy.png"),
        {"train/ants/0.png", "train/ants/copy.png"},
    ),
    "near-duplicates": (
        "note",
        1,
        lambda root: save(scene(0), root / "train" / "ants" / "again.jpg", quality=70),
        {"train/ants/0.png", "train/ants/again.jpg"},
    ),
    "unreadable": (
        "error",
        1,
        lambda root: (root / "train" / "ants" / "0.png").write_bytes(b"broken"),
        {"train/ants/0.png"},
    ),
    "imbalance": ("warning", 2, imbalanced, set()),
    "unknown-classes": (
        "error",
        1,
        lambda root: save(scene(60), root / "val" / "wasps" / "0.png"),
        {"wasps"},
    ),
    "classes-without-val": (
        "warning",
        1,
        lambda root: save(scene(60), root / "train" / "wasps" / "0.png"),
        {"wasps"},
    ),
    "too-few-classes": ("error", 1, lambda root: shutil.rmtree(root / "train" / "bees"), {"ants"}),
    "empty-classes": (
        "warning",
        1,
        lambda root: (root / "train" / "wasps").mkdir(),
        {"train/wasps"},
    ),
    "outside-links": (
        "error",
        1,
        lambda root: (root / "train" / "ants" / "more.png").symlink_to(
            save(scene(60), root.parent / "elsewhere.png")
        ),
        {"train/ants/more.png"},
    ),
    "broken-links": (
        "warning",
        2,
        lambda root: [
            (root / "train" / "round").symlink_to(".."),
            (root / "gone").symlink_to("nowhere"),
        ],
        {"train/round", "gone"},
    ),
    "alike-class-names": (
        "warning",
        2,
        lambda root: save(scene(60), root / "train" / "Ants " / "0.png"),
        {"ants", "Ants"},
    ),
    "tiny": (
        "warning",
        1,
        lambda root: save(scene(60, (31, 200)), root / "train" / "ants" / "thin.png"),
        {"train/ants/thin.png"},
    ),
    "huge": ("note", 1, huge, {"train/ants/huge.png"}),
    "wrong-extension": (
        "warning",
        1,
        lambda root: save(scene(60), root / "train" / "ants" / "a.jpg", format="PNG"),
        {"train/ants/a.jpg"},
    ),
    "colour-modes": ("note", 6, modes, set()),
    "few-images": ("warning", 2, lambda root: None, {"ants", "bees"}),
    "few-val-images": ("warning", 4, lambda root: None, set()),
    "nested": (
        "warning",
        1,
        lambda root: save(scene(60), root / "train" / "ants" / "more" / "a.png"),
        {"train/ants/more/a.png"},
    ),
    "loose": (
        "warning",
        2,
        lambda root: [save(scene(60), root / "a.png"), save(scene(61), root / "train" / "b.png")],
        {"a.png", "train/b.png"},
    ),
    "unused-folders": (
        "note",
        1,
        lambda root: save(scene(60), root / "extra" / "ants" / "a.png"),
        {"extra/ants/a.png"},
    ),
    "classes-without-test": (
        "warning",
        1,
        lambda root: save(scene(60), root / "test" / "ants" / "a.png"),
        {"bees"},
    ),
    "few-test-images": ("warning", 4, lambda root: add_test(root), set()),
    "test-in-val": (
        "warning",
        2,
        lambda root: [
            copy(add_test(root), "val/ants/0.png", "test/ants/same.png"),
            save(scene(501).resize((80, 60)), root / "test" / "ants" / "small.jpg"),
        ],
        {"val/ants/0.png", "test/ants/same.png", "val/ants/1.png", "test/ants/small.jpg"},
    ),
    "no-images": (
        "note",
        2,
        lambda root: [(root / "a.txt").write_text("x"), (root / "train/ants/b.JXL").write_text("")],
        {"a.txt", "train/ants/b.JXL"},
    ),
}


#: Numbers of the text, beside the count.
SAID = {"imbalance": "11 times", "colour-modes": "12 RGB, 1 ", "no-images": "1 .txt, 1 .jxl"}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.medium
def test_what_is_planted_is_found_and_nothing_else_of_its_weight(root, kind):
    severity, count, plant, paths = PLANTED[kind]
    plant(root)
    found = finding(root, kind)
    assert found is not None
    assert (found.severity, found.count) == (severity, count)
    assert SAID.get(kind, "") in found.text
    assert {path for group in found.groups for path in group} == paths
    assert found.advice
    errors = {f.kind for f in zoo.check_data(root).findings if f.severity == "error"}
    # A class that train lost is unknown to it; that val has it remains to be said.
    also = {"unknown-classes"} if kind == "too-few-classes" else set()
    assert errors - also == ({kind} if severity == "error" else set())


def test_every_kind_of_finding_is_on_the_page_with_its_severity(root):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for kind, (severity, *_) in PLANTED.items():
        assert any(f"`{kind}`" in row and f"| {severity} |" in row for row in rows)


def cropped(image):
    width, height = image.size
    return image.crop((width // 100, height // 100, width - width // 100, height - height // 100))


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: image.resize((80, 60)),
        lambda image: image.resize((320, 240)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.15),
        cropped,
        lambda image: image.convert("L"),
    ],
)
@pytest.mark.parametrize("form", ["png", "jpg", "webp"])
def test_edited_copies_look_the_same(root, edit, form):
    save(edit(scene(0)), root / "val" / "ants" / f"copy.{form}")
    (group,) = finding(root, "near-leakage").groups
    assert group == (f"val/ants/copy.{form}", "train/ants/0.png")


@pytest.mark.slow
def test_two_hundred_different_pictures_do_not_look_the_same(tmp_path):
    make_scenes(tmp_path / "many", 100)
    assert findings_of(zoo.check_data(tmp_path / "many")) == []


def test_plain_pictures_are_not_said_to_look_the_same(root):
    for split, colour in (("train", "red"), ("train", "black"), ("val", "blue")):
        save(Image.new("RGB", (64, 64), colour), root / split / "ants" / f"{colour}.png")
    assert findings_of(zoo.check_data(root)) == []


def test_a_photo_turned_by_its_camera_is_the_same_as_one_turned_for_good(root):
    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = scene(0).transpose(Image.Transpose.ROTATE_90)
    save(sideways, root / "val" / "ants" / "camera.jpg", exif=turned, quality=95)
    assert finding(root, "near-leakage").count == 1


def test_before_zoo_splits_copies_are_said_to_end_on_both_sides(flat):
    copy(flat, "ants/0.png", "ants/copy.png")
    save(scene(1), flat / "ants" / "again.jpg")
    for kind in ("duplicates", "near-duplicates"):
        found = finding(flat, kind)
        assert found.severity == "warning"
        assert found.count == 1


def test_one_copy_in_train_and_val_and_another_class_is_a_conflict_alone(root):
    copy(root, "train/ants/0.png", "val/ants/same.png")
    copy(root, "train/ants/0.png", "val/bees/same.png")
    found = findings_of(zoo.check_data(root))
    assert [f.kind for f in found] == ["label-conflict"]
    assert len(found[0].groups[0]) == 3


def errors_of(root):
    return {f.kind: f for f in zoo.check_data(root).findings if f.severity == "error"}


def test_a_test_split_is_counted_and_nothing_is_said_of_one_with_nothing_wrong(root):
    report = zoo.check_data(add_test(root))
    assert findings_of(report) == []
    assert report.counts["test"] == {"ants": 2, "bees": 2}
    assert report.totals == {"train": 8, "val": 4, "test": 4}
    shutil.rmtree(root / "val")
    report = zoo.check_data(root)
    assert findings_of(report) == []
    assert report.totals == {"": 8, "test": 4}


@pytest.mark.parametrize("val", [True, False])
def test_train_images_in_test_are_leakage(root, val):
    add_test(root)
    if not val:
        shutil.rmtree(root / "val")
    copy(root, "train/ants/0.png", "test/ants/same.png")
    save(scene(1001).resize((80, 60)), root / "test" / "bees" / "small.jpg")
    found = errors_of(root)
    assert found.keys() == {"leakage", "near-leakage"}
    assert all(f.count == 1 and "of test" in f.text for f in found.values())
    assert {*found["leakage"].groups[0]} == {"train/ants/0.png", "test/ants/same.png"}
    assert found["near-leakage"].groups == (("test/bees/small.jpg", "train/bees/1.png"),)


def test_an_image_in_all_splits_and_another_class_is_a_conflict_alone(root):
    for name in ("val/ants/same.png", "test/bees/same.png"):
        copy(add_test(root), "train/ants/0.png", name)
    (found,) = findings_of(zoo.check_data(root))
    assert (found.kind, found.count, len(found.groups[0])) == ("label-conflict", 1, 3)


def test_copies_and_classes_within_test_are_findings(root):
    copy(add_test(root), "test/ants/0.png", "test/ants/copy.png")
    save(scene(60), root / "test" / "wasps" / "a.png")
    (root / "test" / "bees" / "0.png").write_bytes(b"torn")
    assert finding(root, "duplicates").count == 1
    found = errors_of(root)
    assert found.keys() == {"unknown-classes", "unreadable"}
    assert found["unknown-classes"].groups == (("wasps",),)


def test_a_test_folder_without_classes_of_train_is_not_used(root):
    save(scene(60), root / "test" / "unknown" / "a.png")
    assert finding(root, "unused-folders").groups == (("test/unknown/a.png",),)


def test_the_test_rows_of_a_table_are_checked(root):
    copy(add_test(root), "train/ants/0.png", "test/ants/same.png")
    rows = [p.relative_to(root).as_posix() for p in sorted(root.rglob("*.png"))]
    lines = [f"{row},{row.split('/')[1]},{row.split('/')[0]}" for row in rows]
    table = root / "table.csv"
    table.write_text("\n".join(["path,label,split", *lines]))
    report = zoo.check_data(table)
    assert report.counts == zoo.check_data(root).counts
    assert finding(table, "leakage").count == 1
    table.write_text("\n".join(["path,label,split", *(s for s in lines if "train" not in s)]))
    with pytest.raises(DataError):
        zoo.check_data(table)


@pytest.mark.parametrize("name", ["gone", "file"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=name):
        zoo.check_data(tmp_path / name)


def test_a_link_that_leads_nowhere_is_named(root):
    (root / "train" / "ants" / "gone.png").symlink_to("nowhere.png")
    paths = {p for f in zoo.check_data(root).findings for g in f.groups for p in g}
    assert "train/ants/gone.png" in paths


def test_an_animation_is_named_as_training_would_leave_it_out(root):
    frames = [scene(77 + n).quantize() for n in range(2)]
    frames[0].save(root / "train" / "ants" / "a.gif", save_all=True, append_images=frames[1:])
    assert finding(root, "unreadable").groups == (("train/ants/a.gif",),)


def test_what_was_found_is_remembered_until_the_file_changes(root):
    settle(root)
    before = zoo.check_data(root)
    photo = root / "train" / "ants" / "0.png"
    garble(photo)
    assert zoo.check_data(root) == before
    os.utime(photo)
    assert finding(root, "unreadable").groups == (("train/ants/0.png",),)


def test_a_file_of_another_size_is_looked_at_again(root):
    settle(root)
    zoo.check_data(root)
    photo = root / "train" / "ants" / "0.png"
    stat = photo.stat()
    photo.write_bytes(photo.read_bytes() + b"\0")
    os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    copy(root, "train/ants/0.png", "train/ants/copy.png")
    assert finding(root, "duplicates").count == 1


def test_a_file_that_changed_just_now_is_not_trusted_to_stay(root):
    zoo.check_data(root)
    garble(root / "train" / "ants" / "0.png")
    assert finding(root, "unreadable").count == 1


def test_what_can_not_be_read_is_tried_again(root):
    photo = root / "train" / "ants" / "0.png"
    good = photo.read_bytes()
    photo.write_bytes(b"\0" * len(good))
    settle(root)
    assert finding(root, "unreadable").count == 1
    stat = photo.stat()
    photo.write_bytes(good)
    os.utime(photo, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert finding(root, "unreadable") is None


def test_without_room_to_remember_all_is_found_and_that_is_said(root, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "file"))
    settle(root)
    report = zoo.check_data(root)
    assert findings_of(report) == []
    assert "can't" in report.not_remembered


def test_progress_is_told_of_every_image(root):
    told = []
    zoo.check_data(root, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (12, 12)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_torn_jpeg_is_found_though_it_is_decoded_at_a_part_of_its_size(root, share):
    whole = save(scene(60, (1600, 1200)), root / "train" / "ants" / "torn.jpg", quality=90)
    content = whole.read_bytes()
    whole.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"torn\.jpg"):
        read_image(whole)
    assert finding(root, "unreadable").groups == (("train/ants/torn.jpg",),)
