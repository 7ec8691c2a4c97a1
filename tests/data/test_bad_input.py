"""Bad archives and tables: one message that names the file, and the row or the member."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from tests.conftest import make_photos, zoo_
from tests.data.sources import add, write_parquet, write_shard


@pytest.fixture
def files(tmp_path):
    return sorted(make_photos(tmp_path / "photos", 3).rglob("*.png"))


def refused(path, *words):
    """What `zoo data check` says of it, in one message."""
    result = zoo_("data", "check", path, code=2)
    assert "Traceback" not in result.output
    said = result.stderr
    assert str(path) in said
    for word in words:
        assert word in said, said
    return said


def csv(files, *more, header="path,label"):
    rows = [f"photos/{f.parent.name}/{f.name},{f.parent.name}" for f in files]
    return "\n".join([header, *rows, *more])


@pytest.mark.parametrize(
    ("more", "header", "words"),
    [
        (["a.png,red,val"], "path,label", ["line 11", "3 cells"]),
        ([",red"], "path,label", ["line 11", "path"]),
        (["photos/red/0.png,red,7"], "path,label", ["line 11"]),
        ([], "path,name,name", ["cells"]),
        ([], "picture,label", ["picture, label"]),
        ([], "path,red", ["line 2", "not 0 or 1"]),
    ],
)
def test_a_row_of_a_csv_table_is_named(files, tmp_path, more, header, words):
    table = tmp_path / "table.csv"
    table.write_text(csv(files, *more, header=header))
    refused(table, *words)


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"label": [["red"]]}, "label"),
        ({"label": [{"a": 1}]}, "label"),
        ({"label": {"a": 1}}, "label"),
        ({"label": "\ud800"}, "label"),
        ({"label": "red", "group": "\udfff"}, "group"),
        ({"label": "red", "split": "train-2"}, "train-2"),
        ({"label": "red", "split": 3}, "split"),
        ({"label": "red", "path": None}, "path"),
        ({"label": "red", "path": "photos/red/0.png", "group": "g"}, "group"),
        ([1], "object"),
    ],
)
def test_a_row_of_json_lines_is_named(files, tmp_path, row, word):
    table = tmp_path / "table.jsonl"
    good = [
        {"path": f"photos/{f.parent.name}/{f.name}", "label": f.parent.name, "split": "train"}
        for f in files
    ]
    bad = {"path": "a.png", "split": "train", **row} if isinstance(row, dict) else row
    table.write_text("\n".join(map(json.dumps, [*good, bad])))
    refused(table, "line 10", word)


def test_numbers_are_names_of_classes_and_missing_ones_no_label(files, tmp_path):
    table = tmp_path / "table.parquet"
    paths = [f"photos/{f.parent.name}/{f.name}" for f in files]
    labels = [float("nan"), *(n % 2 for n in range(8))]
    parquet.write_table(pyarrow.table({"path": paths, "label": pyarrow.array(labels)}), table)
    found = json.loads(zoo_("data", "check", table, "--format", "json").stdout)
    (classes,) = found["counts"].values()
    assert classes == {"0.0": 4, "1.0": 4}


def test_a_column_without_a_name_is_no_label(files, tmp_path):
    """As pandas writes the numbers of rows."""
    table = tmp_path / "table.csv"
    rows = [f"{n},photos/{f.parent.name}/{f.name},{n % 2},{1 - n % 2}" for n, f in enumerate(files)]
    table.write_text("\n".join([",path,odd,even", *rows]))
    found = json.loads(zoo_("data", "check", table, "--format", "json").stdout)
    (classes,) = found["counts"].values()
    assert set(classes) == {"odd", "even"}


def test_files_that_are_missing_are_left_out_or_refused(files, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text(csv(files, "photos/red/99.png,red"))
    said = zoo_("finetune", "--data", table, "--strict", "--dry-run", code=2).stderr
    assert "99.png" in said
    table.write_text("path,label\na.png,red\nb.png,green\n")
    said = zoo_("finetune", "--data", table, "--dry-run", code=2).stderr
    assert "a.png" in said


def test_a_parquet_file_without_images_or_rows_is_named(files, tmp_path):
    table = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table({"width": [1], "label": ["red"]}), table)
    refused(table, "width, label")
    parquet.write_table(pyarrow.table({"path": pyarrow.array([], pyarrow.string())}), table)
    refused(table)


def test_a_small_parquet_file_of_many_rows_is_refused(tmp_path):
    table = tmp_path / "table.parquet"
    rows = 5_000_000
    columns = {"path": pyarrow.repeat("a.png", rows), "label": pyarrow.repeat("red", rows)}
    parquet.write_table(pyarrow.table(columns), table)
    assert table.stat().st_size < rows / 8
    refused(table, "5,000,000 rows")


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_files_that_are_cut_short_are_named(files, tmp_path, share):
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for file in files:
            made.write(file, f"{file.parent.name}/{file.name}")
    for path in (
        archive,
        write_shard(tmp_path / "shard.tar", files),
        write_parquet(tmp_path / "table.parquet", files),
    ):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        refused(path)


def test_a_label_of_a_shard_is_named(files, tmp_path):
    for label in ('{"label": "\\ud800"}', '{"label": [["red"]]}', '{"label": ""}', "{"):
        shard = write_shard(tmp_path / "shard.tar", files, lambda name, text=label: ("json", text))
        refused(shard, "0000.json")


def test_an_index_that_is_damaged_or_of_another_version_is_made_again(files, tmp_path):
    shard = write_shard(tmp_path / "shard.tar", files)
    with tarfile.open(shard, "a") as tar:
        add(tar, "9999.png", files[0].read_bytes())
        add(tar, "9999.cls", b"1")
    first = zoo_("data", "check", shard, "--format", "json", code=1).stdout
    for store in Path("zoo").rglob("*"):
        if store.is_file():
            store.write_bytes(io.BytesIO(store.read_bytes()).read(20))
    assert json.loads(zoo_("data", "check", shard, "--format", "json", code=1).stdout) == (
        json.loads(first)
    )
