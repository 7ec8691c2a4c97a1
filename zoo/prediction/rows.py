"""Rows of predictions, as JSON and as columns of CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.io.text import printable, spreadsheet_cell
from zoo.runs.answer import answer
from zoo.runs.read import Prediction
from zoo.runs.stream import Unreadable

if TYPE_CHECKING:
    import pyarrow

#: Rows of a row group in Parquet, and of a write in CSV.
_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What rows have.

    Attributes:
        class_names: The classes.
        several: Whether an image may have several labels (multi-label).
        sets: Whether predictions have a `label_set`.
        top_k: The number of classes whose probabilities rows have; None: all, in the order of
            `class_names`.
        tta: The test-time augmentation, which rows then name; None: not used.
    """

    class_names: tuple[str, ...]
    several: bool
    sets: bool
    top_k: int | None
    tta: str | None = None

    @property
    def shown(self) -> int:
        """Number of classes whose probabilities a row has."""
        return min(self.top_k or len(self.class_names), len(self.class_names))


def as_row(name: str | None, found: Prediction | Unreadable, layout: Layout) -> dict[str, Any]:
    """Return a prediction as JSON-ready data; that of an unreadable image has its error."""
    named = "labels" if layout.several else "label"
    if isinstance(found, Unreadable):
        return {"path": name, named: None, "error": found.error}
    row = {"path": name, **answer(found, several=layout.several, sets=layout.sets)}
    if layout.tta is not None:
        row["tta"] = layout.tta
    if layout.top_k is None:
        del row["top"]
        known = dict(found.top)
        row["probabilities"] = {each: known[each] for each in layout.class_names}
    return row


def columns_of(layout: Layout) -> list[str]:
    """Return the names of the columns of CSV and Parquet."""
    if layout.top_k is None:
        of_all = [f"p_{name}" for name in layout.class_names]
    else:
        of_all = [
            f"{what}_{n}" for n in range(1, layout.shown + 1) for what in ("label", "probability")
        ]
    return [
        "path",
        *(["labels"] if layout.several else ["label", "probability", "unsure"]),
        *(["label_set"] if layout.sets else []),
        *("unfamiliar", "distance", "error"),
        *(["tta"] if layout.tta is not None else []),
        *of_all,
    ]


def flat(row: Mapping[str, Any], layout: Layout) -> list[Any]:
    """Return the cells of a row, in the order of `columns_of`; None where it has no value."""
    first = columns_of(layout)[: -(layout.shown * (1 if layout.top_k is None else 2))]
    cells = [row.get(name) for name in first]
    if layout.top_k is None:
        known = row.get("probabilities") or {}
        return cells + [known.get(name) for name in layout.class_names]
    top = row.get("top") or [{"label": None, "probability": None}] * layout.shown
    return cells + [each[what] for each in top for what in ("label", "probability")]


def write_csv(rows: Iterable[Mapping[str, Any]], layout: Layout, path: Path) -> None:
    """Write CSV in UTF-8; names are escaped as by `zoo.io.text.spreadsheet_cell`."""
    rows = iter(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(spreadsheet_cell, columns_of(layout)))
        for row in rows:
            writer.writerow(map(_cell, flat(row, layout)))


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        value = "|".join(value)
    return spreadsheet_cell(value) if isinstance(value, str) else value


def write_parquet(rows: Iterable[Mapping[str, Any]], layout: Layout, path: Path) -> None:
    """Write Parquet with the schema of `schema_of`."""
    from pyarrow import parquet

    schema, iterator = schema_of(layout), iter(rows)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(iterator, _ROWS)):
            writer.write_table(table_of(group, layout))


def table_of(rows: Iterable[Mapping[str, Any]], layout: Layout) -> pyarrow.Table:
    """Return rows as an Arrow table with the schema of `schema_of`."""
    import pyarrow

    schema = schema_of(layout)
    cells = [[_encodable(cell) for cell in flat(row, layout)] for row in rows]
    arrays = [pyarrow.array([row[n] for row in cells], kind) for n, kind in enumerate(schema.types)]
    return pyarrow.table(arrays, schema=schema)


def schema_of(layout: Layout) -> pyarrow.Schema:
    """Return the schema of Arrow and Parquet; the class names are in its metadata."""
    import pyarrow

    kinds = {
        "labels": pyarrow.list_(pyarrow.string()),
        "label_set": pyarrow.list_(pyarrow.string()),
        **dict.fromkeys(("unsure", "unfamiliar"), pyarrow.bool_()),
        **dict.fromkeys(("path", "label", "error", "tta"), pyarrow.string()),
        "distance": pyarrow.float32(),
    }
    names = columns_of(layout)
    # A class may have the name of a number: columns of labels are known by their place.
    ranked = [pyarrow.string(), pyarrow.float32()] * layout.shown
    ends = [pyarrow.float32()] * layout.shown if layout.top_k is None else ranked
    first = names[: len(names) - len(ends)]
    types = [kinds.get(name, pyarrow.float32()) for name in first] + ends
    about = {"class_names": json.dumps(layout.class_names, ensure_ascii=False)}
    return pyarrow.schema(list(zip(names, types, strict=True)), metadata=about)


def _encodable(value: Any) -> Any:
    """Escape a name that is not valid Unicode, which Parquet can't store."""
    if isinstance(value, str):
        with suppress(UnicodeEncodeError):
            value.encode()
            return value
        return printable(value)
    return value


def write_jsonl_row(row: Mapping[str, Any], file: io.BufferedWriter) -> None:
    """Write a row of JSON Lines, in ASCII, and pass it on to the operating system."""
    file.write(json.dumps(row).encode() + b"\n")
    file.flush()
