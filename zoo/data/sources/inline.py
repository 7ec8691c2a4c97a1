"""Images as bytes in the cells of a Parquet file, read by row group."""

from __future__ import annotations

import bisect
import functools
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zoo.cache.keys import derived_key
from zoo.data.columns import Locate
from zoo.data.remote import AnyFile, key_of, local_of
from zoo.errors import DataError, UnavailableError
from zoo.io.text import count, listed, printable

#: Largest row group of images that is read, in bytes; two are kept in memory.
MAX_GROUP = 2**29

#: Names of a column of bytes without further structure.
_NAMES = ("image", "img", "bytes", "image_bytes", "jpg", "png")

# A row group is read once, not once in each thread.
_READING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Inline:
    """The column of a Parquet file that holds images.

    Attributes:
        file: The Parquet file.
        column: Name of the column.
        starts: Number of the first row of each row group, from 0.
        names: Name of the image of each row: its path in the file, or the number of the row.
    """

    file: AnyFile
    column: str
    starts: Sequence[int]
    names: Sequence[str]

    @property
    def locate(self) -> Locate:
        """Finds images by the numbers of their rows, from 0."""
        return in_rows(self.file, self.column, self.starts)


def in_rows(file: AnyFile, column: str, starts: Sequence[int]) -> Locate:
    """Return `Inline.locate` of a file, a column and the first rows of row groups."""
    return partial(_located, file, column, starts, key_of(file))


def _located(
    file: AnyFile,
    column: str,
    starts: Sequence[int],
    key: bytes,
    name: str,
    place: Sequence[int],
) -> Mapping[str, Any]:
    (row,) = place
    group = bisect.bisect_right(starts, row) - 1
    return {
        "load": partial(_cell, file, column, group, row - starts[group], name),
        "stamp": derived_key(key, column, row) if key else b"",
        "holder": local_of(file),
    }


def parquet_file(file: AnyFile) -> Any:
    """Open a Parquet file of this machine or on a network; use it as a context manager."""
    from pyarrow import parquet

    return parquet.ParquetFile(file if isinstance(file, Path) else file.open())


def find_inline(file: AnyFile) -> Inline | None:
    """Find the column of a Parquet file that holds images as bytes; None if there is none.

    It is a struct with the fields `bytes` and `path`, as Hugging Face datasets writes it, or a
    binary column named `image`, `img`, `bytes`, `image_bytes`, `jpg` or `png`.

    Raises:
        DataError: There are several such columns, or a row group is too large to be read.
    """
    import pyarrow

    with parquet_file(file) as opened:
        schema, about = opened.schema_arrow, opened.metadata
        columns = [field.name for field in schema if _holds_bytes(pyarrow, field)]
        if not columns:
            return None
        column = "image" if "image" in columns else columns[0]
        if len(columns) > 1 and column != "image":
            raise DataError(
                f"{file} has several columns of bytes: {listed(columns)}",
                hint="name that of the images `image`",
            )
        is_struct = pyarrow.types.is_struct(schema.field(column).type)
        if is_struct and _has_paths_only(about, column):
            return None
        for group in range(about.num_row_groups):
            size = _bytes_in(about.row_group(group), column)
            if size > MAX_GROUP:
                raise DataError(
                    f"{file}, row group {group + 1}: {size:,} bytes of images in "
                    f"{count(about.row_group(group).num_rows, 'row')}; zoo reads up to "
                    f"{MAX_GROUP:,} at once",
                    hint="write it with smaller row groups, such as `row_group_size=100`",
                )
        rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        paths: list[str | None] = [None] * sum(rows)
        if is_struct and any(field.name == "path" for field in schema.field(column).type):
            found = opened.read(columns=[f"{column}.path"]).column(0).to_pylist()
            paths = [cell and cell.get("path") for cell in found]
    names = [str(path) for path in paths if path]
    if len(set(names)) < len(paths):
        names = [f"{n:07}" for n in range(1, len(paths) + 1)]
    starts = [sum(rows[:group]) for group in range(len(rows))]
    return Inline(file=file, column=column, starts=starts, names=names)


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of the classes by column, from the metadata of Hugging Face datasets."""
    try:
        about = json.loads((metadata or {})[b"huggingface"])
        features = about["info"]["features"]
        found = {name: _names_of(feature) for name, feature in features.items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if names}


def _names_of(feature: Any) -> list[str]:
    """Return the class names of a feature, or of the elements of a list."""
    if isinstance(feature, list):
        return _names_of(feature[0]) if feature else []
    if not isinstance(feature, dict):
        return []
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return [str(name) for name in names] if isinstance(names, list) else []
    return _names_of(feature.get("feature"))


def _holds_bytes(pyarrow: Any, field: Any) -> bool:
    types = pyarrow.types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    if types.is_struct(field.type):
        return any(each.name == "bytes" and is_bytes(each.type) for each in field.type)
    return is_bytes(field.type) and field.name in _NAMES


def _chunks(group: Any, column: str) -> list[Any]:
    found = [group.column(n) for n in range(group.num_columns)]
    below = (column, f"{column}.bytes", f"{column}.path")
    return [chunk for chunk in found if chunk.path_in_schema in below]


def _bytes_in(group: Any, column: str) -> int:
    return sum(chunk.total_uncompressed_size for chunk in _chunks(group, column))


def _has_paths_only(about: Any, column: str) -> bool:
    """Whether all cells of a struct lack bytes, so that its paths name files."""
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        chunk = next(c for c in _chunks(group, column) if c.path_in_schema.endswith(".bytes"))
        if chunk.statistics is None or chunk.statistics.null_count < group.num_rows:
            return False
    return True


def _cell(file: AnyFile, column: str, group: int, row: int, name: str) -> bytes:
    """Read one image.

    Raises:
        DataError: It can't be read, or the cell is empty.
    """
    try:
        state = (0, 0)
        if isinstance(file, Path):
            now = file.stat()
            state = now.st_size, now.st_mtime_ns
        with _READING:
            cells = _group(file, column, group, *state)
        value = cells[row].as_py()
    except UnavailableError:
        raise
    except Exception as error:  # pyarrow raises any type of exception on invalid data
        reason = printable(str(error).partition("\n")[0] or type(error).__name__)
        raise DataError(f"unreadable image {printable(name)}: {reason}") from error
    content = value.get("bytes") if isinstance(value, dict) else value
    if not content:
        raise DataError(f"unreadable image {printable(name)}: its cell is empty")
    return bytes(content)


@functools.lru_cache(maxsize=2)
def _group(file: AnyFile, column: str, group: int, size: int, mtime_ns: int) -> Any:
    with parquet_file(file) as opened:
        return opened.read_row_group(group, columns=[column]).column(0)
