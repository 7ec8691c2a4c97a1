"""Damaged archives and tables: an error in words, or issues; in bounded time and memory."""

import csv
import io
import json
import resource
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pytest
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from tests.conftest import COLOURS
from tests.data.sources import add
from tests.fuzz.conftest import fuzz, sizes
from tests.fuzz.images_support import within
from tests.fuzz.strategies import JSON, mutated
from zoo.data.issue import describe
from zoo.data.sources import open_source
from zoo.data.split import read_splits
from zoo.errors import ZooError

#: Memory that reading files of a few thousand bytes may take, in KiB.
MOST_KIB = 300 * 1024


def check(path: Path) -> None:
    """Read all images of a source, as before training; nothing but a ZooError is raised."""
    try:
        with within():
            splits = read_splits(open_source(path), val_split=0.3, seed=0)
    except ZooError as error:
        text = str(error)
    else:
        text = "\n".join(["issues:", *describe(splits.issues)])
        for sample in (*splits.train, *splits.val, *splits.test):
            assert isinstance(sample.read(), bytes)
            assert all(isinstance(name, str) and name for name in sample.labels)
    assert text.strip()
    assert len(text) < 10_000


@pytest.fixture(autouse=True)
def _bounded_memory():
    """The peak of the process does not grow by more."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIB


def changed(name: str):
    def of(content: bytes) -> None:
        path = Path(name).absolute()
        path.write_bytes(content)
        check(path)

    return of


@pytest.fixture(scope="module")
def images():
    """Six small images, so that changes often meet what is around them: (class, bytes)."""

    def encoded(n: int, colour: tuple[int, int, int]) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (8, 4 + n), colour).save(stream, "PNG")
        return stream.getvalue()

    return [(name, encoded(n, COLOURS[name])) for name in ("red", "blue") for n in range(3)]


def zipped(images) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for n, (name, content) in enumerate(images):
            archive.writestr(f"{name}/{n}.png", content)
    return stream.getvalue()


def shard(images, form=tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for n, (name, content) in enumerate(images):
            add(tar, f"{n}.png", content)
            add(tar, f"{n}.json", json.dumps({"label": name}).encode())
    return stream.getvalue()


def inline(images) -> bytes:
    stream = io.BytesIO()
    columns = {"image": [c for _, c in images], "label": [name for name, _ in images]}
    parquet.write_table(pyarrow.table(columns), stream, row_group_size=2)
    return stream.getvalue()


def rows(images) -> list[dict[str, object]]:
    for n, (name, content) in enumerate(images):
        path = Path("img", f"{name}{n}.png")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return [{"path": f"img/{name}{n}.png", "label": name} for n, (name, _) in enumerate(images)]


def lines(found) -> bytes:
    return "\n".join(map(json.dumps, found)).encode()


@sizes(300)
def test_zip_archives_with_changed_bytes(examples, images):
    content = zipped(images)
    ends = st.integers(0, len(content)).map(lambda end: content[:end])
    fuzz(changed("photos.zip"), mutated(content) | ends, examples)


@sizes(300)
def test_tar_files_with_changed_bytes(examples, images):
    whole = [shard(images, form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
    ends = st.integers(0, len(whole[0])).map(lambda end: whole[0][:end])
    fuzz(changed("photos.tar"), mutated(whole[0]) | mutated(whole[1]) | ends, examples)


@sizes(300)
def test_parquet_files_with_changed_bytes(examples, images):
    content = inline(images)
    ends = st.integers(0, len(content)).map(lambda end: content[:end])
    fuzz(changed("table.parquet"), mutated(content) | ends, examples)


@sizes(300)
def test_json_lines_with_changed_bytes_and_values(examples, images):
    good = rows(images)
    hostile = st.lists(
        st.fixed_dictionaries({}, optional={"path": JSON, "label": JSON, "split": JSON}),
        min_size=1,
        max_size=3,
    ).map(lambda bad: lines([*good, *bad]))
    fuzz(changed("table.jsonl"), mutated(lines(good)) | hostile, examples)


@sizes(300)
def test_csv_files_with_changed_bytes_and_cells(examples, images):
    good = rows(images)

    def table(cells) -> bytes:
        stream = io.StringIO(newline="")
        out = csv.writer(stream)
        out.writerows([["path", "label"], *([row["path"], row["label"]] for row in good), *cells])
        return stream.getvalue().encode("utf-8", "surrogatepass")

    cells = st.lists(st.lists(st.text(max_size=30), max_size=4), max_size=3).map(table)
    fuzz(changed("table.csv"), mutated(table([])) | cells, examples)
