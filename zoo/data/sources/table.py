"""Tables of image paths, or images, and labels: CSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.cache.keys import derived_key
from zoo.data.columns import (
    MANY,
    Item,
    Locate,
    columns_of_items,
    store_columns,
    stored_columns,
)
from zoo.data.files import extension
from zoo.data.issue import Issue, Kind
from zoo.data.remote import (
    AnyFile,
    RemoteFile,
    address_of,
    beside,
    find_all,
    key_of,
    open_any,
    server_of,
)
from zoo.data.sample import Sample
from zoo.data.sources.inline import Inline, class_names, find_inline, in_rows, parquet_file
from zoo.data.sources.layout import SPLIT_OF, normal_name
from zoo.data.sources.remote import at_address, place_of_file
from zoo.data.sources.source import Part
from zoo.errors import DataError
from zoo.io.parse import parse_json
from zoo.io.text import count, listed, printable

#: Extensions of table files.
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")

#: Accepted names of the columns for image path, labels, split and group.
PATH = ("path", "file", "filename", "file_name", "image", "image_path")
LABEL = ("label", "labels", "class")
SPLIT = ("split",)
GROUP = ("group",)

#: Separators of several labels in a cell; the first one found in any cell applies.
SEPARATORS = ("|", ";", ",")

#: Place of an image that is a file on this machine, in a table that also has addresses.
_LOCAL = ("", 1, "")

#: Most rows of a Parquet file for each of its bytes: each row names another image.
_MOST_ROWS = 8

_EXAMPLE = '{"path": "a.jpg", "label": "cat"}'

#: Accepted values in a column for a single label.
_YES, _NO = frozenset({"1", "1.0", "true", "yes"}), frozenset({"", "0", "0.0", "false", "no"})


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


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Contents of a table.

    Attributes:
        header: Column names.
        rows: (location, cells by column) of each row; cells are stripped text.
        inline: The column that holds the images; None if they are files.
        whole: Columns whose cells are a single label each, whatever they contain.
    """

    header: list[str]
    rows: list[tuple[str, dict[str, str]]]
    inline: Inline | None = None
    whole: tuple[str, ...] = ()


class TableSource:
    """Rows of `path,label[,split][,group]`, or of `path` and a column of 0 and 1 for each label.

    Paths are relative to the table's folder, absolute, or addresses. Several labels in a cell are
    separated by `|`, `;` or `,`: the first of these that occurs in any cell. An image in several
    rows has the labels of all of them. An image without labels belongs to no class if the task is
    multi-label, each column is a label, or another image has several labels; otherwise its row is
    skipped.

    Args:
        file: CSV (or TSV) in UTF-8 with a header, JSON Lines, or Parquet, which may hold the images
            themselves (`zoo.data.sources.inline`).
        task: As in the recipe; `single-label`: a cell is always one label, never split.
        group_by: The column of groups, if there is one of this name; else the column `group`.
        allow_network: Whether addresses in the table are read that are not of its own server.

    Attributes:
        columns: The names of all columns.
        grouped: Whether groups are from the column `group_by`.

    Raises:
        DataError: The file can't be read, or lacks a required column or value; or it has addresses
            that are not allowed.
        UnavailableError: Addresses can't be asked for now.
    """

    def __init__(
        self,
        file: AnyFile,
        *,
        task: str = "auto",
        group_by: str | None = None,
        allow_network: bool = False,
    ) -> None:
        self.name = str(file)
        self._allow_network = allow_network
        self._issues: list[Issue] = []
        self._by_split: Mapping[str, Sequence[Sample]] = {}
        self._inline: Inline | None = None
        # Places of images that are no files, by name.
        self._places: dict[str, tuple[int | str, ...]] = {}
        state = key_of(file)
        key = derived_key(state, "table", task, group_by) if state else b""
        self.remote = isinstance(file, RemoteFile)
        if not self._recall(file, key):
            self._parse(file, task, group_by)
            self._remember(file, key)
            self._inline, self._places = None, {}
        self.splits = tuple(split for split, found in self._by_split.items() if found)

    def _recall(self, file: AnyFile, key: bytes) -> bool:
        """Take everything from the cache; return whether it is there."""
        known = stored_columns(key, partial(_where, file)) if key else None
        if known is None:
            return False
        self._by_split, about = known
        self.columns = tuple(about["columns"])
        self.grouped = bool(about["grouped"])
        self._issues.clear()
        for kind, reason in about["issues"]:
            self._add(kind, reason)
        return True

    def _remember(self, file: AnyFile, key: bytes) -> None:
        """Keep in the cache what has been parsed, and take its place.

        Versions of remote images are asked for each time, so a table that names some is not kept;
        many of its samples are in columns too.
        """
        inline, places, by_split = self._inline, self._places, self._by_split
        remote = bool(places) and not inline
        if not key and not remote:
            return
        if remote and sum(map(len, by_split.values())) < MANY:
            return
        other = _LOCAL if remote else ()
        items = {
            split: [Item(s.name, s.labels, s.group, places.get(s.name, other)) for s in samples]
            for split, samples in by_split.items()
        }
        if remote:
            self._by_split = {
                split: columns_of_items(found, _in_folder(file)) if found else ()
                for split, found in items.items()
            }
            return
        about = {
            "columns": self.columns,
            "grouped": self.grouped,
            "issues": [(issue.kind, issue.reason) for issue in self._issues],
            "inline": (inline.column, inline.starts) if inline else None,
        }
        store_columns(key, items, about)
        self._recall(file, key)

    def _parse(self, file: AnyFile, task: str, group_by: str | None) -> None:
        table = _read(file)
        header, inline = table.header, table.inline
        self._inline = inline
        columns = _columns(file, header, group_by, inline.column if inline else None)
        self.columns = tuple(header)
        self.grouped = group_by is not None and columns.group in _named(group_by, header)
        if columns.label is not None and columns.each:
            self._add("skipped", f"columns that are not used: {listed(columns.each)}")
        samples = self._samples(file, columns, table, task)
        self._by_split = {
            split: [sample for sample, of in samples if of == split]
            for split in ("train", "val", "test")
        }
        if not samples:
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
        file: AnyFile,
        columns: _Columns,
        table: _Table,
        task: str,
    ) -> list[tuple[Sample, str]]:
        whole = task == "single-label" or columns.label in table.whole
        separator = None if whole else _separator(columns, table.rows)
        if separator and separator != SEPARATORS[0]:  # it might be part of a class name
            self._add("note", f"labels of a cell are separated by {separator!r}")
        by_name: dict[str, tuple[Sample, str]] = {}
        # Images of a class share its name.
        shared: dict[tuple[str, ...], tuple[str, ...]] = {}
        repeated = 0
        labels_of = self._labels_of(file, columns, table, separator)
        locate, places = self._find(file, columns, table)
        for n, (where, row) in enumerate(table.rows):
            if not (path := row[columns.path]):
                raise DataError(f"{file}, {where}: no {columns.path}")
            labels = labels_of[n]
            sample = Sample(
                name=_name_of(path),
                labels=shared.setdefault(labels, labels),
                group=(columns.group and row[columns.group]) or None,
            )
            sample = replace(sample, **locate(sample.name, places[n]))
            if places[n] is not _LOCAL:
                self._places[sample.name] = places[n]
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

    def _find(
        self, file: AnyFile, columns: _Columns, table: _Table
    ) -> tuple[Locate, Sequence[tuple[int | str, ...]]]:
        """Return the function that finds images, and the place of the image of each row."""
        if table.inline:
            self.remote = isinstance(file, RemoteFile)
            return table.inline.locate, [(n,) for n in range(len(table.rows))]
        cells = [(where, row[columns.path]) for where, row in table.rows]
        remote = _remote(file, cells, allow_network=self._allow_network)
        self.remote = bool(remote) or isinstance(file, RemoteFile)
        places = [place_of_file(remote[path]) if path in remote else _LOCAL for _, path in cells]
        return _in_folder(file), places

    def _labels_of(
        self, file: AnyFile, columns: _Columns, table: _Table, separator: str | None
    ) -> list[tuple[str, ...]]:
        """Return the labels of each row; a note names the rows that have one twice."""
        found, twice = [], []
        for where, row in table.rows:
            given = _labels(file, where, columns, row, separator)
            labels = tuple(dict.fromkeys(given))
            if len(labels) < len(given):
                twice.append(where)
            found.append(labels)
        if twice:
            text = f"{count(len(twice), 'row')} with a label twice, which counts once"
            self._add("note", f"{text}: {listed(twice)}")
        return found


def _where(file: AnyFile, about: Mapping[str, Any]) -> Path | Locate:
    """Return where the images of a table from the cache are."""
    if about["inline"] is not None:
        return in_rows(file, *about["inline"])
    return file.parent if isinstance(file, Path) else Path()


def _remote(
    file: AnyFile, cells: Sequence[tuple[str, str]], *, allow_network: bool
) -> dict[str, RemoteFile | None]:
    """Find the images of a table that are on a network.

    Args:
        file: The table.
        cells: (location, path) of each row.
        allow_network: Whether addresses are read that are not of the table's own server.

    Returns:
        The files by the path in the table; None for those that are missing.

    Raises:
        DataError: An address is not allowed.
        UnavailableError: They can't be asked for now.
    """
    own = None if isinstance(file, Path) else server_of(file.address)
    addresses: dict[str, str] = {}
    for where, path in cells:
        address = address_of(path)
        if address is not None and server_of(address) != own and not allow_network:
            raise DataError(
                f"{file}, {where}: {printable(path)} is on a network",
                hint="set `allow_network` if you trust the table, or download its images first",
            )
        if address is None and isinstance(file, RemoteFile) and path:
            address = beside(file.address, path)
        if address is not None:
            addresses[path] = address
    found = find_all(addresses.values()) if addresses else {}
    return {path: found.get(address) for path, address in addresses.items()}


def _in_folder(file: AnyFile) -> Locate:
    """Return the function that finds the images of a table of files, addresses, or both."""
    return partial(_anywhere, file.parent if isinstance(file, Path) else None)


def _anywhere(folder: Path | None, name: str, place: Sequence[Any]) -> Mapping[str, Any]:
    if folder is not None and tuple(place) == _LOCAL:
        return {"file": folder / name}
    return at_address(name, place)


def images_of_table(file: AnyFile, *, allow_network: bool = False) -> list[str | Sample]:
    """Return the images of a table, row by row; other columns are ignored.

    Args:
        file: The table.
        allow_network: As for `TableSource`; for a table on this machine, addresses are returned as
            they are.

    Returns:
        Their paths as the table has them, or samples without labels if it holds the images, or is
        on a network. The image of a row without a path is a sample that can't be read.

    Raises:
        DataError: The file can't be read, or has no column of paths.
    """
    table = _read(file)
    if table.inline is not None:
        locate = table.inline.locate
        return [
            Sample(name=f"{file}/{name}", labels=(), load=found["load"], stamp=found["stamp"])
            for n, name in enumerate(table.inline.names)
            for found in [locate(name, [n])]
        ]
    header, rows = table.header, table.rows
    folded = {name.lower(): name for name in header}
    column = next((folded[name] for name in PATH if name in folded), None)
    if column is None:
        raise DataError(
            f"{file} needs a header with a column path; it has {listed(header) or 'none'}"
        )
    cells = [(where, row[column]) for where, row in rows]
    if isinstance(file, Path):
        return [path or _pathless(file, where, column) for where, path in cells]
    remote = _remote(file, [cell for cell in cells if cell[1]], allow_network=allow_network)
    return [
        Sample(name=name, labels=(), **at_address(name, place_of_file(remote[path])))
        if path
        else _pathless(file, where, column)
        for where, path in cells
        for name in [address_of(path) or beside(file.address, path)]
    ]


def _pathless(file: AnyFile, where: str, column: str) -> Sample:
    name = f"{file}, {where}"
    return Sample(name=name, labels=(), load=partial(_refuse, f"{name}: no {column}"))


def _refuse(problem: str) -> bytes:
    raise DataError(problem)


def copy_table(
    file: Path,
    out: Path,
    *,
    left_out: Collection[str] = (),
    labels: Mapping[str, Sequence[str]] | None = None,
    group_by: str | None = None,
) -> int:
    """Write a table as CSV, with all of its columns, and check that it is read as it should be.

    Paths of images are absolute in the copy, unless it is in the same folder.

    Args:
        file: The table; its images are files or have addresses.
        out: The CSV file, whose folder may be another one.
        left_out: Names of images whose rows are left out.
        labels: Other labels of images, by name; these have one row.
        group_by: As of `TableSource`.

    Returns:
        Number of rows.

    Raises:
        DataError: The table holds its images, or labels that CSV can't separate.
        OSError: The copy can't be written.
    """
    table = _read(file)
    if table.inline is not None:
        raise DataError(
            f"{file} holds its images, so that it can't be copied to a CSV file",
            hint="correct the data itself",
        )
    columns = _columns(file, table.header, group_by, None)
    whole = columns.label in table.whole
    separator = (None if whole else _separator(columns, table.rows)) or SEPARATORS[0]
    same_folder = out.parent.samefile(file.parent)
    before = _label_sets(file, columns, table.rows, whole=whole)
    expected: dict[str, set[str]] = {}
    rows: list[dict[str, str]] = []
    for _, row in table.rows:
        name = _name_of(row[columns.path])
        new = (labels or {}).get(name)
        cells = dict(row)
        if not same_folder and not address_of(name):
            cells[columns.path] = str((file.parent / name).absolute())
        copied = _name_of(cells[columns.path])
        if name in left_out or (new is not None and copied in expected):
            continue
        expected[copied] = before[name] if new is None else set(new)
        rows.append(cells if new is None else cells | _cells_of(columns, new, separator))
    with out.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, table.header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    found = _label_sets(out, columns, _read(out).rows)
    # Without an image of several labels, rows without any would be skipped.
    negatives = columns.label is None or all(expected.values()) or _several(found)
    if found != expected or (_several(before) and not negatives):
        raise DataError(
            f"a copy of {file} as CSV would be read with other labels",
            hint="correct the table itself",
        )
    return len(rows)


def _label_sets(
    file: Path,
    columns: _Columns,
    rows: Sequence[tuple[str, Mapping[str, str]]],
    *,
    whole: bool = False,
) -> dict[str, set[str]]:
    """Return the labels of each image of a table; `whole`: a cell is a single label."""
    separator = None if whole else _separator(columns, rows)
    found: dict[str, set[str]] = {}
    for where, row in rows:
        labels = _labels(file, where, columns, row, separator)
        found.setdefault(_name_of(row[columns.path]), set()).update(labels)
    return found


def _several(labels: Mapping[str, Collection[str]]) -> bool:
    return any(len(names) > 1 for names in labels.values())


def _name_of(path: str) -> str:
    """Return the name of a sample from its path in a table."""
    return path if address_of(path) else Path(path).as_posix()


def _cells_of(columns: _Columns, labels: Sequence[str], separator: str) -> dict[str, str]:
    """Return the cells of a row that say its labels."""
    if columns.label is not None:
        return {columns.label: separator.join(labels)}
    return {name: str(int(normal_name(name) in labels)) for name in columns.each}


def _read(file: AnyFile) -> _Table:
    form = extension(file if isinstance(file, Path) else file.path)
    read = {".parquet": _read_parquet, ".jsonl": _read_jsonl}.get(form, _read_csv)
    try:
        return read(file)
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"can't read {file}: it is not in UTF-8 ({error.reason})") from error
    except csv.Error as error:
        raise DataError(f"can't read {file}: {error}") from error


def _text_of(file: AnyFile, newline: str | None) -> io.TextIOWrapper:
    return io.TextIOWrapper(open_any(file), encoding="utf-8-sig", newline=newline)


def _read_csv(file: AnyFile) -> _Table:
    with _text_of(file, "") as lines:
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
    return _Table(header=header, rows=rows)


def _read_jsonl(file: AnyFile) -> _Table:
    found: list[tuple[str, dict[str, Any]]] = []
    with _text_of(file, None) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                row = parse_json(line.strip())
            except ValueError as error:
                raise DataError(f"{file}, {where}: {printable(error)}") from error
            if not isinstance(row, dict):
                raise DataError(f"{file}, {where}: it is not an object, such as {_EXAMPLE}")
            nested = [name for name, value in row.items() if isinstance(value, dict)]
            if nested:
                raise DataError(f"{file}, {where}: {printable(nested[0])} is an object")
            found.append((where, _cells(file, where, row)))
    header = [*dict.fromkeys(name for _, row in found for name in row)]
    rows = [(where, {name: row.get(name, "") for name in header}) for where, row in found]
    return _Table(header=header, rows=rows)


def _cells(file: AnyFile, where: str, row: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of a row by column.

    Raises:
        DataError: One is a list of lists or objects, or has characters that UTF-8 can't encode.
    """
    cells = {}
    for name, value in row.items():
        try:
            cells[name] = _text(value)
            f"{name}{cells[name]}".encode()
        except ValueError as error:
            reason = error.reason if isinstance(error, UnicodeEncodeError) else error
            raise DataError(f"{file}, {where}: {printable(name)}: {reason}") from error
    return cells


def _read_parquet(file: AnyFile) -> _Table:
    import pyarrow

    try:
        inline = find_inline(file)
        size = file.stat().st_size if isinstance(file, Path) else file.size
        with parquet_file(file) as opened:
            schema, number = opened.schema_arrow, opened.metadata.num_rows
            # A few bytes can stand for any number of equal rows, which then fill the memory.
            if number > _MOST_ROWS * size:
                raise ValueError(f"{number:,} rows in a file of {size:,} bytes")
            columns = [name for name in schema.names if inline is None or name != inline.column]
            table = opened.read(columns=columns)
        names = class_names(schema.metadata)
        whole = tuple(n for n in names if pyarrow.types.is_integer(schema.field(n).type))
        found = table.to_pylist()
        if inline is not None and len(inline.names) != len(found):
            raise ValueError(f"{len(found):,} rows instead of {len(inline.names):,}")
    except (DataError, OSError):
        raise
    except Exception as error:  # pyarrow raises any type of exception on invalid data
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"can't read {file}: {printable(reason)}") from error
    rows = []
    for n, row in enumerate(found):
        where = f"row {n + 1}"
        named = {name: _named_class(file, where, row[name], names.get(name)) for name in row}
        cells = _cells(file, where, named)
        if inline is not None:
            cells[inline.column] = inline.names[n]
        rows.append((where, cells))
    return _Table(header=[*map(str, schema.names)], rows=rows, inline=inline, whole=whole)


def _named_class(file: AnyFile, where: str, value: Any, names: Sequence[str] | None) -> Any:
    """Return the name of a class in place of its number; -1 stands for no label."""
    if names is None or value is None or value == -1:
        return value if names is None else None
    if isinstance(value, list):
        return [_named_class(file, where, each, names) for each in value]
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(
            f"{file}, {where}: its class is {value!r}; the file names {len(names)} classes"
        )
    return names[value]


def _text(value: Any) -> str:
    """Convert a value to the text that CSV would have; lists of labels are joined.

    Raises:
        ValueError: A list has lists or objects in it.
    """
    if isinstance(value, dict):  # An image of Hugging Face datasets that is not embedded.
        value = value.get("path")
    if isinstance(value, list):
        if any(isinstance(each, list | dict) for each in value):
            raise ValueError("it is a list of lists or objects")
        return SEPARATORS[0].join(filter(None, map(_text, value)))
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value).strip()


def _named(name: str, header: Sequence[str]) -> list[str]:
    return [each for each in header if each.lower() == name.lower()]


def _columns(
    file: AnyFile, header: Sequence[str], group_by: str | None, images: str | None
) -> _Columns:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise DataError(f"{file} has two columns {twice[0]!r}")
    folded = {name.lower(): name for name in header}

    def column(names: Sequence[str]) -> str | None:
        return next((folded[name] for name in names if name in folded), None)

    path, label, split, group = map(column, (PATH, LABEL, SPLIT, GROUP))
    path = images or path
    # pandas writes the numbers of rows into a column without a name.
    each = tuple(name for name in header if name and name not in (path, label, split, group))
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
    file: AnyFile, where: str, columns: _Columns, row: Mapping[str, str], separator: str | None
) -> tuple[str, ...]:
    """Return the labels of a row, as often as they are given."""
    if columns.label is not None:
        cell = row[columns.label]
        parts = cell.split(separator) if separator else [cell]
        return tuple(normal_name(part) for part in parts if part.strip())
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


def _split(file: AnyFile, where: str, columns: _Columns, row: Mapping[str, str]) -> str:
    if columns.split is None:
        return "train"
    value = row[columns.split]
    if value.lower() not in SPLIT_OF:
        raise DataError(f"{file}, {where}: split is {value!r}, not train, val or test")
    return SPLIT_OF[value.lower()]
