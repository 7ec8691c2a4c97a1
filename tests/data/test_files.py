"""What may lie in a data folder besides photos: named and left out, and never waited for."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from tests.conftest import save_photo, zoo_
from tests.data.reading import of_kind, read_splits
from tests.fuzz.images_support import within
from zoo.data.files import MAX_BYTES, fingerprint, read_file
from zoo.data.issue import describe
from zoo.data.sources.layout import images_in
from zoo.errors import DataError


def pipe(path: Path) -> None:
    os.mkfifo(path)


def socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")  # Making a device takes more rights than tests have.


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere.png")


def loop(path: Path) -> None:
    path.symlink_to(path)


def empty(path: Path) -> None:
    path.touch()


def endless(path: Path) -> None:
    path.symlink_to("/proc/kmsg")  # a regular file to stat, and a wait to who reads it


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_BYTES + 1)


STRANGERS = [
    (pipe, "pipe"),
    (socket, "socket"),
    (device, "device"),
    (folder, "folder"),
    (dangling, "link"),
    (loop, os.strerror(errno.ELOOP)),
    (empty, "empty"),
    (endless, "empty"),
    (huge, "536,870,913"),
]


def read(root: Path, **options):
    return read_splits(root, val_split=0.2, seed=0, **options)


def predict(run, image, code=0):
    with within():
        return zoo_("predict", run.path, image, code=code)


@pytest.mark.parametrize(
    ("make", "reason"), STRANGERS, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_is_no_file_is_named_and_left_out(photos, tmp_path, run, make, reason):
    root = shutil.copytree(photos, tmp_path / "data")
    path = root / "red" / "x.png"
    make(path)
    with within():
        splits = read(root, follow_links=True)
    ((named, why),) = of_kind("unreadable", splits.issues)
    assert named == str(path)
    assert reason in why
    problem = f"{named}: {why}"
    assert len(splits.train) + len(splits.val) == 30
    with within(), pytest.raises(DataError) as strict:
        read(root, strict=True, follow_links=True)
    assert problem in str(strict.value)
    with within():
        evaluation = run.evaluate(root, split="all", follow_links=True)
    assert evaluation.issues == splits.issues
    with within(), pytest.raises(DataError) as failed:
        run.predict(path)
    assert problem in str(failed.value)


@pytest.mark.parametrize("make", [pipe, socket, device, dangling, empty, huge])
def test_predict_names_it_and_goes_on_with_the_others(run, photos, tmp_path, make):
    root = tmp_path / "photos"
    shutil.copytree(photos / "red", root)
    make(root / "x.png")
    result = predict(run, root)
    assert len(result.stdout.splitlines()) == 10
    named, counted = result.stderr.splitlines()
    assert str(root / "x.png") in named
    assert counted.startswith("! 1 ")


def test_predict_on_a_pipe_alone_is_an_error(run):
    pipe(Path("x.png"))
    assert "x.png" in predict(run, "x.png", code=2).stderr


def test_folders_of_the_system_are_no_classes(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    for name in ("__MACOSX", "@eaDir", ".cache"):
        shutil.copytree(photos / "red", root / name)
        shutil.copytree(photos / "red", root / "red" / name)
    for name in (".DS_Store", "._0.png", ".hidden.png"):
        (root / "red" / name).write_bytes(b"x")
    assert read(root) == read(root, strict=True)
    assert read(root).class_names == ("blue", "green", "red")
    assert len(read(root).train) == 24
    assert read(root).issues == ()
    assert len(images_in(root)) == 30


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "data")
    (root / "red" / "0.png").chmod(0)
    assert of_kind("unreadable", read(root).issues) == [
        (str(root / "red" / "0.png"), os.strerror(errno.EACCES))
    ]


@pytest.mark.parametrize(
    ("name", "as_shown"),
    [
        ("two\nlines.png", r"two\nlines.png"),
        ("\x1b[2Jclear.png", r"\x1b[2Jclear.png"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\udce9.png"),
        ("right\u202eto left.png", r"right\u202eto left.png"),
        ("l" * 251 + ".png", "l" * 251 + ".png"),
        ("schön 写真.png", "schön 写真.png"),
    ],
)
def test_any_name_is_used_and_a_message_shows_it_on_one_line(photos, tmp_path, run, name, as_shown):
    root = shutil.copytree(photos, tmp_path / "data")
    shutil.copy(root / "red" / "0.png", root / "red" / name)
    assert read(root).issues == ()
    assert any(s.name == f"red/{name}" for s in (*read(root).train, *read(root).val))
    (root / "red" / name).write_bytes(b"broken")
    issues = read(root).issues
    assert [name for name, _ in of_kind("unreadable", issues)] == [str(root / "red" / name)]
    line, count = describe(issues)
    assert f" {root}/red/{as_shown}: " in line
    assert count.startswith("1 ")
    result = predict(run, root / "red" / name, code=2)
    assert [as_shown in line for line in result.stderr.splitlines()] == [True, False, True]


def test_a_name_that_no_system_takes_is_named(run):
    with pytest.raises(DataError, match=rf"l+\.png: {os.strerror(errno.ENAMETOOLONG)}"):
        run.predict("l" * 300 + ".png")
    with pytest.raises(DataError, match=r"a\\x00b\.png"):
        run.predict("a\0b.png")


def test_a_file_is_what_it_was_even_if_it_was_touched(tmp_path):
    path = save_photo(tmp_path / "a.png", (1, 1, 1), 0)
    before = fingerprint(path)
    os.utime(path, ns=(0, 0))
    assert read_file(path, same=before) == path.read_bytes()
    save_photo(path, (1, 1, 1), 1)
    with pytest.raises(DataError, match=r"a\.png .*changed"):
        read_file(path, same=before)
