"""Archives, shards, tables of images and saved datasets: what they hold, and what is refused."""

import json
import os
import shutil
import tarfile
import warnings
import zipfile

import pyarrow
import pytest
from pyarrow import parquet

from tests.data.sources import (
    CLASSES,
    KINDS,
    add,
    dataset_of,
    write_parquet,
    write_shard,
    write_source,
)
from zoo.data.check.dataset import check_data
from zoo.data.sources import is_image_folder, located, open_source, unlabelled
from zoo.data.sources.inline import MAX_GROUP
from zoo.data.split import read_splits
from zoo.errors import DataError
from zoo.testing import check_source, write_images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def files(tmp_path):
    return sorted(write_images(tmp_path / "photos").rglob("*.png"))


def read(data, **options):
    return read_splits(open_source(str(data), **options), val_split=0.25, seed=0)


def contents(splits):
    return sorted((s.labels, s.content.key) for s in (*splits.train, *splits.val))


def opened(data):
    source = open_source(str(data))
    return [source.read(split) for split in source.splits]


def refused(data, *named):
    with pytest.raises(DataError) as caught:
        opened(data)
    for text in named:
        assert text in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_has_the_images_of_the_folder(kind, tmp_path):
    data = write_source(kind, tmp_path)
    splits = read(data)
    assert splits.class_names == CLASSES
    assert contents(splits) == contents(read(tmp_path / "photos"))
    assert not [issue for issue in splits.issues if issue.left_out]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_is_split_as_its_folder(kind, tmp_path):
    splits, plain = read(write_source(kind, tmp_path)), read(tmp_path / "photos")
    assert [s.name for s in splits.val] == [s.name for s in plain.val]


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_is_checked_and_listed_for_prediction(kind, tmp_path):
    data = write_source(kind, tmp_path)
    report = check_data(data)
    assert report.images == 24
    assert report.formats == {"PNG": 24}
    if kind != "jsonl":  # A table of paths is read by prediction itself.
        images, others = unlabelled(data) or ([], [])
        assert (len(images) if kind != "parquet" else 24, others) == (24, [])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_source_passes_the_conformance_checks(kind, tmp_path):
    data = write_source(kind, tmp_path)
    results = check_source(open_existing, data)
    assert {r.message for r in results if r.status != "passed"} == set()


def open_existing(data):
    return open_source(data) if os.path.exists(data) else None  # noqa: PTH110


def test_results_of_an_archive_are_stored_until_it_changes(tmp_path):
    data = write_source("zip", tmp_path)
    os.utime(data, (1e9, 1e9))
    stamps = {s.stamp for s in read(data).train}
    assert b"" not in stamps
    os.utime(data, (1.1e9, 1.1e9))
    assert not stamps & {s.stamp for s in read(data).train}


def test_an_archive_has_splits_and_hidden_files_as_a_folder_has(tmp_path, files):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for n, file in enumerate(files):
            split = "validation" if n % 4 == 0 else "train"
            archive.write(file, f"x/{split}/{file.parent.name}/{file.name}")
        archive.writestr("__MACOSX/x/train/red/._0.png", b"resource fork")
        archive.writestr("x/train/red/notes.txt", b"text")
        archive.writestr("x/train/red/damaged.png", b"text")
    splits = read(tmp_path / "x.zip")
    assert (len(splits.train), len(splits.val)) == (18, 6)
    assert {issue.kind for issue in splits.issues} == {"skipped", "unreadable"}


def test_subfolders_of_classes_in_an_archive_are_groups(tmp_path, files):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for n, file in enumerate(files):
            archive.write(file, f"{file.parent.name}/film{n % 4}/{file.name}")
    splits = read(tmp_path / "x.zip", group_by="folder")
    assert {s.group for s in (*splits.train, *splits.val)} == {f"film{n}" for n in range(4)}


@pytest.mark.parametrize("name", ["../x.png", "/red/x.png", "red/../../x.png", "C:/x.png"])
def test_a_member_that_leads_out_of_an_archive_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"x")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, name, b"x")
    for file in ("x.zip", "x.tar"):
        refused(tmp_path / file, file, name)


def test_an_encrypted_or_damaged_zip_is_refused(tmp_path, files):
    good = tmp_path / "good.zip"
    with zipfile.ZipFile(good, "w") as archive:
        for file in files:
            archive.write(file, f"{file.parent.name}/{file.name}")
    content = bytearray(good.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    refused(tmp_path / "locked.zip", "locked.zip", "blue/0.png")
    (tmp_path / "cut.zip").write_bytes(good.read_bytes()[:-40])
    refused(tmp_path / "cut.zip", "cut.zip")


def test_a_member_that_declares_a_wrong_size_is_not_decompressed_as_a_whole(tmp_path, files):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"{file.parent.name}/{file.name}")
        archive.writestr("red/bomb.png", bytes(10_000_000))
    content = bomb.read_bytes()
    size = (10_000_000).to_bytes(4, "little")
    assert content.count(size) == 2
    bomb.write_bytes(content.replace(size, (100).to_bytes(4, "little")))
    (issue,) = [i for i in read(bomb).issues if i.kind == "unreadable"]
    assert issue.name == "red/bomb.png"


def test_numbered_classes_have_the_names_beside_the_shards(tmp_path, files):
    shard = write_shard(tmp_path / "s" / "a.tar", files)
    splits = read(shard)
    assert splits.class_names == ("0", "1", "2")
    assert any(issue.kind == "note" and issue.name == str(shard) for issue in splits.issues)
    (tmp_path / "s" / "labels.json").write_text(
        json.dumps({name: n for n, name in enumerate(CLASSES)})
    )
    assert read(shard).class_names == CLASSES
    (tmp_path / "s" / "labels.json").write_text('["blue", "green"]')
    refused(shard, "a.tar", ".png")


def test_labels_of_shards_are_in_json_or_text(tmp_path, files):
    as_json = write_shard(tmp_path / "a.tar", files, lambda c: ("json", json.dumps({"class": c})))
    as_text = write_shard(tmp_path / "b.tar", files, lambda c: ("txt", c))
    both = write_shard(
        tmp_path / "c.tar", files, lambda c: ("json", json.dumps({"label": [c, "photo"]}))
    )
    assert contents(read(as_json)) == contents(read(as_text))
    assert read(both).class_names == (*CLASSES[:2], "photo", "red")


def test_a_pattern_names_shards_and_their_splits(tmp_path, files, monkeypatch):
    for n in range(2):
        write_shard(tmp_path / "s" / f"train-{n:03}.tar", files[n::2])
    assert len(open_source(f"{tmp_path}/s/train-{{000..001}}.tar").read("train").samples) == 24
    assert len(open_source(f"{tmp_path}/s/*.tar").read("train").samples) == 24
    refused(f"{tmp_path}/s/train-{{000..002}}.tar", "train-002.tar")
    monkeypatch.chdir(tmp_path)
    assert located("s/train-{000..001}.tar") == f"{tmp_path}/s/train-{{000..001}}.tar"
    write_shard(tmp_path / "s" / "more.tar", files[:2])
    refused(tmp_path / "s", "more.tar")


def test_a_mask_and_an_image_without_a_label_are_left_out_of_shards(tmp_path, files):
    shard = write_shard(tmp_path / "a.tar", files)
    with tarfile.open(shard, "a") as tar:
        add(tar, "0000.mask.png", files[0].read_bytes())
        add(tar, "lonely.png", files[0].read_bytes())
    splits = read(shard)
    assert len(splits.train) + len(splits.val) == 24
    assert len([issue for issue in splits.issues if issue.kind == "skipped"]) == 2


@pytest.mark.parametrize("bytes_", [700, 1024, 5120, 9000])
def test_a_tar_that_is_cut_short_is_refused(tmp_path, files, bytes_):
    shard = write_shard(tmp_path / "a.tar", files)
    shard.write_bytes(shard.read_bytes()[:bytes_])
    refused(shard, "a.tar")


def test_other_tar_files_that_can_not_be_read_are_refused(tmp_path, files):
    packed = shutil.make_archive(str(tmp_path / "a"), "gztar", tmp_path / "photos")
    refused(packed, "a.tar.gz")
    shutil.copy(packed, tmp_path / "b.tar")
    refused(tmp_path / "b.tar", "b.tar")
    empty = write_shard(tmp_path / "c.tar", files, lambda c: ("cls", ""))
    refused(empty, "c.tar", "0000.cls")
    bad = write_shard(tmp_path / "d.tar", files, lambda c: ("json", "{"))
    refused(bad, "d.tar", "0000.json")


def test_a_folder_of_classes_beside_a_tar_file_is_a_folder(tmp_path, files):
    write_shard(tmp_path / "photos" / "photos.tar", files)
    assert is_image_folder(tmp_path / "photos")
    assert len(read(tmp_path / "photos").train) == 18


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"path": {"a": 1}, "label": "x"}',
        '{"path": "", "label": "x"}',
        '{"path": "a.png", "label": "x", "split": "dev"}',
    ],
)
def test_a_line_of_json_that_can_not_be_understood_is_an_error(tmp_path, line):
    first = '{"path": "b.png", "label": "y", "split": "train"}'
    (tmp_path / "t.jsonl").write_text(f"{first}\n\n{line}\n")
    refused(tmp_path / "t.jsonl", "t.jsonl", "line 3")


def test_class_names_with_commas_are_one_label(tmp_path, files):
    table = write_parquet(tmp_path / "t.parquet", files, names=("sky, blue", "green", "red"))
    assert read(table).class_names == ("green", "red", "sky, blue")


def test_a_binary_column_of_parquet_holds_images(tmp_path, files):
    columns = {"jpg": [f.read_bytes() for f in files], "label": [f.parent.name for f in files]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet", row_group_size=7)
    assert contents(read(tmp_path / "t.parquet")) == contents(read(tmp_path / "photos"))


def test_a_row_group_that_is_too_large_is_refused(tmp_path, files, monkeypatch):
    table = write_parquet(tmp_path / "t.parquet", files)
    monkeypatch.setattr("zoo.data.sources.inline.MAX_GROUP", 100)
    refused(table, "row group 1")
    assert MAX_GROUP > 100


def test_an_empty_cell_is_an_unreadable_image_and_a_wrong_class_an_error(tmp_path, files):
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = [{"bytes": f.read_bytes() if n else None, "path": None} for n, f in enumerate(files)]
    labels = [f.parent.name for f in files]
    table = pyarrow.table({"image": pyarrow.array(images, kind), "label": labels})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert [i.name for i in read(tmp_path / "t.parquet").issues if i.kind == "unreadable"] == [
        "0000001"
    ]
    refused(write_parquet(tmp_path / "u.parquet", files, names=("a", "b")), "u.parquet", "row ")


def test_a_saved_dataset_has_splits_and_groups(tmp_path, files):
    from datasets import DatasetDict

    whole = DatasetDict(
        {
            "train": dataset_of(files[::2]),
            "validation": dataset_of(files[1::2]),
            "extra": dataset_of(files),
        }
    )
    whole.save_to_disk(str(tmp_path / "d"))
    splits = read(tmp_path / "d", group_by="film")
    assert (len(splits.train), len(splits.val)) == (12, 12)
    assert splits.train[0].group == f"film {files[0].stem}"
    assert any("extra" in issue.reason for issue in splits.issues)
    assert not is_image_folder(tmp_path / "d")


@pytest.mark.parametrize("lacking", ["image", "label"])
def test_a_dataset_without_a_column_names_its_columns(tmp_path, files, lacking):
    dataset_of(files).remove_columns(lacking).save_to_disk(str(tmp_path / "d"))
    refused(tmp_path / "d", "film")


def test_a_dataset_that_can_not_be_had_is_one_message(tmp_path, files, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused("hf:acme/photos", "acme/photos")
        refused(f"hf:acme/photos@{'0' * 40}:large", "acme/photos", "large")
    refused("hf:", "hf:")
    dataset_of(files).save_to_disk(str(tmp_path / "d"))
    (tmp_path / "d" / "dataset_info.json").write_text("{")
    refused(tmp_path / "d", str(tmp_path / "d"))


def test_a_commit_is_what_a_run_records():
    commit = "0123456789" * 4
    assert located(f"hf:acme/photos@{commit}:large") == f"hf:acme/photos@{commit}:large"
