"""`zoo data check` of images with several labels: planted faults of a table, and its clean copy."""

import csv
import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import zoo
from tests.cli.test_data_labels import backbone, fill
from tests.conftest import COLOURS, save_photo, zoo_

__all__ = ["backbone"]

NAMES = sorted(COLOURS)


def labels_of(n):
    return [name for bit, name in enumerate(NAMES) if n % 8 >> bit & 1]


def write(file, rows, header=("path", "labels")):
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])
    return file


@pytest.fixture
def images(tmp_path):
    """Photos whose colour is the sum of those of their labels; six for each set of labels."""
    for n in range(48):
        colours = [COLOURS[name] for name in labels_of(n)]
        colour = tuple(np.sum(colours, axis=0).clip(0, 255).tolist()) if colours else (9, 9, 9)
        save_photo(tmp_path / "img" / f"{n}.png", colour, n)
    return tmp_path


@pytest.fixture
def table(images):
    """The right labels, but for one that is missing (3.png), and one too many (12.png)."""
    rows = []
    for n in range(48):
        names = labels_of(n)
        if n == 3:
            names = names[:1]
        if n == 12:
            names = [NAMES[0], *names]
        rows.append((f"img/{n}.png", "|".join(names), f"note {n}"))
    return write(images / "table.csv", rows, ("path", "labels", "remark"))


def findings(data, code=0):
    report = json.loads(zoo_("data", "check", data, "--format", "json", code=code).stdout)
    return {each["kind"]: each for each in report["findings"]}


def read(file):
    with file.open(newline="") as lines:
        return {row["path"]: row for row in csv.DictReader(lines)}


def check(table, backbone, *args):
    return zoo_("data", "check", table, "--backbone", backbone, "--labels", *args).stdout


@pytest.mark.medium
def test_a_missing_and_a_wrong_label_are_first_and_are_put_right_in_a_copy(table, backbone):
    report = json.loads(check(table, backbone, "--format", "json"))
    found = report["features"]["suspects"]
    right, wrong = labels_of(3), labels_of(12)
    by_change = {
        (each["path"], each["change"], each["label"], each["suggested"]) for each in found[:2]
    }
    assert by_change == {
        ("img/3.png", "add", right[1], "|".join(right)),
        ("img/12.png", "remove", NAMES[0], "|".join(wrong)),
    }
    assert len(found) <= 4
    before = table.read_bytes()
    accepted, page = table.with_name("labels.csv"), table.with_name("page.html")
    shown = check(table, backbone, "--labels-to", accepted, "--html", page)
    assert f"add {right[1]}" in shown
    assert f"remove {NAMES[0]}" in shown
    assert f"remove {NAMES[0]}" in page.read_text()
    fill(accepted, lambda row: "yes" if row["path"] in ("img/3.png", "img/12.png") else "")
    copy = table.with_name("clean.csv")
    zoo_("data", "check", table, "--labels-from", accepted, "--fix-to", copy)
    rows = read(copy)
    assert {path: row["labels"] for path, row in rows.items()} == {
        f"img/{n}.png": "|".join(labels_of(n)) for n in range(48)
    }
    assert rows["img/7.png"]["remark"] == "note 7"
    listed = json.loads(table.with_name("clean.left-out.json").read_text())
    assert sorted(each["path"] for each in listed["relabelled"]) == ["img/12.png", "img/3.png"]
    assert table.read_bytes() == before


def accept(table, rows):
    header = ("path", "given", "suggested", "accept")
    return write(table.with_name("labels.csv"), rows, header)


def test_rows_of_one_image_are_joined_and_names_replace_all_labels(table):
    given = "|".join(labels_of(7))
    assert given == "|".join(NAMES)
    rows = [
        ("img/7.png", given, f"{NAMES[1]}|{NAMES[2]}", "yes"),
        ("img/7.png", given, f"{NAMES[0]}|{NAMES[1]}", "yes"),
        ("img/1.png", NAMES[0], "", "yes"),
        ("img/2.png", NAMES[1], "", f"{NAMES[2]} | {NAMES[0]}"),
        ("img/4.png", NAMES[2], "", "no"),
    ]
    copy = table.with_name("clean.csv")
    zoo_("data", "check", table, "--labels-from", accept(table, rows), "--fix-to", copy)
    found = {path: row["labels"] for path, row in read(copy).items()}
    assert found["img/7.png"] == NAMES[1]
    assert found["img/1.png"] == ""
    assert found["img/2.png"] == f"{NAMES[2]}|{NAMES[0]}"
    assert found["img/4.png"] == NAMES[2]


@pytest.mark.parametrize(
    "rows",
    [
        [("img/1.png", NAMES[0], "", "wasp")],
        [("img/1.png", NAMES[1], "", "yes")],
        [("img/1.png", NAMES[0], "", "yes"), ("img/1.png", NAMES[0], "", NAMES[2])],
        [("img/99.png", NAMES[0], "", "yes")],
        [("img/1.png", NAMES[0], NAMES[0], "yes")],
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(table, rows):
    file, copy = accept(table, rows), table.with_name("clean.csv")
    shown = zoo_("data", "check", table, "--labels-from", file, "--fix-to", copy, code=2)
    assert "labels.csv" in shown.stderr
    assert not list(table.parent.glob("*clean*"))


def test_a_copy_elsewhere_reads_the_same_images_without_copies_and_broken_ones(images):
    rows = [(f"img/{n}.png", *(int(name in labels_of(n)) for name in NAMES)) for n in range(48)]
    (images / "img/copy.png").write_bytes((images / "img/5.png").read_bytes())
    (images / "img/broken.png").write_bytes(b"no image")
    rows += [("img/copy.png", *rows[5][1:]), ("img/broken.png", 1, 0, 0)]
    table = write(images / "hot.csv", rows, ("path", *NAMES))
    (images / "new").mkdir()
    copy = images / "new" / "clean.csv"
    zoo_("data", "check", table, "--fix-to", copy, code=1)
    report = zoo.check_data(copy)
    assert report.totals == {"": 48}
    assert report.counts == {"": dict.fromkeys(NAMES, 24)}
    listed = json.loads(copy.with_name("clean.left-out.json").read_text())
    assert {each["kind"] for each in listed["left_out"]} == {"unreadable", "duplicates"}
    assert listed["rows"] == 48


@pytest.mark.parametrize("name", ["clean", "table.csv", "gone/clean.csv"])
def test_a_copy_that_can_not_be_written_is_refused(table, name):
    before = sorted(table.parent.rglob("*"))
    assert zoo_("data", "check", table, "--fix-to", table.parent / name, code=2).stderr
    assert sorted(table.parent.rglob("*")) == before


def test_a_parquet_file_is_copied_and_one_that_holds_images_is_refused(images):
    paths = [f"img/{n}.png" for n in range(48)]
    labels = [labels_of(n) for n in range(48)]
    parquet.write_table(pa.table({"path": paths, "labels": labels}), images / "t.parquet")
    zoo_("data", "check", images / "t.parquet", "--fix-to", images / "clean.csv")
    assert read(images / "clean.csv")["img/7.png"]["labels"] == "|".join(NAMES)
    held = [{"bytes": (images / path).read_bytes(), "path": path} for path in paths]
    parquet.write_table(pa.table({"image": held, "labels": labels}), images / "held.parquet")
    new = images / "new.csv"
    assert zoo_("data", "check", images / "held.parquet", "--fix-to", new, code=2).stderr
    assert not list(images.glob("*new*"))


def test_labels_of_a_table_are_checked(images):
    rows = []
    for n in range(48):
        names = labels_of(n)
        # One class in every image, and one wherever the first is; a rare one; two spellings.
        names += ["photo", *(["twin"] if NAMES[0] in names else [])]
        names += ["rare"] if n < 2 else []
        rows.append((f"img/{n}.png", "|".join(names)))
    rows[5] = (rows[5][0], f"{rows[5][1]}|photo")
    rows[6] = (rows[6][0], f"{rows[6][1]}|Rare")
    found = findings(write(images / "table.csv", rows))
    assert found["always-present"]["groups"] == [["photo"]]
    assert found["same-images"]["groups"] == [[NAMES[0], "twin"]]
    assert found["same-images"]["severity"] == "warning"
    assert found["alike-class-names"]["groups"] == [["Rare", "rare"]]
    assert ["rare"] in found["few-images"]["groups"]
    assert "line 7" in found["source-note"]["text"]
    assert "without-label" not in found


def test_images_without_a_label_are_noted_if_others_have_several(table, images):
    found = findings(table)
    assert found["without-label"]["count"] == 6
    assert found["without-label"]["severity"] == "note"
    assert "same-images" not in found
    single = [(f"img/{n}.png", NAMES[n % 2]) for n in range(47)]
    found = findings(write(images / "single.csv", [*single, ("img/47.png", "")]))
    assert "without-label" not in found
    assert found["source-skipped"]["severity"] == "warning"
