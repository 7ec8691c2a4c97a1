"""A folder of photos, and its rows as `zoo predict --out` writes them."""

import shutil
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.conftest import zoo_


@pytest.fixture(scope="session")
def folder(split_photos, tmp_path_factory):
    """12 images, and one that can't be read."""
    folder = shutil.copytree(split_photos / "val", tmp_path_factory.mktemp("ray") / "photos")
    (folder / "red" / "bad.jpg").write_bytes(b"x")
    return folder


@pytest.fixture
def expected(run, folder):
    """The table of one process, by path."""
    zoo_("predict", run.path, folder, "--out", "expected.parquet")
    return parquet.read_table("expected.parquet")


def assert_same(found, expected) -> None:
    """Rows are the same, but for their order and the rounding of folded batch norms."""
    assert found.column_names == expected.column_names
    assert found.schema.types == expected.schema.types
    paths = [row["path"] for row in found.to_pylist()]
    assert sorted(paths) == sorted(expected.column("path").to_pylist())
    rows = {row["path"]: row for row in found.to_pylist()}
    for row in expected.to_pylist():
        for name, value in row.items():
            same = pytest.approx(value, abs=1e-3) if isinstance(value, float) else value
            assert rows[row["path"]][name] == same, (row["path"], name)


def images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
