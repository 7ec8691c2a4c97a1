"""CSV or Parquet tables of image paths and labels."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.data.files import extension
from zoo.data.issue import Issue, Kind
from zoo.data.sample import Sample
from zoo.data.sources.layout import TEST, TRAIN, VAL, normal_name
from zoo.data.sources.source import Part
from zoo.errors import DataError
from zoo.io.text import count, listed, printable

#: Extensions of table files.
TABLES = (".csv", ".tsv", ".parquet")

#: Accepted names of the columns for image path, labels, split and group.
PATH = ("path", "file", "filename", "file_name", "image", "image_path")
LABEL = ("label", "labels", "class")
SPLIT = ("split",)
GROUP = ("group",)

#: Separators of several labels in a cell; the first one found in any cell applies.
SEPARATORS = ("|", ";", ",")

#: Accepted values in a column for a single label.
_YES, _NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"", "0", "0.0", "false", "no"})

_SPLITS = {
    name: split
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST))
    for name in names
}


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Column names of a table by purpose.

    Attributes:
        path: Column of image paths.
        label: Column of labels; None if each column of `each` is one label.
        split: Column of splits; None without one.
        group: Column of groups; None without one.
        each: All other columns, without any for groups.
    """

    path: str
    label: str | None
    split: str | None
    group: str | None
    each: tuple[str, ...]


class TableSource:
    """Rows of `path,label[,split][,group]`, or of `path` and a column of 0 and 1 for each label.

    Paths are relative to the table's folder, or absolute. Several labels in a cell are separated by
    `|`, `;` or `,`: the first of these that occurs in any cell. An image in several rows has the
    labels of all of them. An image without labels belongs to no class if the task is multi-label,
    each column is a label, or another image has several labels; otherwise its row is skipped.

    Args:
        file: CSV (or TSV) in UTF-8 with a header, or Parquet.
        task: As in the recipe; `single-label`: a cell is always one label, never split.
        group_by: The column of groups, if there is one of this name; else the column `group`.

    Attributes:
        columns: The names of all columns.
        grouped: Whether groups are from the column `group_by`.

    Raises:
        DataError: The file can't be read, or lacks a required column or value.
    """

    def __init__(self, file: Path, *, task: str = "auto", group_by: str | None = None) -> None:
        self.name = str(file)
        self._issues: list[Issue] = []
        header, rows = _read(file)
        columns = _columns(file, header, group_by)
        self.columns = tuple(header)
        self.grouped = group_by is not None and columns.group in _named(group_by, header)
        if columns.label is not None and columns.each:
            self._add("skipped", f"columns that are not used: {listed(columns.each)}")
        samples = self._samples(file, columns, rows, task)
        self._by_split = {
            split: [sample for sample, of in samples if of == split]
            for split in ("train", "val", "test")
        }
        self.splits = tuple(split for split, found in self._by_split.items() if found)
        if not self.splits:
            raise DataError(f"{file} has no rows with a path and a label")

    def read(self, split: str) -> Part:
        """Read the images of a split; sample names are the paths given in the table."""
        return Part(
            name=f"{self.name} ({split})", samples=self._by_split[split], issues=self._issues
        )

    def _add(self, kind: Kind, reason: str) -> None:
        self._issues.append(Issue(kind=kind, name=self.name, reason=reason))

    def _samples(
        self,
        file: Path,
        columns: _Columns,
        rows: Iterable[tuple[str, Mapping[str, str]]],
        task: str,
    ) -> list[tuple[Sample, str]]:
        rows = list(rows)
        separator = _separator(columns, rows) if task != "single-label" else None
        if separator and separator != SEPARATORS[0]:  # it might be part of a class name
            self._add("note", f"labels of a cell are separated by {separator!r}")
        by_name: dict[str, tuple[Sample, str]] = {}
        repeated = 0
        for where, row in rows:
            if not (path := row[columns.path]):
                raise DataError(f"{file}, {where}: no {columns.path}")
            sample = Sample(
                name=Path(path).as_posix(),
                labels=_labels(file, where, columns, row, separator),
                file=file.parent / path,
                group=(columns.group and row[columns.group]) or None,
            )
            split = _split(file, where, columns, row)
            before = by_name.get(sample.name)
            if before is not None:
                repeated += 1
                if before[1] != split or before[0].group != sample.group:
                    raise DataError(
                        f"{file}, {where}: {printable(path)} is in an earlier row with "
                        f"another split or group"
                    )
                both = dict.fromkeys((*before[0].labels, *sample.labels))
                sample = replace(sample, labels=tuple(both))
            by_name[sample.name] = (sample, split)
        if repeated:
            self._add(
                "note", f"labels of {count(repeated, 'row')} joined to those of an earlier row"
            )
        found = list(by_name.values())
        lacking = [each for each in found if not each[0].labels]
        negatives = task == "multi-label" or columns.label is None
        negatives = negatives or any(len(sample.labels) > 1 for sample, _ in found)
        if lacking and not negatives:
            self._add("skipped", f"rows without a label are left out: {len(lacking)}")
            found = [each for each in found if each[0].labels]
        return found


def images_of_table(file: Path) -> list[str]:
    """Return the paths of images as a table has them, row by row; other columns are ignored.

    Raises:
        DataError: The file can't be read, or has no column of paths.
    """
    header, rows = _read(file)
    folded = {name.lower(): name for name in header}
    column = next((folded[name] for name in PATH if name in folded), None)
    if column is None:
        raise DataError(
            f"{file} needs a header with a column path; it has {listed(header) or 'none'}"
        )
    return [row[column] for _, row in rows if row[column]]


def _read(file: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Read (header, (location, cells by column) of each row); cells are stripped text."""
    try:
        if extension(file) == ".parquet":
            header, rows = _read_parquet(file)
        else:
            header, rows = _read_csv(file)
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"can't read {file}: it is not in UTF-8 ({error.reason})") from error
    except csv.Error as error:
        raise DataError(f"can't read {file}: {error}") from error
    return header, rows


def _read_csv(file: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
        delimiter = max(",;\t", key=first.count)
        lines.seek(0)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
        rows = []
        for cells in reader:
            if not any(cells):
                continue
            where = f"line {reader.line_num}"
            if len(cells) != len(header):
                raise DataError(f"{file}, {where}: {len(cells)} cells, {len(header)} in the header")
            rows.append((where, dict(zip(header, map(str.strip, cells), strict=True))))
    return header, rows


def _read_parquet(file: Path) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(file)
    except pyarrow.ArrowException as error:
        raise DataError(f"can't read {file}: {str(error).partition(chr(10))[0]}") from error
    header = [str(name) for name in table.column_names]
    rows = [
        (f"row {n}", {name: _text(row[name]) for name in header})
        for n, row in enumerate(table.to_pylist(), 1)
    ]
    return header, rows


def _text(value: Any) -> str:
    """Convert a Parquet cell to the text that CSV would have; lists of labels are joined."""
    if isinstance(value, list):
        return SEPARATORS[0].join(map(str, value))
    return "" if value is None else str(value).strip()


def _named(name: str, header: Sequence[str]) -> list[str]:
    return [each for each in header if each.lower() == name.lower()]


def _columns(file: Path, header: Sequence[str], group_by: str | None) -> _Columns:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{file} has two columns {twice[0]!r}")
    folded = {name.lower(): name for name in header}

    def column(names: Sequence[str]) -> str | None:
        return next((folded[name] for name in names if name in folded), None)

    path, label, split, group = map(column, (PATH, LABEL, SPLIT, GROUP))
    each = tuple(name for name in header if name not in (path, label, split, group))
    for asked in _named(group_by or "", each):
        group, each = asked, tuple(name for name in each if name != asked)
    if path is None or not (label or each):
        raise DataError(
            f"{file} needs a header with the columns path and label (or path and a column of 0 and "
            f"1 for each label); it has {listed(header) or 'none'}"
        )
    return _Columns(path=path, label=label, split=split, group=group, each=each)


def _separator(columns: _Columns, rows: Sequence[tuple[str, Mapping[str, str]]]) -> str | None:
    if columns.label is None:
        return None
    cells = [row[columns.label] for _, row in rows]
    return next((each for each in SEPARATORS if any(each in cell for cell in cells)), None)


def _labels(
    file: Path, where: str, columns: _Columns, row: Mapping[str, str], separator: str | None
) -> tuple[str, ...]:
    if columns.label is not None:
        cell = row[columns.label]
        parts = cell.split(separator) if separator else [cell]
        return tuple(dict.fromkeys(normal_name(part) for part in parts if part.strip()))
    found = []
    for name in columns.each:
        value = row[name].lower()
        if value not in _YES | _NO:
            raise DataError(
                f"{file}, {where}: {name} is {row[name]!r}, not 0 or 1. Without a column "
                f"{LABEL[0]}, each column besides {columns.path} stands for one label"
            )
        if value in _YES:
            found.append(normal_name(name))
    return tuple(found)


def _split(file: Path, where: str, columns: _Columns, row: Mapping[str, str]) -> str:
    if columns.split is None:
        return "train"
    value = row[columns.split]
    if value.lower() not in _SPLITS:
        raise DataError(f"{file}, {where}: split is {value!r}, not train, val or test")
    return _SPLITS[value.lower()]
