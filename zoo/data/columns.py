"""Samples in columns: an Arrow table in the cache, which all processes map into memory."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from zoo.cache import Store, derived_key, image_key, open_store
from zoo.data.files import Fingerprint, listed
from zoo.data.sample import Sample
from zoo.errors import CacheError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Version of the stored columns; increase it when their contents change.
_VERSION = 1

#: Samples that are made at a time when all are iterated over.
_BATCH = 1024

#: Alignment of buffers in an Arrow file, in bytes.
_ALIGNED = 64


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What listing the files of samples gives, by row of the columns.

    Attributes:
        keys: (N, 16) uint8, as `Fingerprint.key`.
        states: (N, 2) int64: size in bytes and modification time in nanoseconds.
    """

    keys: NDArray[np.uint8]
    states: NDArray[np.int64]


class Keys(Sequence[bytes]):
    """Keys of samples, made on access from a column.

    Args:
        keys: (N, 16) uint8.
        rows: Rows of the samples.
    """

    def __init__(self, keys: NDArray[np.uint8], rows: NDArray[np.int32]) -> None:
        self._keys, self._rows = keys, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> bytes: ...

    @overload
    def __getitem__(self, position: slice) -> Keys: ...

    def __getitem__(self, position: int | slice) -> bytes | Keys:
        if isinstance(position, slice):
            return Keys(self._keys, self._rows[position])
        key: bytes = self._keys[self._rows[position]].tobytes()
        return key


class Columns(Sequence[Sample]):
    """Samples of image files in one folder, made on access.

    Args:
        table: Arrow table with the columns `name` (string), `labels` (dictionary of JSON lists) and
            `group` (dictionary of strings).
        folder: Folder that names are relative to.
        rows: Rows of the samples, int32; None: all.
        stats: What listing the files has given; None: they have not been listed.
        key: Key of the table in the cache; empty if it is not stored.
    """

    def __init__(
        self,
        table: Any,
        folder: Path,
        *,
        rows: NDArray[np.int32] | None = None,
        stats: Stats | None = None,
        key: bytes = b"",
    ) -> None:
        self._table, self._folder, self._stats, self._key = table, folder, stats, key
        self._rows = np.arange(len(table), dtype=np.int32) if rows is None else rows
        labels, groups = table.column("labels").chunk(0), table.column("group").chunk(0)
        self._codes = labels.indices.to_numpy()
        self._label_sets = [tuple(json.loads(each)) for each in labels.dictionary.to_pylist()]
        self.grouped = groups.null_count < len(groups)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> Sample: ...

    @overload
    def __getitem__(self, position: slice) -> Columns: ...

    def __getitem__(self, position: int | slice) -> Sample | Columns:
        if isinstance(position, slice):
            return self._with_rows(self._rows[position])
        return next(self._made(np.array([self._rows[position]], dtype=np.int32)))

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self._rows), _BATCH):
            yield from self._made(self._rows[start : start + _BATCH])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(one == two for one, two in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def take(self, positions: NDArray[Any]) -> Columns:
        """Return the samples at these positions."""
        return self._with_rows(self._rows[positions])

    def names(self) -> Iterator[str]:
        """Yield the names of all samples, without making these."""
        column = self._table.column("name")
        for start in range(0, len(self._rows), _BATCH):
            yield from column.take(self._rows[start : start + _BATCH]).to_pylist()

    def label_codes(self) -> NDArray[np.int32]:
        """Return the index in `label_sets` of each sample."""
        codes: NDArray[np.int32] = self._codes[self._rows]
        return codes

    @property
    def label_sets(self) -> Sequence[tuple[str, ...]]:
        """The combinations of labels that occur in the table."""
        return self._label_sets

    @property
    def keys(self) -> Keys | None:
        """Keys of the files; None if they have not been listed."""
        return None if self._stats is None else Keys(self._stats.keys, self._rows)

    def listed(self) -> Columns | None:
        """Return the samples with what listing their files gives; None if a file can't be used.

        The result is kept in the cache, so that all processes share its memory.
        """
        keys = np.zeros((len(self._table), 16), np.uint8)
        states = np.zeros((len(self._table), 2), np.int64)
        for row, name in zip(self._rows.tolist(), self.names(), strict=True):
            try:
                found = listed(self._folder / name)
            except DataError:
                return None
            if found.hashed:
                return None
            keys[row] = np.frombuffer(found.key, np.uint8)
            states[row] = found.size, found.mtime_ns
        return self._with_stats(_shared(self._key, keys, states))

    def _with_rows(self, rows: NDArray[np.int32]) -> Columns:
        return Columns(self._table, self._folder, rows=rows, stats=self._stats, key=self._key)

    def _with_stats(self, stats: Stats) -> Columns:
        return Columns(self._table, self._folder, rows=self._rows, stats=stats, key=self._key)

    def _made(self, rows: NDArray[np.int32]) -> Iterator[Sample]:
        part = self._table.take(rows)
        names, groups = (part.column(name).to_pylist() for name in ("name", "group"))
        for row, name, group in zip(rows.tolist(), names, groups, strict=True):
            yield Sample(
                name=name,
                labels=self._label_sets[self._codes[row]],
                file=self._folder / name,
                group=group,
                content=self._content(row),
            )

    def _content(self, row: int) -> Fingerprint | None:
        if self._stats is None:
            return None
        size, mtime_ns = self._stats.states[row].tolist()
        key = self._stats.keys[row].tobytes()
        return Fingerprint(key=key, size=size, mtime_ns=mtime_ns, hashed=False)


def label_counts(samples: Sequence[Sample]) -> Counter[tuple[str, ...]]:
    """Count the samples of each combination of labels."""
    if not isinstance(samples, Columns):
        return Counter(sample.labels for sample in samples)
    counts = np.bincount(samples.label_codes(), minlength=len(samples.label_sets))
    # Two combinations may be equal, if a table of an earlier version says so.
    found: Counter[tuple[str, ...]] = Counter()
    for labels, number in zip(samples.label_sets, counts.tolist(), strict=True):
        if number:
            found[labels] += number
    return found


def has_groups(samples: Sequence[Sample]) -> bool:
    """Whether any sample has a group."""
    if isinstance(samples, Columns):
        return samples.grouped and any(sample.group is not None for sample in samples)
    return any(sample.group is not None for sample in samples)


def store_columns(
    key: bytes, by_split: Mapping[str, Sequence[Sample]], about: Mapping[str, Any]
) -> None:
    """Keep the samples of a source in the cache; does nothing if that is impossible.

    Args:
        key: Key of the source, by path, size and modification time.
        by_split: Samples by split, each with a file of its name below the folder and nothing else.
        about: What else the source says, JSON-serialisable.
    """
    import pyarrow

    samples = [sample for each in by_split.values() for sample in each]
    labels = [json.dumps(sample.labels) for sample in samples]
    kind = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    columns = {
        "name": pyarrow.array([sample.name for sample in samples], pyarrow.large_string()),
        "labels": pyarrow.array(labels, pyarrow.string()).dictionary_encode().cast(kind),
        "group": pyarrow.array([s.group for s in samples], pyarrow.string())
        .dictionary_encode()
        .cast(kind),
    }
    sizes = {split: len(each) for split, each in by_split.items()}
    metadata = {"about": json.dumps(about), "sizes": json.dumps(sizes)}
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    with _store() as store:
        _put(store, key, np.frombuffer(sink.getvalue(), np.uint8))


def stored_columns(key: bytes, folder: Path) -> tuple[dict[str, Columns], dict[str, Any]] | None:
    """Return what `store_columns` has kept: (samples by split, `about`); None if nothing.

    Args:
        key: As for `store_columns`.
        folder: Folder that names are relative to.
    """
    import pyarrow

    with _store() as store:
        try:
            content = store.get(key)
        except KeyError:
            return None
    # Views of the memory map, which stays when the store is closed.
    with pyarrow.ipc.open_stream(pyarrow.py_buffer(content)) as reader:
        table = reader.read_all()
    metadata = table.schema.metadata
    sizes, about = json.loads(metadata[b"sizes"]), json.loads(metadata[b"about"])
    whole = Columns(table, folder, key=key)
    by_split, start = {}, 0
    for split, size in sizes.items():
        by_split[split] = whole[start : start + size]
        start += size
    return by_split, about


def _shared(key: bytes, keys: NDArray[np.uint8], states: NDArray[np.int64]) -> Stats:
    """Return these arrays from the cache, where other processes find them."""
    if not key:
        return Stats(keys=keys, states=states)
    key = derived_key(image_key(keys.tobytes() + states.tobytes()), "stats", key.hex())
    packed = np.concatenate([keys.reshape(-1), states.reshape(-1).view(np.uint8)])
    with _store() as store:
        _put(store, key, packed)
        try:
            packed = store.get(key)
        except KeyError:
            return Stats(keys=keys, states=states)
    end = keys.size
    return Stats(
        keys=packed[:end].reshape(keys.shape),
        states=packed[end : end + 8 * states.size].view(np.int64).reshape(states.shape),
    )


def _store() -> Store:
    return open_store("examined", {"index": "columns", "version": _VERSION}, dtype=np.uint8)


def _put(store: Store, key: bytes, content: NDArray[np.uint8]) -> None:
    """Append a record whose end is aligned, so that the next one is."""
    padded = np.concatenate([content, np.zeros(-len(content) % _ALIGNED, np.uint8)])
    # A cache that can't be written only makes the next run slower.
    with suppress(CacheError):
        store.append([(key, padded)])
