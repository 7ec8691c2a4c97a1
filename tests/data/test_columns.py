"""Sources that are indexed once: samples in columns, which processes share, equal objects."""

import csv
import os
import pickle
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import COLOURS, save_photo
from tests.data.sources import CLASSES, add, write_shard, write_source
from zoo import cache
from zoo.data.columns import Columns, group_counts, has_groups, label_counts
from zoo.data.decoded import content_keys
from zoo.data.sample import Sample
from zoo.data.scan import SAMPLED, list_alone, partial_scan, readable_images
from zoo.data.sources import frequent, open_source
from zoo.data.sources.grouped import GroupedSource, by_pattern
from zoo.data.split import (
    Splits,
    group_indices,
    names_sha256,
    read_splits,
    split_fold,
    stratified_split,
)
from zoo.errors import DataError
from zoo.planning.inputs import read_data
from zoo.recipe import make_recipe

ROWS = 60


def aged(file: Path, seconds: float = 1e9) -> Path:
    os.utime(file, (seconds, seconds))
    return file


def write(folder: Path, rows, header=("path", "label")) -> Path:
    table = folder / "table.csv"
    with table.open("w", newline="") as lines:
        csv.writer(lines).writerows([header, *rows])
    return aged(table)


@pytest.fixture
def files(tmp_path):
    """Files that are no images."""
    for n in range(ROWS):
        file = tmp_path / "img" / f"{n}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * (n + 1))
        aged(file)
    return tmp_path


def single(n):
    return (f"img/{n}.png", ("red", "green", "blue", "red")[n % 4])


def several(n):
    return (f"img/{n}.png", ("red|green", "green", "", "blue|red")[n % 4])


def read(table, scan="none", **fields) -> Splits:
    recipe = make_recipe(None, data=str(table), scan=scan, **fields)
    return read_data(recipe, lambda event: None)


def stores() -> list[cache.StoredEntry]:
    return [each for each in cache.stored() if each.about.get("index") == "columns"]


def assert_equal(found, expected):
    """Assert that splits of columns equal those of samples."""
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, Columns)
        assert [*one] == [*other]
        assert label_counts(one) == label_counts(other)
        assert group_counts(one) == group_counts(other)
        assert has_groups(one) == has_groups(other)
        assert [*group_indices(one)] == group_indices(other)
        assert names_sha256(one) == names_sha256(other)
        assert [*content_keys(one)] == content_keys(other)
        splits = Splits(class_names=("blue", "green", "red"), train=one, val=other)
        assert splits.counts(one) == splits.counts(other)
        assert splits.indices(one) == splits.indices(other)


@pytest.mark.parametrize("row", [single, several])
@pytest.mark.parametrize("val_split", [0.01, 0.2, 0.5, 0.97])
def test_columns_are_split_counted_and_keyed_as_samples_are(files, row, val_split):
    table = write(files, map(row, range(ROWS)))
    (part,) = [open_source(table).read("train")]
    assert isinstance(part.samples, Columns)
    columns, issues = readable_images(part.samples, list_alone)
    assert isinstance(columns, Columns)
    assert not issues
    samples = [*columns]
    assert columns == samples
    assert [columns[n] for n in range(-3, ROWS)] == [samples[n] for n in range(-3, ROWS)]
    assert [*columns[5:9]] == samples[5:9]
    for seed in range(3):
        assert_equal(
            stratified_split(columns, val_split, seed), stratified_split(samples, val_split, seed)
        )


def test_a_table_is_read_once_while_it_does_not_change(files):
    table = write(files, map(single, range(ROWS)))
    first = read(table)
    assert isinstance(first.train, Columns)
    content = table.read_bytes()
    table.write_bytes(b"x" * len(content))
    aged(table)
    second = read(table)
    assert (second.train, second.val, second.issues) == (first.train, first.val, first.issues)
    table.write_bytes(content.replace(b"green", b"white"))
    aged(table, 1.1e9)
    assert read(table).class_names == ("blue", "red", "white")


def test_what_the_table_says_beside_its_samples_is_kept(files):
    rows = [
        (*single(n), ("train", "val", "test")[n % 3], f"film {n // 2}", "7") for n in range(ROWS)
    ]
    table = write(files, rows, ("path", "label", "split", "film", "width"))
    for _ in range(2):
        splits = read(table, group_by="film")
        assert [len(each) for each in (splits.train, splits.val, splits.test)] == [20, 20, 20]
        assert splits.train[0].group == "film 0"
        assert any("width" in issue.reason for issue in splits.issues)
        assert {type(s.group) for s in read(table).train} == {type(None)}


def test_files_that_change_or_are_missing_are_noticed(files):
    table = write(files, map(single, range(ROWS)))
    first = read(table)
    (files / "img" / "0.png").write_bytes(b"changed")
    aged(files / "img" / "0.png", 1.1e9)
    second = read(table)
    assert first.class_names == second.class_names
    keys = [{s.name: s.content.key for s in (*each.train, *each.val)} for each in (first, second)]
    assert [n for n in keys[0] if keys[0][n] != keys[1][n]] == ["img/0.png"]
    (files / "img" / "1.png").unlink()
    third = read(table)
    assert [Path(i.name).name for i in third.issues if i.kind == "unreadable"] == ["1.png"]
    assert len(third.train) + len(third.val) == ROWS - 1


def test_a_damaged_index_is_made_again(files):
    table = write(files, map(single, range(ROWS)))
    splits = read(table)
    before = [[*splits.train], [*splits.val]]
    del splits  # It maps the files that are changed.
    (store,) = stores()
    for file in store.path.glob("*.bin"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    splits = read(table)
    assert [[*splits.train], [*splits.val]] == before


def test_an_image_takes_less_than_100_bytes_which_are_shared(tmp_path):
    """Names as long as those of ImageNet; the table alone, for the files would take minutes."""
    rows = ((f"n{n % 1000:08}/n{n % 1000:08}_{n}.JPEG", f"class {n % 1000}") for n in range(20_000))
    part = open_source(write(tmp_path, rows)).read("train")
    assert isinstance(part.samples, Columns)
    (store,) = stores()
    # What listing them gives: a key, a size and a time.
    assert store.bytes / 20_000 + 16 + 8 + 8 < 100


def test_columns_are_sent_to_other_processes(files):
    splits = read(write(files, map(single, range(ROWS))))
    assert [*pickle.loads(pickle.dumps(splits.train))] == [*splits.train]


def test_images_are_read_from_columns(tmp_path):
    for n in range(8):
        aged(save_photo(tmp_path / "img" / f"{n}.png", COLOURS["red" if n % 2 else "blue"], n))
    table = write(tmp_path, [(f"img/{n}.png", "red" if n % 2 else "blue") for n in range(8)])
    full, none = (
        read_splits(open_source(table), val_split=0.25, seed=0),
        read(table, val_split=0.25),
    )
    names = [[s.name for s in each.train] for each in (full, none)]
    assert names[0] == names[1]
    assert [s.read() for s in full.train] == [s.read() for s in none.train]
    os.utime(tmp_path / none.train[0].name, (1.2e9, 1.2e9))
    with pytest.raises(DataError):
        none.train[0].read()
    assert np.array_equal([len(s.labels) for s in none.train], [1] * len(none.train))


class AsObjects:
    """A source whose samples are objects."""

    def __init__(self, source):
        self.source, self.name, self.splits = source, source.name, source.splits

    def read(self, split):
        part = self.source.read(split)
        assert isinstance(part.samples, Columns)
        return replace(part, samples=[*part.samples])


#: Groups of very different sizes; the last has rows without any.
PATTERNS = ["img/([0-9])", "[0-9]([0-9])", "img/(.*)", "img/([0-3])[0-9]"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("row", [single, several])
def test_groups_of_columns_are_those_of_samples(files, row, pattern, shared):
    table = write(files, map(row, range(ROWS)))
    source, group_of = open_source(table), by_pattern(pattern)
    (columns, issues), (samples, expected) = (
        (part.samples, part.issues)
        for each in (source, AsObjects(source))
        for part in [GroupedSource(each, pattern, group_of).read("train")]
    )
    assert isinstance(columns, Columns)
    assert issues == expected
    assert len(group_counts(columns)) > 2
    for seed in range(3):
        for val_split in (0.05, 0.2, 0.7):
            found = stratified_split(columns, val_split, seed)
            assert_equal(found, stratified_split(samples, val_split, seed))
            assert len(found[0])
            assert len(found[1])
        for fold in (1, 3):
            folds = [split_fold(each, (fold, 3), seed) for each in (columns, samples)]
            assert_equal(*folds)


@pytest.mark.parametrize("row", [single, several])
def test_rare_classes_are_left_out_of_columns_as_of_samples(files, row):
    def more(n):
        name, labels = row(n)
        rare = "white" if row is single else f"white|{labels}"
        return (name, rare if n in (3, 9) else labels)

    source = open_source(write(files, map(more, range(ROWS))))
    kept, expected = (frequent(each, 3) for each in (source, AsObjects(source)))
    found = kept.read("train").samples
    assert isinstance(found, Columns)
    assert_equal([found], [expected.read("train").samples])
    assert [i.reason for i in kept.issues] == [i.reason for i in expected.issues]
    assert kept.issues


@pytest.mark.parametrize("mode", ["sample", "none"])
def test_some_images_of_columns_are_scanned(files, mode):
    source = open_source(write(files, map(single, range(ROWS))))
    seen = []

    def scan(samples):
        seen.append([sample.name for sample in samples])
        return ["unreadable image x: it is bad"] * 2 + [*list_alone(samples)][2:]

    results = [
        readable_images(samples, partial_scan(mode, scan))
        for samples in (source.read("train").samples, [*source.read("train").samples])
    ]
    assert [*results[0][0]] == results[1][0]
    assert results[0][1] == results[1][1]
    assert isinstance(results[0][0], Columns)
    assert len(results[0][0]) == ROWS - (2 if mode == "sample" else 0)
    assert [len(each) for each in seen] == ([3 * SAMPLED] * 2 if mode == "sample" else [])


def test_a_full_scan_keeps_columns(tmp_path):
    for n in range(24):
        aged(save_photo(tmp_path / "img" / f"{n}.png", COLOURS["red" if n % 2 else "blue"], n))
    (tmp_path / "img" / "5.png").write_bytes(b"no image")
    rows = [(f"img/{n}.png", "red" if n % 2 else "blue", f"film {n // 4}") for n in range(24)]
    table = write(tmp_path, rows, ("path", "label", "film"))
    splits = read(table, scan="full", val_split=0.25, group_by="film")
    assert isinstance(splits.train, Columns)
    assert isinstance(splits.val, Columns)
    assert {s.group for s in splits.train}.isdisjoint(s.group for s in splits.val)
    samples = [*splits.train, *splits.val]
    assert len(samples) == 23
    for sample in samples:
        assert sample.content.hashed
        assert sample.content.key == cache.image_key(sample.read())
    assert [Path(i.name).name for i in splits.issues if i.kind == "unreadable"] == ["5.png"]
    assert not any("not read before training" in i.reason for i in splits.issues)


@pytest.fixture
def shared(monkeypatch):
    """Columns of few samples are made and shared too."""
    set_many(monkeypatch, 1)


def set_many(monkeypatch, many):
    for module in ("columns", "sources", "sources.folder", "sources.indexed"):
        monkeypatch.setattr(f"zoo.data.{module}.MANY", many)


@pytest.fixture
def folder(tmp_path):
    """Class folders with files that are no images, one of a name that is not UTF-8."""
    root = tmp_path / "photos"
    for n in range(ROWS):
        file = root / ("red", "Red", "green", "blue", "e\u0301", "\xe9")[n % 6] / f"{n}.png"
        file = file.parent / ("", f"film {n % 7}")[n % 2] / file.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * (n + 1))
        aged(file)
    with suppress(OSError):
        odd = Path(os.fsdecode(os.fsencode(root / "blue") + b"/\xff\n.png"))
        odd.write_bytes(b"x")
        aged(odd)
    return root


@pytest.mark.parametrize("fields", [{}, {"group_by": "folder"}, {"group_by": "([0-9])\\.png"}])
def test_a_folder_gives_the_same_samples_in_columns(folder, fields, shared, monkeypatch):
    columns = read(folder, **fields)
    assert isinstance(columns.train, Columns)
    assert isinstance(columns.val, Columns)
    assert stores()
    set_many(monkeypatch, 10_000)
    samples = read(folder, **fields)
    assert isinstance(samples.train[0], Sample)
    assert not isinstance(samples.train, Columns)
    assert len(samples.train) > len(samples.val) > 5
    assert [*columns.train] == [*samples.train]
    assert [*columns.val] == [*samples.val]
    assert (columns.class_names, columns.issues) == (samples.class_names, samples.issues)


def test_a_changed_folder_is_seen(folder, shared):
    first = read(folder)
    records = stores()[0].records
    assert read(folder).train == first.train
    assert stores()[0].records == records
    (folder / "red" / "0.png").unlink()
    (folder / "green" / "new.png").write_bytes(b"x")
    aged(folder / "green" / "new.png")
    second = read(folder)
    names = [{s.name for s in (*each.train, *each.val)} for each in (first, second)]
    assert names[0] ^ names[1] == {"red/0.png", "green/new.png"}
    assert stores()[0].records > records


def test_a_folder_is_read_without_a_writable_cache(folder, shared, monkeypatch, tmp_path):
    expected = read(folder)
    home = tmp_path / "file"
    home.write_text("no folder")
    monkeypatch.setenv("ZOO_HOME", str(home))
    assert read(folder).train == expected.train


def aged_source(kind, folder) -> Path:
    data = Path(write_source("zip" if kind == "films" else kind, folder))
    if kind == "films":
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (folder / "photos").rglob("*.png"):
                archive.write(file, f"{file.parent.name}/film {file.stem}/{file.name}")
    for file in folder.rglob("*"):
        aged(file)
    return data


def described(samples):
    """All that samples have, with what they read in place of the function that reads it."""
    return [replace(s, load=None) for s in samples], [s.read() for s in samples]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("zip", {}),
        ("films", {"group_by": "folder"}),
        ("tar", {"group_by": "([0-9])\\.png"}),
        ("shards", {"min_count": 2}),
        ("hf", {"group_by": "film"}),
    ],
)
def test_archives_and_datasets_give_the_same_samples_in_columns(
    kind, fields, shared, monkeypatch, tmp_path
):
    data = aged_source(kind, tmp_path)
    first, again = read(data, **fields), read(data, **fields)
    set_many(monkeypatch, 10_000)
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "other"))
    expected = read(data, **fields)
    assert not isinstance(expected.train, Columns)
    assert len(expected.train) > len(expected.val) > 2
    for found in (first, again, pickle.loads(pickle.dumps(again))):
        assert isinstance(found.train, Columns)
        assert isinstance(found.val, Columns)
        assert described(found.train) == described(expected.train)
        assert described(found.val) == described(expected.val)
        assert [*content_keys(found.train)] == content_keys(expected.train)
        assert (found.class_names, found.issues) == (expected.class_names, expected.issues)


def test_images_in_a_table_are_columns(tmp_path, monkeypatch):
    data = aged_source("parquet", tmp_path)
    first, again = read(data), read(data)
    assert isinstance(first.train, Columns)
    images = described(first.train)
    assert images == described(again.train)
    # A table of this time is read each time.
    os.utime(data)
    monkeypatch.setattr("zoo.data.files._MOST_WAITS", 0)
    expected = read(data)
    assert not isinstance(expected.train, Columns)
    assert images[1] == described(expected.train)[1]
    assert [(s.name, s.labels) for s in first.val] == [(s.name, s.labels) for s in expected.val]


def damage(file: Path) -> None:
    """Change the content of a file, but not what identifies it."""
    file.write_bytes(b"x" * file.stat().st_size)
    aged(file)


@pytest.mark.parametrize("kind", ["zip", "tar", "shards", "parquet"])
def test_an_archive_is_listed_once_while_it_does_not_change(kind, shared, tmp_path):
    data = aged_source(kind, tmp_path)
    first = read(data)
    files = [data] if data.is_file() else sorted(data.glob("*.tar"))
    for file in files:
        damage(file)
    again = read(data)
    names = [[s.name for s in (*each.train, *each.val)] for each in (first, again)]
    assert names[0] == names[1]
    assert first.issues == again.issues
    for file in files:
        aged(file, 1.1e9)
    with pytest.raises(DataError):
        read(data)


def test_an_archive_that_changes_after_it_was_listed_is_an_error(shared, tmp_path):
    data = aged_source("zip", tmp_path)
    sample = read(data).train[0]
    aged(data, 1.2e9)
    with pytest.raises(DataError):
        sample.read()


def test_names_of_classes_beside_shards_are_read_each_time(shared, tmp_path):
    data = aged_source("shards", tmp_path)
    assert read(data).class_names == CLASSES
    (data / "classes.txt").write_text("cyan\nlime\npink")
    assert read(data).class_names == ("cyan", "lime", "pink")
    (data / "classes.txt").write_text("cyan\nlime")
    for _ in range(2):
        with pytest.raises(DataError):
            read(data)
    (data / "classes.txt").unlink()
    splits = read(data)
    assert splits.class_names == ("0", "1", "2")
    assert any("numbers" in issue.reason for issue in splits.issues)


def test_splits_of_shards_are_kept_even_if_one_is_small(shared, tmp_path):
    files = sorted((Path(write_source("zip", tmp_path)).parent / "photos").rglob("*.png"))
    write_shard(tmp_path / "s" / "train-0.tar", files)
    write_shard(tmp_path / "s" / "test-0.tar", [])
    for file in (tmp_path / "s").iterdir():
        aged(file)
    for _ in range(2):
        splits = read(tmp_path / "s")
        assert len(splits.train) + len(splits.val) == len(files)
        assert len(splits.test) == 0


def test_archives_are_read_without_a_writable_cache(shared, monkeypatch, tmp_path):
    data = aged_source("tar", tmp_path)
    expected = read(data)
    home = tmp_path / "file"
    home.write_text("no folder")
    monkeypatch.setenv("ZOO_HOME", str(home))
    found = read(data)
    assert isinstance(found.train, Columns)
    assert described(found.train) == described(expected.train)


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_image_of_an_archive_takes_less_than_100_bytes(kind, tmp_path):
    """Names as long as those of ImageNet."""
    data = tmp_path / f"data.{kind}"
    images = 20_000
    names = [f"n{n % 1000:08}/n{n % 1000:08}_{n}.JPEG" for n in range(images)]
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
    else:
        with tarfile.open(data, "w") as tar:
            for name in names:
                add(tar, name, b"x")
    splits = read(aged(data))
    assert isinstance(splits.train, Columns)
    assert len(splits.train) + len(splits.val) == images
    (store,) = stores()
    assert store.bytes / images < 100
