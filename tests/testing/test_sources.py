"""The checks of a data source, proven by faults; zoo's own sources pass them."""

import shutil
from pathlib import Path

import pytest

from tests.testing.results import failed
from zoo.data.sources import DemoSource, FolderSource, TableSource
from zoo.errors import PluginError
from zoo.testing import check_names, check_source, write_images

SOUND = """
import functools
import itertools
import zipfile

import zoo

COUNT = itertools.count()


@zoo.hookimpl
def zoo_sources():
    return {"zip": open_zip}


def open_zip(data):
    return ZipSource(data.removeprefix("zip:")) if data.startswith("zip:") else None


class ZipSource:
    splits = ("train", "val")

    def __init__(self, file):
        self.name, self.file = file, file

    def read(self, split):
        with zipfile.ZipFile(self.file) as archive:
            names = [n for n in archive.namelist() if n.startswith(split) and n[-1] != "/"]
        samples = [
            zoo.Sample(
                name=name,
                labels=(name.split("/")[1],),
                load=functools.partial(load, self.file, name),
            )
            for name in names
        ]
        return zoo.Part(name=self.name, samples=samples)


def load(file, name):
    with zipfile.ZipFile(file) as archive:
        return archive.read(name)
"""

#: Check that catches it -> fault -> (text of the sound plugin, its mutation).
FAULTS = {
    "check_other_data_is_left_to_others": {
        "takes everything": ('if data.startswith("zip:") else None', ""),
        "raises for others": ("else None", "else 1 / 0"),
    },
    "check_data_is_opened": {
        "no splits": ('splits = ("train", "val")', ""),
        "a split as text": ('("train", "val")', '("train")'),
        "a split of another name": ('"val")', '"validation")'),
        "no train": ('("train", "val")', '("val",)'),
        "does not open": ("self.name, self.file = file", "self.name, self.file = 1 / 0"),
    },
    "check_splits_are_read": {
        "a split that is not there": ('"val")', '"val", "test")'),
        "a list": ("return zoo.Part(name=self.name, samples=samples)", "return samples"),
        "samples of another kind": ("zoo.Part(", "zoo.Part(issues=['a'], "),
        "names for samples": ("samples=samples)", "samples=names)"),
    },
    "check_samples_are_described": {
        "labels as text": ('(name.split("/")[1],)', 'name.split("/")[1]'),
        "a group of a number": ("name=name,", "name=name, group=1,"),
        "no images": ("load=functools.partial(load, self.file, name),", ""),
    },
    "check_names_are_unique": {
        "one name for many": ("name=name,", 'name=name.split("/")[-1],'),
        "names of both splits": ("n.startswith(split)", "True"),
    },
    "check_samples_are_the_same_each_time": {
        "names by a counter": ("name=name,", "name=str(next(COUNT)),"),
        "names by hash": ("name=name,", "name=str(hash(name)),"),
        "in the order of a set": (
            "for name in names\n        ]",
            "for name in set(names)\n        ]",
        ),
    },
    "check_images_are_read": {
        "pixels": ("return archive.read(name)", "return bytes(300)"),
        "an image of another kind": ("return archive.read(name)", "return archive.open(name)"),
        "other bytes each time": (
            "return archive.read(name)",
            "return archive.read(name) + bytes([next(COUNT) % 256])",
        ),
    },
    "check_samples_can_be_sent_to_processes": {
        "a lambda": (
            "functools.partial(load, self.file, name)",
            "lambda name=name: load(self.file, name)",
        ),
    },
}
CHECK_OF = {fault: check for check, faults in FAULTS.items() for fault in faults}


@pytest.fixture
def archive(tmp_path):
    """A file of images of two splits, as `data` names it."""
    folder = tmp_path / "images"
    for split in ("train", "val"):
        write_images(folder / split)
    return f"zip:{shutil.make_archive(str(tmp_path / 'photos'), 'zip', folder)}"


def test_a_sound_source_passes_every_check(install, archive):
    install("acme-zip", "zip", "acme_zip_sound", SOUND)
    results = check_source("zip", archive)
    assert tuple(r.check for r in results) == check_names("source")
    assert {(r.kind, r.name, r.status) for r in results} == {("source", "zip", "passed")}


@pytest.mark.parametrize("fault", CHECK_OF)
@pytest.mark.medium
def test_a_fault_is_caught(fault, install, archive):
    name = CHECK_OF[fault]
    old, new = FAULTS[name][fault]
    assert old in SOUND
    install("acme-zip", "zip", f"acme_zip_{fault.replace(' ', '_')}", SOUND.replace(old, new))
    assert failed(check_source("zip", archive)) == [name]


def test_every_check_is_proven_by_a_fault():
    assert FAULTS.keys() == set(check_names("source"))


def open_folder(data):
    return FolderSource(Path(data)) if Path(data).is_dir() else None


def open_table(data):
    return TableSource(Path(data)) if Path(data).suffix == ".csv" else None


def open_demo(data):
    return DemoSource() if data == "demo" else None


@pytest.mark.slow
def test_zoos_own_sources_pass(split_photos, tmp_path):
    table = write_images(tmp_path) / "table.csv"
    images = [
        f"{file.relative_to(tmp_path)},{file.parent.name}" for file in tmp_path.rglob("*.png")
    ]
    table.write_text("\n".join(["path,label", *images]))
    for opener, data in ((open_folder, split_photos), (open_table, table), (open_demo, "demo")):
        results = check_source(opener, str(data))
        assert {r.message for r in results if r.status != "passed"} == set(), opener


def test_a_source_that_no_plugin_declares_is_refused():
    with pytest.raises(PluginError, match="'rar'"):
        check_source("rar", "rar:photos")
