"""A clean copy of a data folder holds what it should, or is not there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

import zoo
from tests.data.scenes import findings_of, make_scenes, make_split_scenes, save, scene
from zoo.data.check.dataset import checked, relabelled
from zoo.data.check.fix import fix
from zoo.errors import DataError


def contents(folder):
    return {
        file.relative_to(folder).as_posix(): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def root(tmp_path):
    """A folder with one of each that is left out, and some that is not."""
    root = make_split_scenes(tmp_path / "data")
    shutil.copy(root / "train/ants/0.png", root / "train/bees/conflict.png")
    shutil.copy(root / "val/ants/0.png", root / "train/ants/leak.png")
    shutil.copy(root / "train/ants/1.png", root / "train/ants/copy.png")
    save(scene(501).resize((100, 75)), root / "train" / "ants" / "near.jpg")
    save(scene(2), root / "train" / "ants" / "near-copy.jpg")
    (root / "val" / "bees" / "torn.png").write_bytes(b"torn")
    (root / "train" / "ants" / "notes.txt").write_text("kept")
    save(scene(90), root / "train" / "ants" / "deeper" / "a.png")
    return root


LEFT_OUT = {
    "train/ants/0.png": "label-conflict",
    "train/bees/conflict.png": "label-conflict",
    "train/ants/leak.png": "leakage",
    "train/ants/copy.png": "duplicates",
    "train/ants/near.jpg": "near-leakage",
    "val/bees/torn.png": "unreadable",
}


def test_the_copy_lacks_what_spoils_results_and_nothing_else(root, tmp_path):
    before = contents(root)
    fixed = fix(checked(root), tmp_path / "clean")
    assert {each.path: each.kind for each in fixed.left_out} == LEFT_OUT
    expected = {path: content for path, content in before.items() if path not in LEFT_OUT}
    made = contents(tmp_path / "clean")
    made.pop("left-out.json")
    assert made == expected
    assert fixed.files == len(expected)
    assert contents(root) == before


def test_the_copy_says_what_it_lacks_and_why(root, tmp_path):
    fix(checked(root), tmp_path / "clean")
    report = json.loads((tmp_path / "clean" / "left-out.json").read_text())
    assert report["copy_of"] == str(root)
    leak = next(each for each in report["left_out"] if each["path"] == "train/ants/leak.png")
    assert leak["others"] == ["val/ants/0.png"]


def test_the_copy_passes_a_second_check(root, tmp_path):
    assert zoo.check_data(root).serious
    fix(checked(root), tmp_path / "clean")
    again = zoo.check_data(tmp_path / "clean")
    assert not again.serious
    assert {f.kind for f in findings_of(again)} == {"near-duplicates", "nested", "no-images"}
    twice = fix(checked(tmp_path / "clean"), tmp_path / "cleaner")
    assert twice.left_out == ()


def test_of_duplicates_in_a_folder_without_splits_one_remains(tmp_path):
    root = make_scenes(tmp_path / "flat", 3)
    for n in range(3):
        shutil.copy(root / "ants" / "1.png", root / "ants" / f"copy-{n}.png")
    fixed = fix(checked(root), tmp_path / "clean")
    assert [each.path for each in fixed.left_out] == [f"ants/copy-{n}.png" for n in range(3)]


def test_of_test_only_unreadable_images_are_left_out(root, tmp_path):
    make_scenes(root / "test", 2, first_seed=700)
    shutil.copy(root / "train/ants/3.png", root / "test/ants/leak.png")
    shutil.copy(root / "train/ants/3.png", root / "train/ants/3-again.png")
    shutil.copy(root / "test/ants/0.png", root / "test/ants/copy.png")
    shutil.copy(root / "test/ants/1.png", root / "train/bees/of-test.png")
    shutil.copy(root / "val/ants/1.png", root / "test/ants/of-val.png")
    save(scene(1701).resize((100, 75)), root / "train" / "bees" / "near.jpg")
    (root / "test" / "bees" / "0.png").write_bytes(b"torn")
    fixed = fix(checked(root), tmp_path / "clean")
    assert {each.path: each.kind for each in fixed.left_out} == {
        **LEFT_OUT,
        "train/ants/3.png": "leakage",
        "train/ants/3-again.png": "leakage",
        "train/bees/of-test.png": "label-conflict",
        "train/bees/near.jpg": "near-leakage",
        "test/bees/0.png": "unreadable",
    }
    reasons = {each.path: each.reason for each in fixed.left_out}
    assert reasons["train/ants/3.png"] == "the same image is in test"
    again = zoo.check_data(tmp_path / "clean")
    assert not again.serious
    assert again.totals["test"] == 6


def test_images_of_groups_move_to_the_folder_of_their_class_and_group(tmp_path):
    root = tmp_path / "data"
    for n, name in enumerate(("ants/a/0", "ants/b/1", "bees/c/2", "bees/d/3")):
        save(scene(n), root / f"{name}.png")
    labels = {"ants/b/1.png": ("bees",)}
    found = relabelled(checked(root, group_by="folder"), labels)
    fixed = fix(found, tmp_path / "clean", labels)
    assert [each.name for each in fixed.relabelled] == ["bees/b/1.png"]
    assert (tmp_path / "clean" / "bees" / "b" / "1.png").exists()
    assert fixed.files == 4


@pytest.fixture
def linking(tmp_path):
    """A folder with links out of it, within it, and to nothing."""
    root = make_scenes(tmp_path / "flat", 3)
    elsewhere = save(scene(80), tmp_path / "elsewhere" / "a.png")
    (root / "ants" / "link.png").symlink_to(elsewhere)
    (root / "wasps").symlink_to(elsewhere.parent)
    shutil.copy(root / "ants" / "0.png", elsewhere.parent / "b.png")
    (elsewhere.parent / "c.txt").write_text("theirs")
    (root / "ants" / "notes.txt").symlink_to(elsewhere.parent / "c.txt")
    (root / "ants" / "gone.txt").symlink_to("nowhere")
    save(scene(81), root / ".pool" / "d.png")
    (root / "ants" / "inside.png").symlink_to("../.pool/d.png")
    return root


def test_links_out_of_the_folder_are_not_copied(linking, tmp_path):
    fixed = fix(checked(linking), tmp_path / "clean")
    kinds = {each.path: each.kind for each in fixed.left_out}
    assert kinds == {
        "ants/gone.txt": "no-file",
        "ants/link.png": "outside-links",
        "ants/notes.txt": "outside-links",
        "wasps": "outside-links",
    }
    report = json.loads((tmp_path / "clean" / "left-out.json").read_text())
    said = {each["path"]: each["reason"] for each in report["left_out"]}
    assert str(tmp_path / "elsewhere" / "a.png") in said["ants/link.png"]
    assert "`follow_links`" in said["ants/link.png"]
    made = contents(tmp_path / "clean")
    assert made["ants/inside.png"] == contents(linking)[".pool/d.png"]
    assert "wasps/a.png" not in made
    assert not any(file.is_symlink() for file in (tmp_path / "clean").rglob("*"))
    again = zoo.check_data(tmp_path / "clean")
    assert "outside-links" not in {finding.kind for finding in again.findings}


def test_links_that_are_followed_are_copied_as_what_they_lead_to(linking, tmp_path):
    fixed = fix(checked(linking, follow_links=True), tmp_path / "clean")
    kinds = {each.path: each.kind for each in fixed.left_out}
    assert kinds.pop("ants/gone.txt") == "no-file"
    assert kinds.pop("wasps") == "link"
    # The same picture as ants/0.png, in another class, and as ants/link.png.
    assert set(kinds.values()) == {"label-conflict"}
    made = contents(tmp_path / "clean")
    assert (tmp_path / "clean" / "ants" / "notes.txt").read_text() == "theirs"
    assert "ants/inside.png" in made
    assert "wasps/b.png" not in made
    assert not any(file.is_symlink() for file in (tmp_path / "clean").rglob("*"))


def test_images_of_a_wrong_extension_are_copied_under_the_right_one(tmp_path):
    root = make_scenes(tmp_path / "flat", 3)
    save(scene(80), root / "ants" / "photo.JPG", format="PNG")
    save(scene(81), root / "ants" / "0.webp", format="PNG")
    save(scene(82), root / "ants" / "1.jpg", format="PNG")
    save(scene(83), root / "ants" / "1-1.PNG")
    save(scene(84), root / "bees" / "b.png", format="JPEG")
    (root / "bees" / "b.jpg").mkdir()
    (root / "bees" / "b.jpg" / "notes.txt").write_text("kept")
    shutil.copy(root / "ants" / "2.png", root / "ants" / "copy.gif")
    before = contents(root)
    fixed = fix(checked(root), tmp_path / "clean")
    names = {each.path: each.name for each in fixed.renamed}
    assert names == {
        "ants/photo.JPG": "ants/photo.png",
        "ants/0.webp": "ants/0-1.png",
        "ants/1.jpg": "ants/1-2.png",
        "bees/b.png": "bees/b-1.jpg",
    }
    assert ("ants/copy.gif", "duplicates") in {(e.path, e.kind) for e in fixed.left_out}
    made = contents(tmp_path / "clean")
    for path, name in names.items():
        assert made[name] == before[path]
        assert path not in made
    report = json.loads((tmp_path / "clean" / "left-out.json").read_text())
    assert {each["path"]: each["name"] for each in report["renamed"]} == names
    assert report["renamed"][-1]["reason"] == "it holds JPEG"
    again = zoo.check_data(tmp_path / "clean")
    assert again.images == 7 + 4
    assert not again.serious
    assert fix(checked(tmp_path / "clean"), tmp_path / "cleaner").renamed == ()


def test_a_picture_of_a_format_without_an_extension_keeps_its_name(tmp_path):
    root = make_scenes(tmp_path / "flat", 3)
    picture = b"P7 332\n#END_OF_COMMENTS\n8 6 255\n" + bytes(range(48))
    (root / "ants" / "thumb.png").write_bytes(picture)
    fixed = fix(checked(root), tmp_path / "clean")
    assert (tmp_path / "clean" / "ants" / "thumb.png").read_bytes() == picture
    assert fixed.left_out == fixed.renamed == ()


@pytest.mark.parametrize("target", ["data/clean", "data", "file", "full", "gone/clean"])
def test_a_place_that_will_not_do_is_refused(root, tmp_path, target):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=str(tmp_path / target.partition("/clean")[0])):
        fix(checked(root), tmp_path / target)
    assert contents(tmp_path) == before


def test_an_empty_folder_is_taken_as_the_place(root, tmp_path):
    (tmp_path / "clean").mkdir()
    fix(checked(root), tmp_path / "clean")
    assert (tmp_path / "clean" / "val" / "ants" / "0.png").exists()


def test_an_interrupt_leaves_nothing_half(root, tmp_path, monkeypatch):
    copied = shutil.copy2
    calls = iter(range(100))

    def interrupted(source, target):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return copied(source, target)

    monkeypatch.setattr(shutil, "copy2", interrupted)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        fix(checked(root), tmp_path / "clean")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.medium
def test_a_disk_that_takes_no_more_leaves_nothing_half(root, tmp_path):
    """The system refuses to write more than some bytes into a file."""
    noise = scene(90, (1200, 900))
    save(noise, root / "train" / "ants" / "large.png")
    before = sorted(tmp_path.iterdir())
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000));"
        "from zoo.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "check", root, "--fix-to", tmp_path / "clean"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert str(tmp_path / "clean") in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_named_as_an_image_and_is_no_file_is_left_out_once(tmp_path):
    root = make_scenes(tmp_path / "flat", 3)
    os.mkfifo(root / "ants" / "pipe.png")
    (root / "ants" / "gone.png").symlink_to("nowhere")
    save(scene(80), root / "ants" / "folder.png" / "inside.png")
    fixed = fix(checked(root), tmp_path / "clean")
    assert [(each.path, each.kind) for each in fixed.left_out] == [
        ("ants/folder.png", "unreadable"),
        ("ants/gone.png", "unreadable"),
        ("ants/pipe.png", "unreadable"),
    ]
    assert findings_of(zoo.check_data(tmp_path / "clean")) == []
