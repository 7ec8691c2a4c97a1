"""`zoo data check` as a person meets it; and what is said of data before training."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, zoo_
from tests.data.scenes import garble, make_scenes, make_split_scenes, save, scene, settle
from zoo.events import Note
from zoo.planning.inputs import read_data
from zoo.recipe import make_recipe


@pytest.fixture
def root(tmp_path):
    return make_split_scenes(tmp_path / "data")


@pytest.fixture
def leaking(root):
    for n in range(2):
        shutil.copy(root / "train" / "ants" / f"{n}.png", root / "val" / "ants" / f"leak-{n}.png")
    return root


def test_a_folder_with_nothing_wrong_is_a_table_and_exit_code_0(root):
    lines = zoo_("data", "check", root).stdout.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["class", "train", "val"],
        ["ants", "4", "2"],
        ["bees", "4", "2"],
        ["all", "images", "8", "4"],
    ]
    # Of 4 images of each class, little can be learnt; nothing else is said.
    assert re.findall(r"\d+", lines[-2]) == ["0", "2", "0"]
    assert "--format json" in lines[-2]
    assert "--labels" in lines[-1]


def test_errors_are_exit_code_1_and_said_with_examples_and_advice(leaking):
    shown = zoo_("data", "check", leaking, code=1).stdout
    assert re.search(r"^error +2 .*leakage", shown, re.MULTILINE)
    assert "train/ants/0.png = val/ants/leak-0.png" in shown
    assert "--fix-to" in shown
    assert "1 error, 2 warnings, 0 notes" in shown


def test_the_test_split_is_a_column_and_its_leaks_are_left_out_of_train(root, tmp_path):
    make_scenes(root / "test", 2, first_seed=700)
    shutil.rmtree(root / "val")
    assert zoo_("data", "check", root).stdout.splitlines()[0].split() == ["class", "train", "test"]
    shutil.copy(root / "train/ants/0.png", root / "test/ants/leak.png")
    clean = tmp_path / "clean"
    shown = zoo_("data", "check", root, "--fix-to", clean, "--format", "json", code=1)
    (left_out,) = json.loads(shown.stdout)["fixed"]["left_out"]
    assert (left_out["path"], left_out["kind"]) == ("train/ants/0.png", "leakage")
    assert (clean / "test/ants/leak.png").is_file()
    zoo_("data", "check", clean)


def test_groups_are_found_as_in_training(root):
    for split in ("train", "val"):
        for file in (root / split / "bees").iterdir():
            target = root / split / "bees" / f"hive{int(file.stem) % 2}" / file.name
            target.parent.mkdir(exist_ok=True)
            file.rename(target)
    assert "--group-by folder" in zoo_("data", "check", root, code=1).stdout
    shown = zoo_("data", "check", root, "--group-by", "folder", code=1).stdout
    assert re.search(r"^error +2 groups .*train and val: hive0, hive1", shown, re.MULTILINE)
    assert "--group-by" in zoo_("data", "check", root, "--group-by", "(", code=2).stderr


def test_json_is_all_there_is_on_stdout_and_has_every_path(leaking):
    for n in range(30):
        (leaking / "val" / "bees" / f"torn-{n}.png").write_bytes(b"torn")
    report = json.loads(zoo_("data", "check", leaking, "--format", "json", code=1).stdout)
    assert report["serious"] is True
    assert report["images"] == 14
    assert report["counts"]["val"] == {"ants": 4, "bees": 2}
    unreadable = next(f for f in report["findings"] if f["kind"] == "unreadable")
    assert len(unreadable["groups"]) == unreadable["count"] == 30
    assert "--fix-to" in unreadable["advice"]
    assert "and 25 more" in zoo_("data", "check", leaking, code=1).stdout


def test_warnings_are_exit_code_1_with_strict_alone(root):
    shutil.copy(root / "train/ants/0.png", root / "train/ants/copy.png")
    zoo_("data", "check", root)
    zoo_("data", "check", root, "--strict", code=1)


@pytest.mark.parametrize("name", ["gone", "empty", "file"])
def test_a_folder_that_can_not_be_used_is_one_line_and_exit_code_2(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    result = zoo_("data", "check", tmp_path / name, code=2)
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_clean_copy_is_left_and_said(leaking, tmp_path):
    shown = zoo_("data", "check", leaking, "--fix-to", tmp_path / "clean", code=1).stdout
    assert re.search(r" 2 leakage\b", shown)
    zoo_("data", "check", tmp_path / "clean")
    shown = zoo_("data", "check", leaking, "--fix-to", tmp_path / "c2", "--format=json", code=1)
    assert len(json.loads(shown.stdout)["fixed"]["left_out"]) == 2


def test_a_place_for_the_copy_that_will_not_do_is_exit_code_2(root):
    result = zoo_("data", "check", root, "--fix-to", root / "clean", code=2)
    assert str(root / "clean") in result.stderr
    assert not (root / "clean").exists()


def test_names_can_not_move_the_cursor(root):
    save(scene(60), root / "train" / "ants" / "\x1b[2J\n\u202egnp.png")
    shutil.copytree(root / "train" / "ants", root / "train" / "\x1b[31mred")
    shown = zoo_("data", "check", root, code=1).stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\x1b[2J\n\u202egnp.png" in shown


def test_the_cache_lists_what_is_remembered(root):
    settle(root)
    zoo_("data", "check", root)
    assert zoo_("cache", "list").stdout.splitlines()[1].split()[:2] == ["examined", "12"]


def warned(root, **fields):
    notes = []
    read_data(make_recipe(None, data=str(root), **fields), notes.append)
    return [note.text for note in notes if isinstance(note, Note) and note.warning]


def test_training_says_nothing_of_data_with_nothing_wrong(root):
    assert warned(root) == []


def test_training_warns_of_what_bears_on_its_result_in_a_line_each(leaking):
    shutil.copy(leaking / "train/ants/2.png", leaking / "train/bees/conflict.png")
    shutil.copy(leaking / "train/ants/3.png", leaking / "train/ants/copy.png")
    save(scene(501).resize((80, 60)), leaking / "train" / "ants" / "near.jpg")
    save(scene(60, (20, 20)), leaking / "train" / "bees" / "tiny.png")
    (leaking / "a.txt").write_text("not worth a line")
    lines = warned(leaking)
    *findings, command = lines
    named = ["leak-0.png", "conflict.png", "near.jpg", "copy.png", "tiny.png"]
    assert [line.split()[0] for line in findings] == ["2", "1", "1", "1", "1"]
    assert [name for name, line in zip(named, findings, strict=True) if name in line] == named
    assert "train/ants/0.png = val/ants/leak-0.png" in lines[0]
    assert f"zoo data check {leaking}" in command


def test_training_warns_of_test_images_in_train_and_val(root):
    make_scenes(root / "test", 2, first_seed=700)
    assert warned(root) == []
    shutil.copy(root / "train/ants/0.png", root / "test/ants/of-train.png")
    shutil.copy(root / "val/ants/0.png", root / "test/ants/of-val.png")
    of_train, of_val, _ = warned(root)
    assert "of-train.png" in of_train
    assert "of-val.png" in of_val


def test_training_warns_where_its_own_split_parts_two_copies(tmp_path):
    root = make_scenes(tmp_path / "flat", 10)
    for n in range(10):
        shutil.copy(root / "ants" / f"{n}.png", root / "ants" / f"copy-{n}.png")
    assert "leakage" in warned(root)[0]


def test_training_warns_of_rare_classes(tmp_path):
    root = make_scenes(tmp_path / "flat", 4)
    for n in range(60):
        save(scene(100 + n), root / "ants" / f"more-{n}.png")
    assert "ants" in warned(root)[0]


@pytest.mark.slow
def test_the_second_scan_before_training_opens_no_photo(root):
    settle(root)
    run = zoo.finetune(root, out="run", **{**QUICK, "train": "probe"})
    assert run.info.val_accuracy >= 0
    garble(root / "train" / "ants" / "0.png")
    assert warned(root) == []
    assert "unreadable" in warned(root, cache_size=0.0)[0]


@pytest.mark.medium
def test_python_hears_of_leakage_as_a_warning(leaking):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        zoo.finetune(leaking, out="run", **{**QUICK, "train": "probe"})
    assert any("leakage" in str(warning.message) for warning in caught)
    assert Path("run").is_dir()
