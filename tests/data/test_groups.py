"""Images of a group on one side of the split, and the warning where names suggest groups."""

import csv
import re
import shutil

import pytest
import torch

import zoo
from tests.conftest import COLOURS, QUICK, make_photos, save_photo
from zoo.data.check import check_data
from zoo.data.sources import open_source
from zoo.data.split import deal_folds, read_splits
from zoo.errors import DataError
from zoo.features.probe import Origin, fit_probe

FRAMES = r"(patient\d+)_"


def read(data, **options):
    return read_splits(open_source(data, **options), val_split=0.25, seed=0)


def frames(root, *, folder=False):
    """Eight patients of each of two classes, with four frames each."""
    for first, colour in ((0, "red"), (8, "green")):
        for patient in range(first, first + 8):
            for frame in range(4):
                between = "/" if folder else "_"
                name = f"patient{patient:02}{between}frame{frame}.png"
                save_photo(root / colour / name, COLOURS[colour], 10 * patient + frame)
    return root


def table_of(root, column, **more):
    """A table of the images in that folder, with their patients in a column."""
    header = ("path", "label", column, *more)
    rows = [
        (p.relative_to(root), p.parent.name, p.name[:9], *(value(p) for value in more.values()))
        for p in root.rglob("*.png")
    ]
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return root / "table.csv"


def apart(splits):
    """The groups on each side, which have none in common."""
    sides = [{s.group for s in side if s.group} for side in (splits.train, splits.val)]
    assert not sides[0] & sides[1]
    return sides


def test_a_pattern_keeps_the_images_of_a_patient_together(tmp_path):
    root = frames(tmp_path / "data")
    train, val = apart(read(root, group_by=FRAMES))
    assert (len(train), len(val)) == (12, 4)
    assert all(group.startswith("patient") for group in train | val)
    ungrouped = read(root)
    assert {s.name[:-5] for s in ungrouped.train} & {s.name[:-5] for s in ungrouped.val}


def test_several_groups_of_a_pattern_are_joined(tmp_path):
    splits = read(frames(tmp_path / "data"), group_by=r"(red|green)/patient(\d)")
    groups = {s.group for s in (*splits.train, *splits.val)}
    assert groups == {"red/0", "green/0", "green/1"}


def test_subfolders_of_class_folders_are_groups(tmp_path):
    root = frames(tmp_path / "data", folder=True)
    with pytest.raises(DataError):
        read(root)
    save_photo(root / "red" / "loose.png", COLOURS["red"], 999)
    save_photo(root / "red" / "patient00" / "second" / "deep.png", COLOURS["red"], 998)
    (root / "red" / "linked").symlink_to(root / "green" / "patient09")
    splits = read(root, group_by="folder")
    train, val = apart(splits)
    assert train | val == {f"patient{n:02}" for n in range(16)}
    assert len(splits.train) + len(splits.val) == 66
    deep = [s for s in (*splits.train, *splits.val) if s.name.endswith("deep.png")]
    assert [s.group for s in deep] == ["patient00"]
    assert {issue.kind for issue in splits.issues} == {"note", "skipped"}


def test_a_column_of_a_table_is_the_group(tmp_path):
    table = table_of(frames(tmp_path / "data"), "Animal")
    train, val = apart(read(table, group_by="animal"))
    assert (len(train), len(val)) == (12, 4)
    assert not read(table, group_by="animal").issues
    with pytest.raises(DataError):
        read(table, group_by="species")
    assert apart(read(table, group_by=FRAMES)) == [train, val]


@pytest.mark.parametrize("group_by", ["patient", "(patient", r"(donkey\d+)_", "folder", "^()"])
def test_what_gives_no_image_a_group_is_an_error(tmp_path, group_by):
    with pytest.raises(DataError, match="group_by"):
        read(frames(tmp_path / "data"), group_by=group_by)


def test_images_without_a_group_are_groups_of_their_own_and_counted(tmp_path):
    root = frames(tmp_path / "data")
    for n in range(3):
        save_photo(root / "red" / f"other{n}.png", COLOURS["red"], 900 + n)
    splits = read(root, group_by=FRAMES)
    (issue,) = splits.issues
    assert issue.kind == "note"
    assert "3 of 67" in issue.reason
    apart(splits)


def test_groups_on_both_sides_of_given_folders_are_noted(tmp_path):
    root = frames(tmp_path / "data" / "train").parent
    shutil.copytree(root / "train", root / "test")
    assert any("in both train and test" in i.reason for i in read(root, group_by=FRAMES).issues)


def test_one_group_can_not_be_split(tmp_path):
    with pytest.raises(DataError, match="group"):
        read(frames(tmp_path / "data"), group_by="(patient)")


def test_folds_of_the_probe_keep_groups_together():
    """Groups of noise that share a label: only a fold with half of a group knows its label."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(30, 64, generator=random)
    labels = torch.arange(30).remainder(2).repeat_interleave(6)
    groups = torch.arange(30).repeat_interleave(6)
    features = centres[groups] + 0.1 * torch.randn(180, 64, generator=random)
    origin = Origin(images=torch.arange(180), groups=groups)
    assert fit_probe(features, labels, 2).accuracy == 1
    assert fit_probe(features, labels, 2, origin=origin).accuracy < 0.75


def test_groups_of_any_size_are_dealt_evenly():
    sizes = [9, 5, 4, 4, 3, 3, 2, 2, 2, 1, 1]
    groups = [[label] * size for label in (0, 1) for size in sizes]
    dealt = deal_folds(groups, 3)
    for label in (0, 1):
        images = [0, 0, 0]
        for group, fold in zip(groups, dealt, strict=True):
            images[fold] += len(group) * (group[0] == label)
        assert max(images) - min(images) <= 1


def test_names_that_suggest_groups_are_a_finding(tmp_path):
    root = frames(tmp_path / "data")
    assert "related-names" in {finding.kind for finding in check_data(root).findings}
    table = table_of(root, "group")
    assert "related-names" not in {finding.kind for finding in check_data(table).findings}
    numbered = make_photos(tmp_path / "numbered", 12)
    assert "related-names" not in {finding.kind for finding in check_data(numbered).findings}


@pytest.mark.parametrize("name", ["{}_{:02}", "{}-{}", "{} ({})"])
def test_names_without_a_number_suggest_groups_too(tmp_path, name):
    animals = ("bella", "rex", "Max", "luna", "coco")
    for n, colour in enumerate(("red", "green")):
        for k, animal in enumerate(animals):
            for m in range(3):
                file = tmp_path / colour / f"{name.format(animal + colour[0], m)}.png"
                save_photo(file, COLOURS[colour], 100 * n + 10 * k + m)
    found = findings_by_kind(tmp_path)["related-names"]
    assert found.count == 30
    pattern = re.search(r"`group_by='(.*)'`", found.advice)[1]
    assert "related-names" not in findings_by_kind(tmp_path, group_by=pattern)


def findings_by_kind(data, **options):
    return {finding.kind: finding for finding in check_data(data, **options).findings}


def test_groups_that_are_given_are_no_finding_unless_they_are_on_both_sides(tmp_path):
    root = frames(tmp_path / "data")
    for n in range(3):
        save_photo(root / "red" / f"other{n}.png", COLOURS["red"], 900 + n)
    found = findings_by_kind(root, group_by=FRAMES)
    assert not {"related-names", "group-leakage"} & found.keys()
    assert found["without-group"].count == 3
    root.rename(tmp_path / "train")
    for split, patients in (("val", (0, 1)), ("test", (1, 8))):
        for patient in patients:
            for file in (tmp_path / "train").rglob(f"patient{patient:02}_frame0.png"):
                target = tmp_path / "both" / split / file.parent.name / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target.with_stem(f"{file.stem}-{split}"))
    (tmp_path / "train").rename(tmp_path / "both" / "train")
    found = check_data(tmp_path / "both", group_by=FRAMES).findings
    found = [each for each in found if each.kind == "group-leakage"]
    told = [(each.severity, each.count) for each in found]
    assert told == [("error", 2), ("error", 2), ("warning", 1)]
    paths = found[0].groups[0]
    assert paths[0] == "val/red/patient00_frame0-val.png"
    assert len(paths) == 5


def test_subfolders_are_checked_as_groups_on_request(tmp_path):
    root = frames(tmp_path / "data", folder=True)
    with pytest.raises(DataError, match="group_by"):
        check_data(root)
    save_photo(root / "red" / "loose.png", COLOURS["red"], 999)
    save_photo(root / "green" / "loose.png", COLOURS["green"], 998)
    found = findings_by_kind(root)
    assert found["nested"].count == 64
    assert "group_by" in found["nested"].advice
    report = check_data(root, group_by="folder")
    assert report.images == 66
    assert not {"nested", "related-names"} & {f.kind for f in report.findings}
    with pytest.raises(DataError, match="group_by"):
        check_data(root, group_by="patient")


def test_a_column_groups_the_rows_of_a_table_that_is_checked(tmp_path):
    root = frames(tmp_path / "data")
    table = table_of(root, "animal", split=lambda p: "val" if p.stem.endswith("0") else "train")
    assert findings_by_kind(table, group_by="animal")["group-leakage"].count == 16
    with pytest.raises(DataError, match="species"):
        check_data(table, group_by="species")


def test_copies_within_a_group_are_not_said_to_be_separated(tmp_path):
    root = frames(tmp_path / "data", folder=True)
    copy = root / "red" / "patient00" / "copy.png"
    shutil.copy(root / "red" / "patient00" / "frame0.png", copy)
    assert "split" not in findings_by_kind(root, group_by="folder")["duplicates"].text
    copy.rename(root / "red" / "patient01" / "copy.png")
    assert "split" in findings_by_kind(root, group_by="folder")["duplicates"].text


@pytest.mark.medium
def test_a_run_warns_of_related_names_unless_they_are_grouped(tmp_path):
    root = frames(tmp_path / "data")
    with pytest.warns(UserWarning, match="related"):
        zoo.finetune(root, out=tmp_path / "warned", **QUICK)
    run = zoo.finetune(root, out=tmp_path / "run", group_by=FRAMES, val_split=0.25, **QUICK)
    assert run.evaluate().images == 16
    assert not run.evaluate().issues
    assert run.info.recipe.group_by == FRAMES
    with pytest.raises(zoo.ZooError):
        zoo.resume(tmp_path / "run", group_by="(patient)")
