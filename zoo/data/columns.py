"""Samples in columns: an Arrow table in the cache, which all processes map into memory."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from zoo.cache import Store, open_store
from zoo.cache.keys import KEY_BYTES
from zoo.data.files import Fingerprint
from zoo.data.sample import Sample
from zoo.errors import CacheError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.data.sources.layout import ClassFolder

#: Version of the stored columns; increase it when their contents change.
_VERSION = 3

#: Number of samples from which on those of folders, archives and datasets are columns, and what is
#: computed of columns is shared in the cache: fewer samples take little memory, and are faster to
#: access as objects.
MANY = 10_000

#: Samples that are made at a time when all are iterated over.
_BATCH = 1024

#: Alignment of buffers in an Arrow file, in bytes.
_ALIGNED = 64

#: Start of the names of columns that say where images are.
_PLACE = "place_"

#: Columns of what is known of images, and the values of the last one; 0: nothing is known.
_CONTENT = ("key", "size", "mtime_ns", "state")
_LISTED, _HASHED = 1, 2

#: Returns the fields `load`, `stamp` and `holder`, or `file`, of a sample by its name and its
#: place, such as an offset in an archive, or an address. Must be picklable.
Locate = Callable[[str, Sequence[Any]], Mapping[str, Any]]


class Item(NamedTuple):
    """What columns hold of a sample.

    Attributes:
        name: As of the sample.
        labels: As of the sample.
        group: As of the sample.
        place: Numbers, 0 or more, and texts that say where the image is; of the same types in all
            items.
    """

    name: str
    labels: tuple[str, ...]
    group: str | None
    place: tuple[int | str, ...] = ()


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
    """Samples of image files in one folder, or of images in archives or datasets, made on access.

    Args:
        table: Arrow table with the columns `name` (bytes), `labels` (dictionary of JSON lists) and
            `group` (dictionary of bytes and null); `place_0`, `place_1` ... (unsigned or bytes), if
            images are no files; and those of what is known of images, if they have been listed or
            read: `key` (16 bytes), `size` (int64), `mtime_ns` (int64) and `state` (uint8). Each is
            one chunk.
        where: Folder that names are relative to, or the function that finds images by what is in
            `place_0`, `place_1` ...
        rows: Rows of the samples, int32; None: all.
        label_sets: Labels in place of those in the dictionary of `labels`; None: these.
    """

    def __init__(
        self,
        table: Any,
        where: Path | Locate,
        *,
        rows: NDArray[np.int32] | None = None,
        label_sets: Sequence[tuple[str, ...]] | None = None,
    ) -> None:
        self._table, self._where = table, where
        self._rows = np.arange(len(table), dtype=np.int32) if rows is None else rows
        column = {name: table.column(name).chunk(0) for name in table.column_names}
        self._names, labels, groups = column["name"], column["labels"], column["group"]
        self._codes, self._group_codes = labels.indices.to_numpy(), groups.indices.to_numpy()
        self._group_names = groups.dictionary
        self._place = [column[n] for n in column if n.startswith(_PLACE)]
        if label_sets is None:
            label_sets = [tuple(json.loads(each)) for each in labels.dictionary.to_pylist()]
        self._label_sets = label_sets
        self._content: tuple[NDArray[Any], ...] | None = None
        if _CONTENT[0] in column:
            keys, *numbers = (column[name] for name in _CONTENT)
            flat = np.frombuffer(keys.buffers()[1], np.uint8)
            self._content = (
                flat[: KEY_BYTES * len(table)].reshape(-1, KEY_BYTES),
                *(each.to_numpy() for each in numbers),
            )

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> Sample: ...

    @overload
    def __getitem__(self, position: slice) -> Columns: ...

    def __getitem__(self, position: int | slice) -> Sample | Columns:
        if isinstance(position, slice):
            return self._with(rows=self._rows[position])
        row = int(self._rows[position])
        return self._sample(row, _text(self._names[row].as_py()))

    def __iter__(self) -> Iterator[Sample]:
        for rows, names in self._batches():
            yield from map(self._sample, rows.tolist(), names)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(one == two for one, two in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def take(self, positions: NDArray[Any]) -> Columns:
        """Return the samples at these positions, or where a mask is true."""
        return self._with(rows=self._rows[positions])

    def names(self) -> Iterator[str]:
        """Yield the names of all samples, without making these."""
        for _, names in self._batches():
            yield from names

    def label_codes(self) -> NDArray[np.int32]:
        """Return the index in `label_sets` of each sample."""
        codes: NDArray[np.int32] = self._codes[self._rows]
        return codes

    @property
    def label_sets(self) -> Sequence[tuple[str, ...]]:
        """The combinations of labels that occur in the table; some may be equal."""
        return self._label_sets

    def group_codes(self) -> NDArray[np.int32]:
        """Return the index of the group of each sample; 0: it has none."""
        codes: NDArray[np.int32] = self._group_codes[self._rows]
        return codes

    def group_name(self, code: int) -> str | None:
        """Return the group of that index."""
        name = self._group_names[code].as_py()
        return None if name is None else _text(name)

    @property
    def keys(self) -> Keys | None:
        """Keys of the files; None if they have not been listed."""
        if self._content is None or not self._content[-1][self._rows].all():
            return None
        return Keys(self._content[0], self._rows)

    def unread(self) -> int:
        """Count the samples whose files have not been read."""
        if self._content is None:
            return len(self)
        return int(np.count_nonzero(self._content[-1][self._rows] != _HASHED))

    def relabelled(self, label_sets: Sequence[tuple[str, ...]]) -> Columns:
        """Return the samples with other labels in place of each of `label_sets`."""
        return self._with(label_sets=label_sets)

    def regrouped(self, group_of: Callable[[Sample], str | None]) -> Columns:
        """Return the samples with the groups that a function gives them."""
        codes = np.zeros(len(self._table), np.int32)
        numbers: dict[str | None, int] = {None: 0}
        groups = map(group_of, self)
        codes[self._rows] = np.fromiter(
            (numbers.setdefault(group, len(numbers)) for group in groups), np.int32, len(self)
        )
        return self._with(columns={"group": _encoded(codes, [*numbers])})

    def with_contents(self, found: Iterable[tuple[int, Fingerprint | None]]) -> Columns:
        """Return the samples at some positions, with the fingerprints of their files."""
        import pyarrow

        size = len(self._table)
        keys = np.zeros((size, KEY_BYTES), np.uint8)
        sizes, times = np.zeros(size, np.int64), np.zeros(size, np.int64)
        states, usable = np.zeros(size, np.uint8), np.zeros(len(self), bool)
        for position, content in found:
            usable[position] = True
            if content is not None:
                row = self._rows[position]
                keys[row] = np.frombuffer(content.key, np.uint8)
                sizes[row], times[row] = content.size, content.mtime_ns
                states[row] = _HASHED if content.hashed else _LISTED
        buffers = [None, pyarrow.py_buffer(keys)]
        packed = pyarrow.FixedSizeBinaryArray.from_buffers(pyarrow.binary(KEY_BYTES), size, buffers)
        columns = (packed, *map(pyarrow.array, (sizes, times, states)))
        made = self._with(columns=dict(zip(_CONTENT, columns, strict=True)))
        return made if usable.all() else made.take(usable)

    def _batches(self) -> Iterator[tuple[NDArray[np.int32], list[str]]]:
        for start in range(0, len(self._rows), _BATCH):
            rows = self._rows[start : start + _BATCH]
            yield rows, [_text(name) for name in self._names.take(rows).to_pylist()]

    def _with(
        self,
        *,
        rows: NDArray[np.int32] | None = None,
        label_sets: Sequence[tuple[str, ...]] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> Columns:
        """Return these samples with other rows, labels or columns; columns are shared."""
        table = self._table
        if columns is not None:
            import pyarrow

            table = table.drop([name for name in columns if name in table.column_names])
            for name, column in _columns_of(shared(pyarrow.table(dict(columns)))):
                table = table.append_column(name, column)
        return Columns(
            table,
            self._where,
            rows=self._rows if rows is None else rows,
            label_sets=self._label_sets if label_sets is None else label_sets,
        )

    def _sample(self, row: int, name: str) -> Sample:
        code = int(self._group_codes[row])
        fields: Mapping[str, Any]
        if isinstance(self._where, Path):
            fields = {"file": self._where / name}
        else:
            place = (column[row].as_py() for column in self._place)
            texts = [_text(each) if isinstance(each, bytes) else each for each in place]
            fields = self._where(name, texts)
        return Sample(
            name=name,
            labels=self._label_sets[self._codes[row]],
            group=self.group_name(code) if code else None,
            content=self._content_of(row),
            **fields,
        )

    def _content_of(self, row: int) -> Fingerprint | None:
        if self._content is None:
            return None
        keys, sizes, times, states = self._content
        if not states[row]:
            return None
        return Fingerprint(
            key=keys[row].tobytes(),
            size=int(sizes[row]),
            mtime_ns=int(times[row]),
            hashed=bool(states[row] == _HASHED),
        )


def label_counts(samples: Sequence[Sample]) -> Counter[tuple[str, ...]]:
    """Count the samples of each combination of labels."""
    if not isinstance(samples, Columns):
        return Counter(sample.labels for sample in samples)
    counts = np.bincount(samples.label_codes(), minlength=len(samples.label_sets))
    found: Counter[tuple[str, ...]] = Counter()
    for labels, number in zip(samples.label_sets, counts.tolist(), strict=True):
        if number:
            found[labels] += number
    return found


def group_counts(samples: Sequence[Sample]) -> Counter[str | None]:
    """Count the samples of each group; None: those without one."""
    if not isinstance(samples, Columns):
        return Counter(sample.group for sample in samples)
    counts = np.bincount(samples.group_codes()).tolist()
    return Counter({samples.group_name(code): n for code, n in enumerate(counts) if n})


def has_groups(samples: Sequence[Sample]) -> bool:
    """Whether any sample has a group."""
    if isinstance(samples, Columns):
        return bool(samples.group_codes().any())
    return any(sample.group is not None for sample in samples)


def regrouped(
    samples: Sequence[Sample], group_of: Callable[[Sample], str | None]
) -> Sequence[Sample]:
    """Return the samples with the groups that a function gives them."""
    if isinstance(samples, Columns):
        return samples.regrouped(group_of)
    return [replace(sample, group=group_of(sample)) for sample in samples]


def parted(
    samples: Sequence[Sample], mask: NDArray[np.bool_]
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Return (samples where a mask is false, samples where it is true)."""
    if isinstance(samples, Columns):
        return samples.take(~mask), samples.take(mask)
    chosen = mask.tolist()
    return (
        [sample for sample, yes in zip(samples, chosen, strict=True) if not yes],
        [sample for sample, yes in zip(samples, chosen, strict=True) if yes],
    )


def columns_of_files(root: Path, folders: Sequence[ClassFolder]) -> Columns:
    """Return the samples of files in class folders.

    Args:
        root: Folder that names are relative to.
        folders: Class folders with their files.
    """
    import pyarrow

    parts, codes, of_group = [], [], []
    of_label: dict[str | None, int] = {}
    numbers: dict[str | None, int] = {None: 0}
    for folder in folders:
        below = _bytes(f"{folder.below}/")
        names = [below + name for name in folder.joined.split(b"\0")]
        parts.append(pyarrow.array(names, pyarrow.large_binary()))
        code = of_label.setdefault(json.dumps([folder.label]), len(of_label))
        codes.append(np.full(len(names), code, np.int32))
        groups = [numbers.setdefault(group, len(numbers)) for group in folder.groups]
        of_group.append(np.array(groups or [0] * len(names), np.int32))
    table = {
        "name": pyarrow.concat_arrays(parts),
        "labels": _encoded(np.concatenate(codes), [*of_label]),
        "group": _encoded(np.concatenate(of_group), [*numbers]),
    }
    return Columns(shared(pyarrow.table(table)), root)


def columns_of_items(items: Collection[Item], where: Locate) -> Columns:
    """Return the samples of items.

    Args:
        items: The items.
        where: Finds the images.
    """
    return Columns(shared(_table_of(items)), where)


def store_columns(
    key: bytes, by_split: Mapping[str, Collection[Item]], about: Mapping[str, Any]
) -> None:
    """Keep the samples of a source in the cache; does nothing if that is impossible.

    Args:
        key: Key of the source, by path, size and modification time.
        by_split: Samples by split.
        about: What else the source says, JSON-serialisable.
    """
    table = _table_of([item for each in by_split.values() for item in each])
    sizes = {split: len(each) for split, each in by_split.items()}
    metadata = {"about": json.dumps(about), "sizes": json.dumps(sizes)}
    with _store() as store:
        _put(store, key, table.replace_schema_metadata(metadata))


def stored_columns(
    key: bytes, where: Callable[[Mapping[str, Any]], Path | Locate]
) -> tuple[dict[str, Sequence[Sample]], dict[str, Any]] | None:
    """Return what `store_columns` has kept: (samples by split, `about`); None if nothing.

    Args:
        key: As for `store_columns`.
        where: Returns the argument of `Columns` by `about`.
    """
    with _store() as store:
        table = _got(store, key)
    if table is None:
        return None
    metadata = table.schema.metadata
    sizes, about = json.loads(metadata[b"sizes"]), json.loads(metadata[b"about"])
    # An Arrow stream of no rows has no columns of one chunk.
    whole: Sequence[Sample] = Columns(table, where(about)) if len(table) else ()
    by_split, start = {}, 0
    for split, size in sizes.items():
        by_split[split] = whole[start : start + size]
        start += size
    return by_split, about


def shared(table: Any) -> Any:
    """Return an Arrow table from the cache, where other processes find it; a small one as it is.

    Its key is that of its contents.
    """
    if len(table) < MANY:
        return table
    digest = hashlib.blake2b(str(table.schema).encode(), digest_size=KEY_BYTES)
    for name in table.column_names:
        array = table.column(name).chunk(0)
        parts = (array.indices, array.dictionary) if hasattr(array, "indices") else (array,)
        for buffer in (each for part in parts for each in part.buffers() if each is not None):
            digest.update(len(buffer).to_bytes(8, "big"))
            digest.update(buffer)
    with _store() as store:
        _put(store, digest.digest(), table)
        found = _got(store, digest.digest())
    return table if found is None else found


def _table_of(items: Collection[Item]) -> Any:
    """Return the Arrow table of `Columns`."""
    import pyarrow

    names = pyarrow.array([_bytes(item.name) for item in items], pyarrow.large_binary())
    columns: dict[str, Any] = {"name": names}
    texts: dict[str, Iterable[str | None]] = {
        "labels": (json.dumps(item.labels) for item in items),
        "group": (item.group for item in items),
    }
    for name, values in texts.items():
        # Code 0 is for no group.
        numbers: dict[str | None, int] = {None: 0} if name == "group" else {}
        codes = (numbers.setdefault(value, len(numbers)) for value in values)
        columns[name] = _encoded(np.fromiter(codes, np.int32, len(items)), [*numbers])
    for n in range(len(next(iter(items)).place) if items else 0):
        columns[f"{_PLACE}{n}"] = _packed([item.place[n] for item in items])
    return pyarrow.table(columns)


def _packed(values: Sequence[int | str]) -> Any:
    """Return the Arrow array of numbers or texts of places."""
    import pyarrow

    texts = [_bytes(each) for each in values if isinstance(each, str)]
    if texts:
        return pyarrow.array(texts, pyarrow.large_binary())
    numbers = np.array(values, np.uint64)
    return pyarrow.array(numbers.astype(np.min_scalar_type(numbers.max())))


def _store() -> Store:
    return open_store("examined", {"index": "columns", "version": _VERSION}, dtype=np.uint8)


def _put(store: Store, key: bytes, table: Any) -> None:
    """Append a table as a record whose end is aligned, so that the next one is."""
    import pyarrow

    if key in store:
        return
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    sink.write(bytes(-sink.tell() % _ALIGNED))
    # A cache that can't be written only makes the next run slower.
    with suppress(CacheError):
        store.append([(key, np.frombuffer(sink.getvalue(), np.uint8))])


def _got(store: Store, key: bytes) -> Any:
    """Return a table of views on the memory map, which stays when the store is closed."""
    import pyarrow

    try:
        content = store.get(key)
    except KeyError:
        return None
    with pyarrow.ipc.open_stream(pyarrow.py_buffer(content)) as reader:
        return reader.read_all()


def _columns_of(table: Any) -> Iterator[tuple[str, Any]]:
    return zip(table.column_names, table.columns, strict=True)


def _encoded(codes: NDArray[np.int32], values: Sequence[str | None]) -> Any:
    """Return a column of texts, as an Arrow dictionary whose codes are never null."""
    import pyarrow

    texts = [None if value is None else _bytes(value) for value in values]
    dictionary = pyarrow.array(texts, pyarrow.large_binary())
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array(codes), dictionary)


def _bytes(name: str) -> bytes:
    # File names may be any bytes.
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
