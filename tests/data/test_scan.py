"""Which images are read before training: all, some of each class, or none."""

import os
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest

import zoo
from tests.conftest import QUICK, make_photos, zoo_
from tests.data.sources import write_source
from tests.data.test_source_plugins import TAR
from tests.pipeline.conftest import start
from tests.pipeline.crash import Crash, check_equal, crash_at
from zoo.data.issue import Issue
from zoo.data.scan import SAMPLED, is_read
from zoo.errors import DataError, RunError
from zoo.events import ignore
from zoo.planning.inputs import read_data
from zoo.recipe import make_recipe


def read(data, scan=None, **fields):
    given = {} if scan is None else {"scan": scan}
    return read_data(make_recipe(None, data=str(data), **given, **fields), lambda event: None)


def age(folder):
    """Make files look old enough for reliable modification times, so that nothing is waited for."""
    for file in Path(folder).rglob("*"):
        os.utime(file, (1e9, 1e9))
    return folder


def samples_of(splits):
    return [*splits.train, *splits.val, *splits.test]


def notes_of(splits) -> list[Issue]:
    return [issue for issue in splits.issues if issue.kind == "note" and "scan" in issue.reason]


@pytest.fixture
def many(tmp_path):
    return age(make_photos(tmp_path / "photos", SAMPLED + 15))


def test_images_that_are_not_read_are_split_alike_and_said(many):
    full, sample, none = (read(many, scan) for scan in ("full", "sample", "none"))
    names = [[s.name for s in samples_of(splits)] for splits in (full, sample, none)]
    assert names[0] == names[1] == names[2]
    counted = [sum(map(is_read, samples_of(splits))) for splits in (full, sample, none)]
    assert counted == [75, 3 * SAMPLED, 0]
    assert not notes_of(full)
    for splits, unread in ((sample, 75 - 3 * SAMPLED), (none, 75)):
        (note,) = notes_of(splits)
        assert f"{unread} of 75 " in note.reason
    assert read(many, "sample") == sample


def test_nothing_of_an_image_is_read_by_listing_alone(many):
    for file in many.rglob("*.png"):
        file.write_bytes(b"no image")
    age(many)
    assert len(samples_of(read(many, "none"))) == 75
    with pytest.raises(DataError):
        read(many, "full")
    # Of each class, those that are read are found to be unreadable.
    sample = read(many, "sample")
    unreadable = [issue for issue in sample.issues if issue.kind == "unreadable"]
    assert len(unreadable) == 3 * SAMPLED
    assert len(samples_of(sample)) == 75 - 3 * SAMPLED


@pytest.mark.medium
def test_files_that_are_gone_or_empty_are_left_out_without_reading(many):
    files = sorted(many.rglob("*.png"))
    rows = [f"{file.relative_to(many)},{file.parent.name}" for file in files]
    (many / "table.csv").write_text("\n".join(["path,label", *rows]))
    files[0].unlink()
    files[1].write_bytes(b"")
    splits = read(many / "table.csv", "none")
    assert [Path(i.name) for i in splits.issues if i.kind == "unreadable"] == files[:2]
    assert len(samples_of(splits)) == 73


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["zip", "tar", "shards", "parquet", "hf"])
def test_an_image_of_a_file_that_changes_is_refused(kind, tmp_path):
    """The file is new, so its key is reliable only after a while."""
    data = write_source(kind, tmp_path)
    splits = read(data, "none")
    samples = samples_of(splits)
    assert not any(map(is_read, samples))
    assert len({sample.content.key for sample in samples}) == 24
    assert all(sample.read() for sample in samples)
    if kind == "hf":  # Its library maps the files into memory.
        return
    path = Path(data)
    file = path if path.is_file() else next(path.glob("*.tar"))
    os.utime(file, (1e9, 1e9))
    changed = [sample for sample in samples if sample.holder == file]
    assert changed
    with pytest.raises(DataError):
        changed[0].read()


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("scan", ["none", "sample"])
def test_a_run_by_listing_resumes_to_the_bit_and_refuses_changed_files(scan, kind, tmp_path):
    photos = age(make_photos(tmp_path / "photos", 12))
    data = Path(shutil.make_archive(str(photos), "zip", photos)) if kind == "zip" else photos
    fields = {**start(), "train": "finetune", "epochs": 2, "checkpoint_every": 1, "scan": scan}
    undisturbed = zoo.finetune(data, out="undisturbed", listen=ignore, **fields)
    with suppress(Crash):
        zoo.finetune(data, out="run", listen=crash_at(4), **fields)
    shutil.copytree("run", "other")
    run = zoo.resume("run", listen=ignore)
    check_equal(run, undisturbed)
    assert run.info.recipe.scan == scan
    assert f'scan = "{scan}"' in Path("run/recipe.toml").read_text()
    assert run.evaluate().metrics == pytest.approx(undisturbed.evaluate().metrics)
    for file in [data] if kind == "zip" else data.rglob("*.png"):
        os.utime(file, (1.1e9, 1.1e9))
    with pytest.raises(RunError):
        zoo.resume("other", listen=ignore)


@pytest.mark.medium
def test_an_unreadable_image_that_was_not_looked_for_ends_training(tmp_path):
    photos = make_photos(tmp_path / "photos", 12)
    bad = photos / "red" / "5.png"
    bad.write_bytes(b"no image")
    age(photos)
    words = ["finetune", "--data", photos, "--out", "run"]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    said = zoo_(*words, "--scan=none", code=2).output
    assert str(bad) in said
    assert "--scan full" in said
    assert "Traceback" not in said
    zoo_(*words, "--scan=full")


@pytest.mark.medium
def test_some_of_remote_images_are_read_unless_the_recipe_says_otherwise(install, many, tmp_path):
    archive = tmp_path / "far.tar"
    with tarfile.open(archive, "w") as tar:
        for file in sorted(many.rglob("*.png")):
            tar.add(file, file.relative_to(many))
    remote = TAR.replace('endswith(".tar")', 'startswith("far:")')
    remote = remote.replace("self.name, self.file = data, data", "self.name = self.file = data[4:]")
    remote = remote.replace('splits = ("train",)', 'splits = ("train",)\n    remote = True')
    install("zoo-tar", "tar", "zoo_tar", remote)
    data = f"far:{archive}"
    for splits in (read(data), read(data, group_by=r"(\d)\.png")):
        assert splits.scan == "sample"
        assert sum(map(is_read, samples_of(splits))) == 3 * SAMPLED
    assert read(data, "full").scan == "full"
    assert read(data, "none").scan == "none"
    assert read(many).scan == "full"
