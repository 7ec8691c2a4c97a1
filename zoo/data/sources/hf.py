"""Datasets of the Hugging Face Hub, and those saved on disk by its library `datasets`."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from zoo.cache.keys import derived_key, image_key
from zoo.data.columns import Item
from zoo.data.files import file_key, read_file
from zoo.data.issue import Issue
from zoo.data.sample import Sample
from zoo.data.sources.indexed import Listing, indexed_part
from zoo.data.sources.layout import SPLIT_OF, normal_name
from zoo.data.sources.source import Part
from zoo.errors import DataError
from zoo.io.files import exists, expand, is_file
from zoo.io.text import count, listed, printable

PREFIX = "hf:"

#: Accepted names of the columns for label and group.
LABEL = ("label", "labels", "class", "fine_label")
GROUP = ("group",)

#: Files in a folder that `save_to_disk` has written: of one dataset, and of several splits.
_SAVED = ("state.json", "dataset_info.json", "dataset_dict.json")

_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Place:
    """What `hf:NAME[@REVISION][:CONFIG]` names, or a folder.

    Attributes:
        name: Repository on the Hub, or path of a local folder.
        local: Whether it is a folder.
        revision: Commit, tag or branch; None: the newest commit.
        config: Configuration of the dataset; None: its only or its default one.
    """

    name: str
    local: bool
    revision: str | None = None
    config: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        config = "" if self.config is None else f":{self.config}"
        return f"{PREFIX}{self.name}{revision}{config}"


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Columns of a dataset by purpose; `classes` are the names of numbered labels, if any."""

    image: str
    label: str
    group: str | None
    classes: tuple[str, ...]


def is_saved(path: Path) -> bool:
    """Whether a folder is a dataset that was written by `save_to_disk`."""
    state, info, splits = (is_file(path / name) for name in _SAVED)
    return splits or (state and info)


def place_of(data: str) -> Place:
    """Parse `hf:NAME[@REVISION][:CONFIG]`, `hf:FOLDER[:CONFIG]`, or the path of a saved dataset.

    Raises:
        DataError: It has no name.
    """
    if not data.startswith(PREFIX):
        return Place(name=os.path.realpath(expand(data)), local=True)
    text = data.removeprefix(PREFIX)
    if text and exists(expand(text)):
        return Place(name=os.path.realpath(expand(text)), local=True)
    rest, _, config = text.partition(":")
    if rest and exists(expand(rest)):
        return Place(name=os.path.realpath(expand(rest)), local=True, config=config or None)
    name, _, revision = rest.partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise DataError(f"{printable(data)} names no dataset: hf:OWNER/NAME[@REVISION][:CONFIG]")
    return Place(name=name, local=False, revision=revision or None, config=config or None)


@functools.cache
def pinned(place: Place) -> Place:
    """Return the place with the commit that its revision stands for now; of a folder, as it is.

    Raises:
        DataError: The Hub can't be asked, or has no such dataset or revision.
    """
    if place.local or (place.revision and _COMMIT.fullmatch(place.revision)):
        return place
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(place.name, revision=place.revision).sha
    except Exception as error:
        raise _unavailable(place, error) from error
    return Place(name=place.name, local=False, revision=commit, config=place.config)


class HubSource:
    """A map-style dataset whose images are read as encoded bytes.

    The column of images is the one of the feature type `Image`, or `image` if there are several;
    that of labels is of the type `ClassLabel`, or named `label`, `labels`, `class` or `fine_label`.

    Args:
        place: The dataset.
        group_by: The column of groups, if there is one of this name; else the column `group`.

    Attributes:
        columns: The names of all columns.
        grouped: Whether groups are from the column `group_by`.

    Raises:
        DataError: It can't be loaded, or has no column of images or none of labels.
    """

    own_groups = True

    def __init__(self, place: Place, *, group_by: str | None = None) -> None:
        self._place = place = pinned(place)
        self.name = place.name if place.local else str(place)
        datasets = _loaded(place)
        self.issues: list[Issue] = []
        self._splits: dict[str, str] = {}
        for name in datasets:
            split = SPLIT_OF.get(name.lower())
            if split is not None and split not in self._splits:
                self._splits[split] = name
        others = [name for name in datasets if name not in self._splits.values()]
        if not self._splits and len(others) == 1:
            self._splits["train"] = others.pop()
        if not self._splits:
            raise DataError(f"{self.name} has the splits {listed(others)}, not train, val or test")
        if others:
            reason = f"splits that are not used: {listed(others)}"
            self.issues.append(Issue(kind="skipped", name=self.name, reason=reason))
        self.splits = tuple(split for split in ("train", "val", "test") if split in self._splits)
        dataset = datasets[self._splits[self.splits[0]]]
        self.columns = tuple(dataset.column_names)
        self._columns = _columns(self.name, dataset, group_by)
        self.grouped = group_by is not None and self._columns.group == group_by

    def read(self, split: str) -> Part:
        """Read the rows of a split; a sample is named by its split and the number of its row.

        Raises:
            DataError: A label is no class.
        """
        name, columns = self._splits[split], self._columns
        state = _key_of(_loaded(self._place)[name])
        listing = [self.name, name, columns.label, columns.group, columns.classes]
        return indexed_part(
            derived_key(state, "rows", *listing) if state else b"",
            partial(_located, self._place, name, columns.image, state),
            partial(self._listed, name),
        )

    def _listed(self, name: str) -> Listing:
        """List the rows of a split of the dataset.

        Raises:
            DataError: A label is no class.
        """
        dataset, columns = _loaded(self._place)[name], self._columns
        known = [column for column in (columns.label, columns.group) if column is not None]
        rows = dataset.select_columns(known)[:]
        groups = rows[columns.group] if columns.group else [None] * len(dataset)
        items, lacking = [], 0
        for n, (value, group) in enumerate(zip(rows[columns.label], groups, strict=True)):
            labels = self._labels(f"{self.name}, row {n + 1} of {name}", value)
            if not labels and not isinstance(value, list):
                lacking += 1
                continue
            items.append(
                Item(f"{name}/{n:08}", labels, None if group is None else str(group), (n,))
            )
        issues = []
        if lacking:
            reason = f"rows without a label are left out: {count(lacking, 'row')}"
            issues.append(Issue(kind="skipped", name=f"{self.name} ({name})", reason=reason))
        return Listing(name=f"{self.name} ({name})", items=items, issues=issues)

    def _labels(self, where: str, value: Any) -> tuple[str, ...]:
        classes = self._columns.classes
        found = []
        for each in value if isinstance(value, list) else [value]:
            if each is None or each == "" or (classes and each == -1):
                continue
            if not classes:
                found.append(normal_name(str(each)))
            elif isinstance(each, int) and 0 <= each < len(classes):
                found.append(normal_name(classes[each]))
            else:
                raise DataError(f"{where}: its class is {each!r}; {len(classes)} are named")
        return tuple(dict.fromkeys(found))


def unlabelled_rows(place: Place) -> list[Sample]:
    """List the images of all splits, without labels.

    Raises:
        DataError: It can't be loaded, or has no column of images.
    """
    place = pinned(place)
    found = []
    for name, dataset in _loaded(place).items():
        column = _image_column(place.name, dataset)
        locate = partial(_located, place, name, column, _key_of(dataset))
        names = (f"{name}/{n:08}" for n in range(len(dataset)))
        found += [Sample(name=each, labels=(), **locate(each, [n])) for n, each in enumerate(names)]
    return found


def _columns(name: str, dataset: Any, group_by: str | None) -> _Columns:
    from datasets import ClassLabel

    image = _image_column(name, dataset)
    features = dataset.features
    inner = {column: getattr(feature, "feature", feature) for column, feature in features.items()}
    of_classes = [column for column, each in inner.items() if isinstance(each, ClassLabel)]
    named = [column for column in LABEL if column in features]
    both = [column for column in named if column in of_classes]
    if not both and len(of_classes) > 1:
        raise DataError(
            f"{name} has several columns of classes: {listed(of_classes)}",
            hint="rename the one to learn to `label`",
        )
    label = next(iter(both or of_classes or named), None)
    if label is None:
        raise DataError(
            f"{name} has no column of labels, which is a ClassLabel or named label: its columns "
            f"are {_described(dataset)}"
        )
    classes = tuple(inner[label].names) if label in of_classes else ()
    groups = (group_by, *GROUP) if group_by in features else GROUP
    group = next((column for column in groups if column in features), None)
    return _Columns(image=image, label=label, group=group, classes=classes)


def _image_column(name: str, dataset: Any) -> str:
    from datasets import Image

    found = [each for each, kind in dataset.features.items() if isinstance(kind, Image)]
    if not found:
        raise DataError(
            f"{name} has no column of images: its columns are {_described(dataset)}",
            hint="cast the column of images to datasets.Image()",
        )
    if len(found) > 1 and "image" not in found:
        raise DataError(
            f"{name} has several columns of images: {listed(found)}",
            hint="rename the one to classify to `image`",
        )
    return "image" if "image" in found else str(found[0])


def _described(dataset: Any) -> str:
    kinds = {name: type(kind).__name__ for name, kind in dataset.features.items()}
    return listed([f"{printable(name)} ({kind})" for name, kind in kinds.items()])


def _loaded(place: Place) -> Mapping[str, Any]:
    """Load the splits of a dataset, memory-mapped, once in each process.

    Raises:
        DataError: The library is not installed, or can't load it.
    """
    return _loaded_once(place, _state(place))


def _state(place: Place) -> tuple[int, ...]:
    """Return the modification times that change when a folder is written again."""
    if not place.local:
        return ()
    folder = Path(place.name)
    paths = [folder, *(folder / name for name in _SAVED)]
    return tuple(path.stat().st_mtime_ns for path in paths if exists(path))


@functools.lru_cache(maxsize=8)
def _loaded_once(place: Place, state: tuple[int, ...]) -> Mapping[str, Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{place} needs the library datasets", hint="pip install 'zoo-finetune[hf]'"
        ) from error
    try:
        if place.local and is_saved(Path(place.name)):
            found = datasets.load_from_disk(place.name)
        else:
            found = datasets.load_dataset(place.name, place.config, revision=place.revision)
    except Exception as error:  # it raises any type of exception
        raise _unavailable(place, error) from error
    if isinstance(found, datasets.Dataset):
        return {"train": found}
    return {str(name): dataset for name, dataset in found.items()}


def _unavailable(place: Place, error: Exception) -> DataError:
    reason = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
    if place.local:
        return DataError(f"can't load the dataset {printable(place.name)}: {reason}")
    return DataError(
        f"can't load {printable(place)} from the Hugging Face Hub: {reason}",
        hint="check its name, the network and, for a private dataset, `hf auth login`; or save it "
        "to a folder by `save_to_disk`, and give that",
    )


def _key_of(dataset: Any) -> bytes:
    """Return the key of a dataset by its files; empty if they have none."""
    keys: Sequence[bytes] = [file_key(Path(each["filename"])) for each in dataset.cache_files]
    if not keys or not all(keys):
        return b""
    # Rows may be selected or shuffled, which the fingerprint describes.
    fingerprint = str(getattr(dataset, "_fingerprint", ""))
    return image_key(b"".join(keys) + fingerprint.encode())


def _located(
    place: Place, split: str, column: str, key: bytes, name: str, numbers: Sequence[int]
) -> Mapping[str, Any]:
    (row,) = numbers
    return {
        "load": partial(_image, place, split, column, row),
        "stamp": derived_key(key, column, row) if key else b"",
    }


def _image(place: Place, split: str, column: str, row: int) -> bytes:
    """Read the encoded image of a row.

    Raises:
        DataError: It can't be read, or is empty.
    """
    where = f"{split}/{row:08}"
    try:
        value = _undecoded(place, _state(place), split, column)[row][column]
    except DataError:
        raise
    except Exception as error:  # the library raises any type of exception
        reason = printable(str(error).partition("\n")[0] or type(error).__name__)
        raise DataError(f"unreadable image {where}: {reason}") from error
    if value and value.get("bytes"):
        return bytes(value["bytes"])
    if value and value.get("path"):
        return read_file(Path(value["path"]))
    raise DataError(f"unreadable image {where}: its cell is empty")


@functools.lru_cache(maxsize=32)
def _undecoded(place: Place, state: tuple[int, ...], split: str, column: str) -> Any:
    from datasets import Image

    dataset = _loaded_once(place, state)[split].select_columns([column])
    return dataset.with_format(None).cast_column(column, Image(decode=False))
