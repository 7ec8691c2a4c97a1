"""Tar files of images: shards in the layout of WebDataset, or a data folder in tar files."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from zoo.cache import derived_key, image_key, open_store
from zoo.data.columns import Item, Locate
from zoo.data.files import MAX_BYTES, extension, is_hidden
from zoo.data.issue import Issue
from zoo.data.remote import (
    Address,
    AnyFile,
    RemoteFile,
    existing_file,
    files_below,
    find,
    is_web,
    key_of,
    local_of,
    open_any,
)
from zoo.data.sample import Sample
from zoo.data.sources.archive import Archive, left_out, member_name
from zoo.data.sources.extensions import is_image_name
from zoo.data.sources.indexed import Listing, part_of
from zoo.data.sources.layout import SPLIT_OF, normal_name
from zoo.data.sources.source import Part
from zoo.errors import CacheError, DataError
from zoo.io.files import expand, is_dir, is_file
from zoo.io.parse import MAX_JSON, parse_json, read_bounded
from zoo.io.text import printable

TAR = ".tar"

#: Extensions of compressed tar files, which can't be read at an offset.
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

#: Keys of a `.json` member that hold the label or labels, in order of preference.
LABEL_KEYS = ("label", "labels", "class", "cls")

#: Files beside shards with the names of numbered classes.
CLASS_FILES = ("classes.txt", "labels.json")

_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")

#: Extensions of members that label the image of the same key, in order of preference.
_LABELS = ("cls", "json", "txt")

#: Largest member that is read for a label, in bytes.
_MAX_LABEL = 2**20

#: Most shards that a pattern may name.
_MAX_SHARDS = 10**6

_BLOCK = 512

#: Bytes of a remote tar file that are read around each header: many small members, or a part of a
#: large one.
_HEADERS = 2**16

#: Version of the stored index; increase it when its contents change.
_INDEX = 1

_FURTHER = "a further image of the same key"
_LINK = "links and sparse files are not read"
_OTHER = "neither images nor labels"
_LABEL = "a label"


class Row(NamedTuple):
    """A member of a tar file.

    Attributes:
        name: Its name, relative and with `/`.
        offset: Where its content begins in the file, in bytes.
        size: Its size in bytes.
        labels: Labels of the image by a member of the same key; None without one.
        why: Why it is not an image that is used; empty for an image.
    """

    name: str
    offset: int
    size: int
    labels: tuple[str, ...] | None = None
    why: str = ""


def shards_of(data: str | Path) -> list[Path] | None:
    """Return the tar files that `data` names; None if it names something else.

    Args:
        data: A tar file; a folder with nothing but tar files, or with subfolders of splits that
            have; or a pattern such as `shards/train-{000..003}.tar` or `shards/*.tar`.

    Raises:
        DataError: A tar file is compressed, or there is none that the pattern names.
    """
    path = expand(data)
    if str(path).lower().endswith(COMPRESSED) and is_file(path):
        raise is_compressed(path)
    if is_file(path):
        return [path] if extension(path) == TAR else None
    if is_dir(path):
        return _in_folder(path)
    return _matching(str(path)) if is_pattern(path) else None


def is_pattern(path: str | Path) -> bool:
    """Whether a path is a pattern of tar files."""
    return extension(path) == TAR and (glob.has_magic(str(path)) or "{" in str(path))


def remote_shards(pattern: str) -> list[RemoteFile]:
    """Return the tar files at the addresses that a pattern names.

    Args:
        pattern: An address, such as `s3://bucket/train-{000..003}.tar` or `s3://bucket/*.tar`.

    Raises:
        DataError: There is none, or a folder can't be listed.
    """
    found: list[RemoteFile] = []
    for each in _expanded(pattern):
        if not glob.has_magic(each) or is_web(each):
            found.append(existing_file(each))
            continue
        fixed = re.split(r"[*?\[]", each, maxsplit=1)[0].rpartition("/")[0]
        there = [
            file
            for file in files_below(fixed)
            if fnmatch.fnmatchcase(file.address, each)
            and file.address.count("/") == each.count("/")
        ]
        if not there:
            raise DataError(f"there is no shard {printable(each)}")
        found += there
    return list(dict.fromkeys(found))


def shards_among(folder: Address, files: Sequence[RemoteFile]) -> list[RemoteFile] | None:
    """Return the tar files of a remote folder of shards; None if it is another folder.

    Args:
        folder: The folder.
        files: All files below it.
    """
    names = {file: file.path.relative_to(folder).parts for file in files}
    shown = {file: parts for file, parts in names.items() if not any(map(is_hidden, parts))}
    folders = {parts[0].lower() for parts in shown.values() if len(parts) > 1}
    deep = any(len(parts) > 2 for parts in shown.values())
    if deep or not folders <= set(SPLIT_OF) or any(is_image_name(p[-1]) for p in shown.values()):
        return None
    shards = [file for file in shown if extension(file.path) == TAR]
    mixed = folders and any(len(names[shard]) == 1 for shard in shards)
    return None if mixed else shards or None


def read_shards(
    data: str | Path, shards: Sequence[AnyFile]
) -> tuple[Mapping[AnyFile, Sequence[Row]], Mapping[AnyFile, str | None]]:
    """Index tar files.

    Returns:
        The members of each, and the split that its name or its folder says; None if none does, or
        there is a single one.

    Raises:
        DataError: One can't be read or is cut short, or only some names say a split.
    """
    root = _root_of(shards)
    splits: dict[AnyFile, str | None]
    splits = {shard: split_of(_name_of(shard, root)) for shard in shards}
    if len(shards) == 1:
        splits = dict.fromkeys(shards)
    without = [shard for shard, split in splits.items() if split is None]
    if without and len(without) < len(shards):
        raise DataError(
            f"{data}: the names of some shards say train, val or test, and that of {without[0]} "
            f"does not",
            hint="name all shards, or their folders, by split, such as train-000.tar",
        )
    return {shard: _index(shard) for shard in shards}, splits


def is_labelled(rows: Mapping[AnyFile, Sequence[Row]]) -> bool:
    """Whether shards have the layout of WebDataset: labels in members beside the images."""
    return any(row.labels is not None for each in rows.values() for row in each)


class ShardSource:
    """Shards in the layout of WebDataset: `KEY.jpg` with `KEY.cls`, `KEY.json` or `KEY.txt`.

    Args:
        data: What names the shards, for messages.
        rows: Members by shard.
        splits: Splits by shard.

    Raises:
        DataError: A label is no class, or the file of class names can't be read.
    """

    def __init__(
        self,
        data: str | Path,
        rows: Mapping[AnyFile, Sequence[Row]],
        splits: Mapping[AnyFile, str | None],
    ) -> None:
        self.name = str(data)
        self._rows, self._splits = rows, splits
        self.size, self.locate = sum(map(len, rows.values())), in_shards([*rows])
        self.remote = any(isinstance(shard, RemoteFile) for shard in rows)
        self._root = _root_of([*rows])
        self._classes = names_of_classes([*rows])
        there = {split or "train" for split in splits.values()}
        self.splits = tuple(split for split in ("train", "val", "test") if split in there)
        self.issues = tuple(self._issues())

    def read(self, split: str) -> Part:
        """Read the images of a split; sample names are those of the shard and of the member."""
        return part_of(self.listed(split), self.locate)

    def listed(self, split: str) -> Listing:
        """List what `read` makes samples of.

        Raises:
            DataError: A label is no class.
        """
        items = [
            item
            for n, (shard, rows) in enumerate(self._rows.items())
            if (self._splits[shard] or "train") == split
            for item in self._items(n, shard, rows)
        ]
        return Listing(name=f"{self.name} ({split})", items=items)

    def _items(self, number: int, shard: AnyFile, rows: Sequence[Row]) -> Iterable[Item]:
        prefix = "" if len(self._rows) == 1 else f"{_name_of(shard, self._root)}/"
        for row in rows:
            if row.labels is not None and not row.why:
                labels = tuple(self._class(shard, row, label) for label in row.labels)
                yield Item(f"{prefix}{row.name}", labels, None, (number, row.offset, row.size))

    def _class(self, shard: AnyFile, row: Row, label: str) -> str:
        if not self._classes or not label.isdecimal():
            return normal_name(label)
        if int(label) not in self._classes:
            raise DataError(
                f"{shard}, {printable(row.name)}: its class is {label}, which "
                f"{' and '.join(CLASS_FILES)} beside the shards do not name"
            )
        return self._classes[int(label)]

    def _issues(self) -> Iterable[Issue]:
        rows = [row for each in self._rows.values() for row in each]
        path = self.name
        for why in (_FURTHER, _LINK, _OTHER):
            yield from left_out(path, [row.name for row in rows if row.why == why], why)
        without = [row.name for row in rows if row.labels is None and not row.why]
        yield from left_out(path, without, "images without a label")
        numbered = any(label.isdecimal() for row in rows for label in row.labels or ())
        if numbered and not self._classes:
            reason = f"classes are named by their numbers: there is no {' or '.join(CLASS_FILES)}"
            yield Issue(kind="note", name=self.name, reason=f"{reason} beside the shards")


def archive_of(
    data: str | Path,
    rows: Mapping[AnyFile, Sequence[Row]],
    splits: Mapping[AnyFile, str | None],
) -> Archive:
    """Return the data folder that the members of tar files make up, below folders of splits.

    Raises:
        DataError: Two members have the same name.
    """
    places: dict[str, tuple[int, int, int]] = {}
    shards = [*rows]
    unread: list[str] = []
    for n, (shard, each) in enumerate(rows.items()):
        split = splits[shard]
        for row in each:
            if row.why == _LINK:
                unread.append(row.name)
                continue
            below = split is None or row.name.startswith(f"{split}/")
            name = row.name if below else f"{split}/{row.name}"
            if name in places and len(rows) > 1:
                raise DataError(
                    f"{printable(row.name)} is a member of both {shards[places[name][0]]} and "
                    f"{shard}"
                )
            places[name] = (n, row.offset, row.size)
    path: PurePath = expand(data)
    if any(isinstance(shard, RemoteFile) for shard in rows):
        path = _pure(next(iter(rows))) if len(rows) == 1 else _root_of([*rows])
    elif len(rows) > 1 and not expand(data).is_dir():
        path = _root_of([*rows])
    return Archive(
        path=path,
        names=tuple(places),
        place=places.__getitem__,
        locate=in_shards(shards),
        issues=tuple(left_out(str(path), unread, _LINK)),
    )


def in_shards(shards: Sequence[AnyFile]) -> Locate:
    """Return the function that finds images by (index of the shard, offset, size)."""
    return partial(_located, shards, [key_of(shard) for shard in shards])


def _located(
    shards: Sequence[AnyFile], keys: Sequence[bytes], name: str, place: Sequence[int]
) -> Mapping[str, Any]:
    number, offset, size = place
    shard, key = shards[number], keys[number]
    return {
        "load": partial(read_range, shard, name, offset, size),
        "stamp": derived_key(key, offset, size) if key else b"",
        "holder": local_of(shard),
    }


def key_of_shards(shards: Sequence[AnyFile]) -> bytes:
    """Return the key of all of these tar files; empty if one has none."""
    keys = [key_of(shard) for shard in shards]
    if not all(keys):
        return b""
    return derived_key(image_key(b"".join(keys)), "tar", _INDEX, [str(shard) for shard in shards])


def images_of_shards(rows: Mapping[AnyFile, Sequence[Row]]) -> tuple[list[Sample], list[str]]:
    """Return (all images of tar files, without labels; the names of other files)."""
    images: list[Sample] = []
    others: list[str] = []
    for shard, each in rows.items():
        key = key_of(shard)
        for row in each:
            if any(map(is_hidden, row.name.split("/"))):
                continue
            if row.why not in ("", _FURTHER):
                others += [] if row.why == _LABEL else [f"{shard}/{row.name}"]
                continue
            load = partial(read_range, shard, row.name, row.offset, row.size)
            stamp = derived_key(key, row.offset, row.size) if key else b""
            images.append(Sample(name=f"{shard}/{row.name}", labels=(), load=load, stamp=stamp))
    return images, others


def read_range(path: AnyFile, name: str, offset: int, size: int) -> bytes:
    """Read a member of a tar file by its place there.

    Raises:
        DataError: It can't be read, is empty or too large, or the file has become shorter.
    """
    try:
        if not 0 < size <= MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes; zoo reads up to {MAX_BYTES:,}")
        if isinstance(path, RemoteFile):
            return path.read(offset, size)
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            content = b""
            while len(content) < size and (more := file.read(size - len(content))):
                content += more
        if len(content) < size:
            raise ValueError(f"{path} is shorter than when it was indexed")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"unreadable image {printable(name)}: {printable(reason)}") from error
    return content


def split_of(name: str) -> str | None:
    """Return the split that a shard's path says: that of a folder, or a word of the name.

    Args:
        name: Path of the shard without its extension, relative and with `/`.
    """
    for part in name.lower().split("/"):
        for word in re.split(r"[^a-z]+", part):
            if word in SPLIT_OF:
                return SPLIT_OF[word]
    return None


def _in_folder(folder: Path) -> list[Path] | None:
    """Return the tar files of a folder of shards; None if it is another folder."""
    try:
        entries = [entry for entry in os.scandir(folder) if not is_hidden(entry.name)]
        if any(is_image_name(entry.name) for entry in entries):
            return None
        folders = [Path(entry) for entry in entries if entry.is_dir()]
        shards = [Path(entry) for entry in entries if extension(entry.name) == TAR]
        if folders and (shards or any(each.name.lower() not in SPLIT_OF for each in folders)):
            return None
        for each in folders:
            inner = [entry for entry in os.scandir(each) if not is_hidden(entry.name)]
            if any(entry.is_dir() for entry in inner):
                return None
            shards += [Path(entry) for entry in inner if extension(entry.name) == TAR]
    except OSError as error:
        raise DataError(f"can't list {printable(folder)}: {error.strerror}") from error
    return sorted(shards) or None


def _matching(pattern: str) -> list[Path]:
    shards: list[Path] = []
    for each in _expanded(pattern):
        found = sorted(glob.glob(each)) if glob.has_magic(each) else [each]  # noqa: PTH207
        there = [Path(path) for path in found if is_file(Path(path))]
        if not there:
            raise DataError(f"there is no shard {printable(each)}")
        shards += there
    return list(dict.fromkeys(shards))


def _expanded(pattern: str) -> list[str]:
    """Expand `{000..003}` and `{a,b}` as a shell does."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    parts = found[1].split(",")
    if numbers := re.fullmatch(r"([0-9]{1,9})\.\.([0-9]{1,9})", found[1]):
        first, last = int(numbers[1]), int(numbers[2])
        if last - first >= _MAX_SHARDS:
            raise DataError(f"{printable(pattern)} names more than {_MAX_SHARDS:,} shards")
        parts = [f"{n:0{len(numbers[1])}}" for n in range(first, last + 1)]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [each for part in parts for each in _expanded(f"{before}{part}{after}")]


def _pure(shard: AnyFile) -> PurePath:
    return shard if isinstance(shard, Path) else shard.path


def _root_of(shards: Sequence[AnyFile]) -> PurePath:
    """Return the folder that names of shards are relative to: above the folders of splits."""
    paths = [_pure(shard).parent for shard in shards]
    root = type(paths[0])(os.path.commonpath(paths))
    return root.parent if len(shards) > 1 and root.name.lower() in SPLIT_OF else root


def _name_of(shard: AnyFile, root: PurePath) -> str:
    return _pure(shard).relative_to(root).with_suffix("").as_posix()


def _index(path: AnyFile) -> list[Row]:
    """Return the members of a tar file, from the cache if it has not changed.

    Raises:
        DataError: It can't be read.
    """
    key = key_of(path)
    with open_store("examined", {"index": "tar", "version": _INDEX}, dtype=np.uint8) as store:
        if key in store:
            with suppress(KeyError):
                return _unpacked(store.get(key))
        rows = _scanned(path)
        if key:
            # A cache that can't be written only makes the next run slower.
            with suppress(CacheError):
                store.append([(key, _packed(rows))])
    return rows


def _packed(rows: Sequence[Row]) -> np.ndarray:
    import pyarrow

    columns = {
        "name": [row.name.encode("utf-8", "surrogateescape") for row in rows],
        "offset": [row.offset for row in rows],
        "size": [row.size for row in rows],
        "labels": [None if row.labels is None else [*row.labels] for row in rows],
        "why": [row.why for row in rows],
    }
    kinds = (pyarrow.binary(), pyarrow.int64(), pyarrow.int64())
    fields = [*kinds, pyarrow.list_(pyarrow.string()), pyarrow.string()]
    table = pyarrow.table(columns, schema=pyarrow.schema(list(zip(columns, fields, strict=True))))
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return np.frombuffer(sink.getvalue(), dtype=np.uint8)


def _unpacked(packed: np.ndarray) -> list[Row]:
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(packed)) as reader:
        columns = reader.read_all().to_pydict()
    return [
        Row(
            name.decode("utf-8", "surrogateescape"),
            offset,
            size,
            None if labels is None else tuple(labels),
            why,
        )
        for name, offset, size, labels, why in zip(*columns.values(), strict=True)
    ]


def _scanned(path: AnyFile) -> list[Row]:
    """Read the headers of a tar file, and the members that label images.

    Raises:
        DataError: It is compressed, cut short or damaged, or a label can't be read.
    """
    # A later member of the same name replaces an earlier one, as when the file is extracted.
    images: dict[str, dict[str, Row]] = {}
    rest: list[Row] = []
    labels: dict[str, dict[str, tuple[str, ...] | None]] = {}
    try:
        with _for_headers(path) as file:
            if file.read(6).startswith(_MAGIC):
                raise is_compressed(path)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    # It keeps all of them otherwise.
                    tar.members.clear()  # type: ignore[attr-defined]
                    if member.isdir():
                        continue
                    name = member_name(path, member.name)
                    row = Row(name, member.offset_data, member.size)
                    key, kind = _key_of(name)
                    if not member.isreg() or member.issparse():
                        rest.append(row._replace(why=_LINK))
                    elif is_image_name(name):
                        images.setdefault(key, {})[name] = row
                    elif kind in _LABELS:
                        content = _content(tar, member)
                        labels.setdefault(key, {})[kind] = _label(path, name, kind, content)
                        rest.append(row._replace(why=_LABEL))
                    else:
                        rest.append(row._replace(why=_OTHER))
                end = tar.offset
            file.seek(end)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise ValueError("it is cut short or damaged: its end is missing")
    except DataError:
        raise
    except Exception as error:  # tarfile raises any type of exception on invalid data
        reason = printable(getattr(error, "strerror", None) or error)
        raise DataError(f"can't read the tar file {printable(path)}: {reason}") from error
    return [*_labelled(images, labels), *rest]


def _for_headers(path: AnyFile) -> BinaryIO:
    """Open a tar file to read its headers; blocks around those are no reads to be kept."""
    if isinstance(path, RemoteFile):
        return path.open(cached=False, ahead=_HEADERS)
    return open_any(path)


def _labelled(
    images: Mapping[str, Mapping[str, Row]],
    labels: Mapping[str, Mapping[str, tuple[str, ...] | None]],
) -> Iterable[Row]:
    """Give the image of each key its labels; of several with labels, one is used."""
    for key, members in images.items():
        rows = members.values()
        of_key = labels.get(key, {})
        found = next((of_key[kind] for kind in _LABELS if of_key.get(kind)), None)
        if found is None:
            yield from rows
            continue
        # KEY.jpg before KEY.mask.png
        first = min(rows, key=lambda row: _key_of(row.name)[1].count("."))
        for row in rows:
            yield row._replace(labels=found) if row is first else row._replace(why=_FURTHER)


def _key_of(name: str) -> tuple[str, str]:
    """Return (key, extension in lower case) of a member: WebDataset divides at the first dot."""
    folder, slash, last = name.rpartition("/")
    first, _, kind = last.partition(".")
    return f"{folder}{slash}{first}", kind.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _MAX_LABEL:
        raise ValueError(
            f"{member.name} has {member.size:,} bytes; a label has up to {_MAX_LABEL:,}"
        )
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _label(path: AnyFile, name: str, kind: str, content: bytes) -> tuple[str, ...] | None:
    """Return the labels that a member has; None if it has none.

    Raises:
        DataError: It can't be read, or is empty.
    """
    where = f"{path}, {printable(name)}"
    try:
        text = content.decode("utf-8").strip()
        found: Any = parse_json(text) if kind == "json" else text
    except ValueError as error:
        raise DataError(f"{where}: {printable(error)}") from error
    if kind == "txt":
        return (text,) if text and "\n" not in text else None
    if kind == "json":
        keys = [key for key in LABEL_KEYS if key in found] if isinstance(found, dict) else []
        if not keys or found[keys[0]] is None:
            return None
        found = found[keys[0]]
    values = found if isinstance(found, list) else [found]
    texts = tuple(dict.fromkeys(str(value).strip() for value in values))
    wrong = any(isinstance(value, dict | list) for value in values) or "" in texts
    # JSON may have half of a character, which UTF-8 can't encode.
    if wrong or "".join(texts).encode(errors="ignore").decode() != "".join(texts):
        raise DataError(f"{where}: its label is {clip_label(found)}, not a name or a number")
    return texts


def clip_label(label: object) -> str:
    """Return a label for a message."""
    return printable(repr(label))[:80]


def names_of_classes(shards: Sequence[AnyFile]) -> dict[int, str]:
    """Return the names of numbered classes from a file beside the shards; empty without one.

    Raises:
        DataError: The file can't be read, or holds something else.
    """
    for path in (_root_of(shards) / name for name in CLASS_FILES):
        if (file := _there(path)) is None:
            continue
        try:
            content = _all_of(file)
            if path.suffix == ".txt":
                lines = content.decode("utf-8").splitlines()
                return {n: normal_name(line) for n, line in enumerate(lines) if line.strip()}
            found = parse_json(content)
            if isinstance(found, list):
                found = dict(enumerate(found))
            elif all(isinstance(value, int) for value in found.values()):
                found = {number: name for name, number in found.items()}
            return {int(number): normal_name(str(name)) for number, name in found.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(
                f"can't read {file}: {printable(error)}",
                hint="give a name a line, or a JSON list, or an object of names and numbers",
            ) from error
    return {}


def _there(path: PurePath) -> AnyFile | None:
    if isinstance(path, Path):
        return path if is_file(path) else None
    try:
        return find(str(path))
    except FileNotFoundError:
        return None


def _all_of(file: AnyFile) -> bytes:
    if isinstance(file, Path):
        return read_bounded(file, MAX_JSON)
    if file.size > MAX_JSON:
        raise ValueError(f"it has {file.size:,} bytes; zoo reads up to {MAX_JSON:,}")
    return file.read()


def is_compressed(path: AnyFile) -> DataError:
    """Return the error of a compressed tar file."""
    return DataError(
        f"{printable(path)} is compressed, so its images can't be read in any order",
        hint="decompress it first, such as by gunzip: images hardly become smaller by compression",
    )
