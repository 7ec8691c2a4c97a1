"""`zoo data check --labels`: planted faults in files, a small network with random weights."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import ImageOps
from safetensors.torch import save_file

import zoo
from tests.conftest import COLOURS, TINY, save_photo, zoo_
from tests.data.scenes import save, scene
from zoo import plugins, weights

SWAPPED = {"green": "blue", "blue": "red"}


@pytest.fixture
def backbone(tmp_path):
    """A network whose pretrained weights are on this machine; random, but colours differ."""
    file = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file(plugins.build(plugins.get(TINY), None, False).state_dict(), file)
    weights.add(plugins.get(TINY), file)
    return TINY


@pytest.fixture
def photos(tmp_path):
    """Ten photos a class, and one of another class in each of two."""
    root = tmp_path / "photos"
    for label, (name, colour) in enumerate(COLOURS.items()):
        for n in range(10):
            save_photo(root / name / f"{n}.png", colour, 100 * label + n)
    for n, (true, given) in enumerate(SWAPPED.items()):
        save_photo(root / given / f"swapped <b>{true}.png", COLOURS[true], 900 + n)
    return root


def suspects(root, backbone, *args):
    shown = zoo_("data", "check", root, "--backbone", backbone, "--labels", *args)
    return shown.stdout


@pytest.fixture
def table(tmp_path):
    """A table as `--labels-to` writes it, not yet filled in."""
    lines = [
        "path,given,suggested,probability,score,accept",
        "blue/swapped <b>green.png,blue,green,0.9,0.01,",
        "red/swapped <b>blue.png,red,blue,0.8,0.02,",
    ]
    (tmp_path / "labels.csv").write_text("\n".join([*lines, ""]))
    return tmp_path / "labels.csv"


def fill(table, accept):
    """Write the column accept as a function of the row says."""
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    with table.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "accept": accept(row)} for row in rows)


def check_page(page):
    """It has thumbnails and escaped names, and needs no network."""
    assert page.count("data:image/jpeg;base64,") >= 2
    assert "swapped &lt;b&gt;green.png" in page
    assert "<b>" not in page
    assert not re.search(r"(src|href)=\"?(https?:|//|/)", page)
    assert "<script" not in page


@pytest.mark.medium
def test_swapped_labels_are_listed_first(photos, backbone):
    report = json.loads(suspects(photos, backbone, "--format", "json"))
    found = report["features"]["suspects"]
    assert {(each["path"], each["suggested"]) for each in found[:2]} == {
        (f"{given}/swapped <b>{true}.png", true) for true, given in SWAPPED.items()
    }
    assert len(found) <= 3
    assert all(each["score"] < 0.5 < each["probability"] for each in found[:2])
    finding = next(f for f in report["findings"] if f["kind"] == "suspected-labels")
    assert finding["count"] == len({each["path"] for each in found})
    # The second time, all features are read from the cache.
    shown = suspects(photos, backbone)
    assert "blue/swapped <b>green.png" in shown
    assert report["features"]["computed"] == 64


@pytest.mark.medium
def test_accepted_rows_are_applied_to_the_copy_alone(photos, backbone, tmp_path):
    before, table = sorted(photos.rglob("*.png")), tmp_path / "labels.csv"
    suspects(photos, backbone, "--labels-to", table, "--html", tmp_path / "page.html")
    check_page((tmp_path / "page.html").read_text())
    fill(table, lambda row: "yes" if "green" in row["path"] else "no")
    zoo_("data", "check", photos, "--labels-from", table, "--fix-to", tmp_path / "clean")
    assert (tmp_path / "clean/green/swapped <b>green.png").is_file()
    assert not (tmp_path / "clean/blue/swapped <b>green.png").exists()
    assert (tmp_path / "clean/red/swapped <b>blue.png").is_file()
    listed = json.loads((tmp_path / "clean/left-out.json").read_text())["relabelled"]
    assert [each["path"] for each in listed] == ["blue/swapped <b>green.png"]
    assert sorted(photos.rglob("*.png")) == before


def test_a_class_of_ones_own_can_be_named_and_no_file_is_replaced(photos, table, tmp_path):
    save_photo(photos / "red" / "swapped <b>green.png", COLOURS["red"], 7)
    fill(table, lambda row: "red" if "green" in row["path"] else "")
    zoo_("data", "check", photos, "--labels-from", table, "--fix-to", tmp_path / "clean")
    names = {file.name for file in (tmp_path / "clean" / "red").iterdir()}
    assert {"swapped <b>green.png", "swapped <b>green-1.png"} <= names


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda t: t.unlink(), "can't read"),
        (lambda t: t.write_text("path,given\na,b\n"), "header"),
        (lambda t: t.write_text(t.read_text() + "a,b\n"), "cells"),
        (lambda t: t.write_bytes(b"\x00\xff" * 40), "labels.csv"),
        (lambda t: fill(t, lambda row: ""), "changes no label"),
        (lambda t: fill(t, lambda row: "wasps"), "wasps"),
        (lambda t: t.write_text(t.read_text().replace("blue/", "gone/")), "not an image"),
        (lambda t: t.write_text(t.read_text().replace(",blue,", ",red,")), "has the label"),
    ],
)
def test_a_broken_table_is_one_line_and_nothing_is_written(photos, table, tmp_path, break_it, says):
    break_it(table)
    clean = tmp_path / "clean"
    shown = zoo_("data", "check", photos, "--labels-from", table, "--fix-to", clean, code=2)
    assert says in shown.stderr
    assert shown.stderr.startswith("error:") or "Error" in shown.stderr
    assert not clean.exists()


@pytest.mark.medium
def test_a_table_that_was_filled_in_is_not_replaced(photos, backbone, table):
    args = ("--backbone", backbone, "--labels-to", table)
    assert "exists" in zoo_("data", "check", photos, *args, code=2).stderr


@pytest.mark.parametrize("held_out", ["val", "test"])
@pytest.mark.medium
def test_crops_and_mirrored_copies_are_leaks_and_left_out_of_train(backbone, tmp_path, held_out):
    root = tmp_path / "scenes"
    for split, first in (("train", 0), (held_out, 50)):
        for label, name in enumerate(("ants", "bees")):
            for n in range(6):
                save(scene(first + 1000 * label + n), root / split / name / f"{n}.png")
    save(ImageOps.mirror(scene(0)), root / held_out / "ants" / "mirrored.png")
    save(scene(1).crop((8, 6, 158, 118)), root / held_out / "ants" / "crop.png")
    assert not zoo.check_data(root).serious
    args = ("data", "check", root, "--labels", "--backbone", backbone)
    report = json.loads(zoo_(*args, "--format", "json", code=1).stdout)
    leaks = next(f for f in report["findings"] if f["kind"] == "near-leakage")
    assert sorted(leaks["groups"]) == [
        [f"{held_out}/ants/crop.png", "train/ants/1.png"],
        [f"{held_out}/ants/mirrored.png", "train/ants/0.png"],
    ]
    assert [each["mirrored"] for each in report["features"]["copies"]] == [True, False]
    zoo_(*args, "--fix-to", tmp_path / "clean", code=1)
    train = {file.name for file in (tmp_path / "clean/train/ants").iterdir()}
    assert train == {"2.png", "3.png", "4.png", "5.png"}


@pytest.mark.parametrize(
    "args",
    [("--labels-from", "x.csv"), ("--backbone", "resnet18"), ("--labels", "--backbone", "?")],
)
def test_options_that_mean_nothing_are_refused(photos, args):
    assert zoo_("data", "check", photos, *args, code=2).stderr


def test_missing_weights_are_said_and_how_to_get_them(photos):
    shown = zoo_("data", "check", photos, "--labels", "--backbone", TINY, code=2)
    assert "zoo weights add" in shown.stderr
    assert Path(photos).is_dir()
