"""Table of suspected labels: written for a person to fill in, and read back."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from zoo.data.check.dataset import Checked
from zoo.errors import DataError
from zoo.io.text import listed, printable

#: Columns of the table. Those that are read back are path, given, suggested and accept.
COLUMNS = ("path", "given", "suggested", "change", "label", "probability", "score", "accept")

#: Separator of several labels of an image, as in tables.
SEPARATOR = "|"

_READ = ("path", "given", "suggested", "accept")

_YES, _NO = frozenset({"yes", "y", "true", "1", "x"}), frozenset({"", "no", "n", "false", "0"})


def write_label_table(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write the table as CSV in UTF-8, with an empty column `accept`.

    Raises:
        DataError: The file exists or can't be written.
    """
    try:
        with file.open("x", encoding="utf-8", errors="surrogateescape", newline="") as lines:
            writer = csv.DictWriter(lines, COLUMNS, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
    except FileExistsError as error:
        raise DataError(
            f"`labels_to={file}` exists, and may have been filled in", hint="give a new name"
        ) from error
    except OSError as error:
        raise DataError(f"can't write `labels_to={file}`: {error.strerror or error}") from error


def read_label_table(file: Path, checked: Checked) -> dict[str, tuple[str, ...]]:
    """Read which labels to change, and check that they fit the data.

    A row is applied if `accept` is yes (y, true, 1, x): the label becomes the suggested one; or the
    name of a class: it becomes that one. With no (n, false, 0) or an empty cell it stays. If images
    may have several labels, separated by `|`, yes adds or removes one, also in several rows of an
    image; names replace all of them.

    Returns:
        The new labels of each image that gets other ones, by path.

    Raises:
        DataError: The file can't be read or lacks a column, a row does not fit the data, or nothing
            is accepted.
    """
    label_of = {image.path: image.labels for image in checked.listing.images}
    several = any(len(labels) != 1 for labels in label_of.values())
    classes = {name for names in checked.listing.folders.values() for name in names}
    found: dict[str, tuple[str, ...]] = {}
    whole: set[str] = set()
    for where, row in _rows(file):
        path, accept = row["path"], row["accept"]
        place = f"{file}, {where}: {printable(path)}"
        if path not in label_of:
            raise DataError(f"{place} is not an image of {checked.listing.root}")
        given, suggested, named = (
            _names(row[column], classes, several) for column in ("given", "suggested", "accept")
        )
        if set(label_of[path]) != set(given):
            now = " + ".join(label_of[path])
            raise DataError(
                f"{place} has the label {now!r}, not {row['given']!r}",
                hint="the table is of other data, or was applied already",
            )
        if accept.lower() in _NO and accept not in classes:
            continue
        yes = accept.lower() in _YES and accept not in classes
        labels = suggested if yes else named
        if not set(labels) <= classes or (len(labels) != 1 and not several):
            raise DataError(
                f"{place}: accept is {accept!r}, neither yes or no nor a class",
                hint=f"the classes are {listed(sorted(classes))}",
            )
        if yes and several and path not in whole:
            # Another row of the image may change another label.
            before = found.get(path, label_of[path])
            kept = [name for name in before if name in labels or name not in given]
            labels = tuple(dict.fromkeys([*kept, *(n for n in labels if n not in given)]))
        elif found.get(path, labels) != labels:
            raise DataError(f"{place} is in an earlier row with another label")
        else:
            whole.add(path)
        found[path] = labels
    changed = {path: labels for path, labels in found.items() if labels != label_of[path]}
    if not changed:
        raise DataError(
            f"{file} changes no label", hint="write yes, or a class, into its column accept"
        )
    return changed


def _names(cell: str, classes: Collection[str], several: bool) -> tuple[str, ...]:
    """Return the labels of a cell."""
    if not several or cell in classes:
        return (cell,)
    return tuple(name.strip() for name in cell.split(SEPARATOR) if name.strip())


def _rows(file: Path) -> list[tuple[str, dict[str, str]]]:
    """Read the location and the cells of each row."""
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            # Spreadsheets of some languages write semicolons.
            reader = csv.reader(lines, delimiter=max(",;\t", key=first.count), strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            lacking = [name for name in _READ if header.count(name) != 1]
            if lacking:
                raise DataError(
                    f"{file} needs a header with each of {', '.join(_READ)} once; it has "
                    f"{listed(header) or 'none'}"
                )
            found = []
            for cells in reader:
                where = f"line {reader.line_num}"
                if not any(cells):
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{file}, {where}: {len(cells)} cells, {len(header)} in the header"
                    )
                row = dict(zip(header, cells, strict=True))
                found.append((where, {**row, "accept": row["accept"].strip()}))
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror or error}") from error
    except (csv.Error, ValueError) as error:
        raise DataError(f"can't read {file}: {error}") from error
    return found
