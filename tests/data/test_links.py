"""Links in a data folder: followed within it, named and left out where they lead elsewhere."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

import zoo
from tests.conftest import COLOURS, QUICK, make_photos, save_photo, zoo_
from tests.data.reading import of_kind, read_labelled, read_splits
from tests.fuzz.images_support import within
from zoo.data.sources.layout import images_in
from zoo.errors import DataError

FAST = {**QUICK, "train": "probe"}


def read(root: Path, **options):
    with within():
        return read_splits(root, val_split=0.2, seed=0, **options)


def count(splits) -> int:
    return len(splits.train) + len(splits.val)


@pytest.fixture
def root(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "data")


@pytest.fixture
def elsewhere(tmp_path):
    """Photos that are not of the data folder."""
    return make_photos(tmp_path / "elsewhere", 4, first_seed=50)


def file_out(root: Path, elsewhere: Path) -> Path:
    link = root / "red" / "out.png"
    link.symlink_to(elsewhere / "red" / "0.png")
    return link


def folder_out(root: Path, elsewhere: Path) -> Path:
    link = root / "violet"
    link.symlink_to(elsewhere / "red")
    return link


def through_the_inside(root: Path, elsewhere: Path) -> Path:
    (root / ".pool").mkdir()
    (root / ".pool" / "next").symlink_to(elsewhere / "red" / "0.png")
    link = root / "red" / "chain.png"
    link.symlink_to("../.pool/next")
    return link


def out_by_dots(root: Path, elsewhere: Path) -> Path:
    link = root / "red" / "dots.png"
    link.symlink_to("../../elsewhere/red/0.png")
    return link


#: What makes a link out, and how many images there are with what it leads to.
OUT = [(file_out, 31), (folder_out, 34), (through_the_inside, 31), (out_by_dots, 31)]


@pytest.mark.parametrize(("make", "images"), OUT)
def test_a_link_out_of_the_folder_is_named_and_left_out(root, elsewhere, make, images):
    link = make(root, elsewhere)
    splits = read(root)
    assert count(splits) == 30
    assert splits.class_names == tuple(COLOURS)
    (left,) = splits.issues
    assert (left.kind, left.name, left.left_out) == ("outside-link", str(link), True)
    assert str(link.resolve()) in left.reason
    with pytest.raises(DataError, match=f"1 link .*{link}"):
        read(root, strict=True)
    followed = read(root, follow_links=True, strict=True)
    assert count(followed) == images
    assert followed.issues == ()


def relative_and_back(root: Path) -> None:
    (root / "red" / "back.png").symlink_to("../../data/.pool/a.png")


def absolute(root: Path) -> None:
    (root / "red" / "absolute.png").symlink_to(root / ".pool" / "a.png")


def class_within(root: Path) -> None:
    (root / "violet").symlink_to(".pool")


@pytest.mark.parametrize("make", [relative_and_back, absolute, class_within])
def test_a_link_that_stays_inside_is_followed(root, make):
    save_photo(root / ".pool" / "a.png", (200, 40, 40), 90)
    save_photo(root / ".pool" / "b.png", (200, 40, 40), 91)
    make(root)
    splits = read(root, strict=True)
    assert count(splits) > 30
    assert splits.issues == ()
    assert splits == read(root, follow_links=True)


def test_a_file_in_a_linked_class_folder_may_still_lead_out(root, elsewhere):
    save_photo(root / ".pool" / "a.png", (200, 40, 40), 90)
    save_photo(root / ".pool" / "b.png", (200, 40, 40), 91)
    (root / ".pool" / "out.png").symlink_to(elsewhere / "red" / "0.png")
    (root / "violet").symlink_to(".pool")
    splits = read(root)
    assert [issue.name for issue in splits.issues] == [str(root / "violet" / "out.png")]
    assert count(splits) == 32


def test_the_data_folder_itself_may_be_reached_through_a_link(root, tmp_path, elsewhere):
    (root / "red" / "back.png").symlink_to("../../data/red/0.png")
    file_out(root, elsewhere)
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    splits = read(linked)
    assert count(splits) == 31
    assert [issue.name for issue in splits.issues] == [str(linked / "red" / "out.png")]


def test_links_in_circles_or_to_nothing_are_named_and_an_error_with_strict(root):
    (root / "round").symlink_to("..")
    (root / "self").symlink_to(".")
    (root / "loop").symlink_to("loop")
    (root / "gone").symlink_to("nowhere")
    (root / "red" / "up").symlink_to("..")
    for follow_links in (False, True):
        splits = read(root, follow_links=follow_links)
        assert splits.class_names == tuple(COLOURS)
        assert count(splits) == 30
        assert {Path(issue.name).name: issue.kind for issue in splits.issues} == {
            "gone": "broken-link",
            "loop": "circular-link",
            "round": "circular-link",
            "self": "circular-link",
        }
        with pytest.raises(DataError) as error:
            read(root, follow_links=follow_links, strict=True)
        circular, broken = str(error.value).splitlines()
        assert circular.startswith("3 links ")
        assert f"{root}/loop" in circular
        assert broken.startswith("1 link ")
        assert f"{root}/gone" in broken
    assert len(images_in(root)) == 30


def test_an_image_that_links_to_itself_is_unreadable(root):
    (root / "red" / "loop.png").symlink_to("loop.png")
    problem = (str(root / "red" / "loop.png"), os.strerror(errno.ELOOP))
    assert of_kind("unreadable", read(root).issues) == [problem]
    with pytest.raises(DataError, match=r"red/loop\.png"):
        read(root, strict=True)


def test_a_loop_beside_train_and_val_is_named(split_photos, tmp_path):
    root = shutil.copytree(split_photos, tmp_path / "data")
    (root / "test").symlink_to(".")
    (root / "gone").symlink_to("nowhere")
    splits = read(root)
    assert (len(splits.train), len(splits.val)) == (24, 12)
    assert {Path(issue.name).name: issue.kind for issue in splits.issues} == {
        "gone": "broken-link",
        "test": "circular-link",
    }


def test_a_link_that_nothing_is_taken_from_is_not_spoken_of(root, elsewhere):
    (root / "labels.csv").symlink_to(save_photo(elsewhere / "x.png", (1, 2, 3), 0))
    (root / "red" / "deeper").symlink_to(elsewhere)
    assert {issue.kind for issue in read(root, strict=True).issues} <= {"skipped"}


def test_a_train_folder_that_leads_out_ends_it_and_that_is_said(split_photos, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(split_photos / "val", root / "val")
    (root / "train").symlink_to(split_photos / "train")
    for strict in (False, True):
        with pytest.raises(DataError) as error:
            read(root, strict=strict)
        assert f"{root}/train (leads to {split_photos}/train); `follow_links`" in str(error.value)
    splits = read(root, follow_links=True)
    assert (len(splits.train), len(splits.val)) == (24, 12)


def test_a_val_folder_that_leads_out_is_left_out_and_that_is_said(split_photos, tmp_path, run):
    root = tmp_path / "data"
    shutil.copytree(split_photos / "train", root / "train")
    (root / "val").symlink_to(split_photos / "val")
    splits = read(root)
    assert count(splits) == 24
    assert [(issue.kind, issue.name) for issue in splits.issues] == [
        ("outside-link", str(root / "val")),
        ("note", str(root)),
    ]
    with pytest.raises(DataError, match=r"1 link .*/val "):
        read(root, strict=True)
    assert len(read(root, follow_links=True).val) == 12
    # What is asked for is val, and nothing of it remains.
    with pytest.raises(DataError, match=r"val .*\n.* 1 link .*/val "):
        run.evaluate(root)
    assert run.evaluate(root, follow_links=True).images == 12


def test_where_all_are_links_the_error_says_so(photos, tmp_path):
    files, folders = tmp_path / "files", tmp_path / "folders"
    folders.mkdir()
    for name in COLOURS:
        (folders / name).symlink_to(photos / name)
        (files / name).mkdir(parents=True)
        for photo in (photos / name).iterdir():
            (files / name / photo.name).symlink_to(photo)
    for root, number in ((files, 30), (folders, 3)):
        with pytest.raises(DataError, match=rf"\n.* {number} links .*{root}/blue"):
            read(root)
        with pytest.raises(DataError, match=rf"\n.* {number} links .*{root}/blue"):
            zoo.check_data(root)
        assert len(read(root, follow_links=True).train) == 24


def test_where_one_class_remains_the_error_says_why(photos, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(photos / "red", root / "red")
    (root / "blue").symlink_to(photos / "blue")
    with pytest.raises(DataError, match=r"red.*\n.* 1 link .*/blue "):
        read(root)
    with pytest.raises(DataError, match=str(root / "blue")):
        read_labelled(root / "blue", ["red", "blue"])


def test_finetune_says_a_line_with_the_count_and_an_example(root, elsewhere):
    for n in range(4):
        (root / "red" / f"out-{n}.png").symlink_to(elsewhere / "red" / f"{n}.png")
    command = ["finetune", "--data", root, "--backbone", QUICK["backbone"], "--weights", "none"]
    command += ["--image-size", 32, "--dry-run"]
    result = zoo_(*command)
    said = " ".join((result.stdout + result.stderr).split())
    assert said.count("4 links") == said.count("out-0.png") == 1
    assert "--follow-links" in said
    assert "4 links" in zoo_(*command, "--strict", code=2).stderr
    assert "4 links" not in zoo_(*command, "--strict", "--follow-links").output


def test_evaluate_leaves_links_out_or_follows_them(run, root, elsewhere):
    file_out(root, elsewhere)
    command = ["evaluate", run.path, "--data", root]
    result = zoo_(*command, "--format", "json")
    assert json.loads(result.stdout)["images"] == 30
    assert json.loads(result.stdout)["issues"] == [
        {
            "kind": "outside-link",
            "reason": f"leads to {elsewhere / 'red' / '0.png'}",
            "name": str(root / "red" / "out.png"),
        }
    ]
    assert " 1 link " in result.stderr
    assert "1 link " in zoo_(*command, "--strict", code=2).stderr
    followed = zoo_(*command, "--strict", "--follow-links", "--format", "json")
    assert json.loads(followed.stdout)["images"] == 31
    assert followed.stderr == ""


@pytest.mark.medium
def test_evaluate_follows_links_in_the_data_of_training_as_training_did(photos, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for name in COLOURS:
        (root / name).symlink_to(photos / name)
    run = zoo.finetune(root, out="run", follow_links=True, **FAST)
    assert "follow_links = true" in Path("run/recipe.toml").read_text()
    evaluation = zoo.load("run").evaluate()
    assert evaluation.images == 6
    assert "BUT" not in evaluation.source
    assert evaluation.accuracy == run.info.val_accuracy


def test_data_check_finds_links_that_lead_out(root, elsewhere):
    link = file_out(root, elsewhere)
    shown = zoo_("data", "check", root, code=1).stdout
    assert re.search(r"^error +1 link ", shown, re.MULTILINE)
    assert "red/out.png" in shown
    assert "--follow-links" in shown
    followed = json.loads(zoo_("data", "check", root, "--follow-links", "--format=json").stdout)
    assert followed["images"] == 31
    link.unlink()
    (root / "round").symlink_to(".")
    assert re.search(r"^warning +1 link ", zoo_("data", "check", root).stdout, re.MULTILINE)
    zoo_("data", "check", root, "--strict", code=1)


def test_fix_to_copies_what_links_lead_to_if_they_are_followed(root, elsewhere, tmp_path):
    folder_out(root, elsewhere)
    zoo_("data", "check", root, "--fix-to", tmp_path / "clean", code=1)
    assert not (tmp_path / "clean" / "violet").exists()
    zoo_("data", "check", root, "--fix-to", tmp_path / "whole", "--follow-links")
    assert len(list((tmp_path / "whole" / "violet").iterdir())) == 4


def test_names_and_targets_can_not_move_the_cursor(root, elsewhere):
    target = save_photo(elsewhere / "red" / "\x1b[2J.png", (1, 2, 3), 0)
    (root / "red" / "\x1b[31m.png").symlink_to(target)
    with pytest.raises(DataError) as error:
        read(root, strict=True)
    assert "\x1b" not in str(error.value)
