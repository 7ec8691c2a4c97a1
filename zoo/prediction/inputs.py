"""The images that a prediction is asked for: files, folders, patterns, lists, tables, URLs."""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from zoo.data.files import extension
from zoo.data.remote import RemoteFile, address_of, is_web, path_of, read_address
from zoo.data.sample import Sample
from zoo.data.sources import is_image_folder, plugin_source, remote_place, unlabelled
from zoo.data.sources.extensions import is_image_name, reason_of
from zoo.data.sources.layout import files_in
from zoo.data.sources.shards import is_pattern
from zoo.data.sources.table import TABLES, images_of_table
from zoo.errors import DataError
from zoo.io.files import exists
from zoo.io.text import printable
from zoo.prediction.download import download

#: Extensions of archives at an address; any other URL is one of an image.
_ARCHIVES = (".zip", ".tar")


@dataclass(frozen=True, slots=True)
class Item:
    """An image of a path or URL, or of a source; `skipped` is why a file is no image."""

    name: str
    sample: Sample | None = None
    skipped: str = ""

    @property
    def image(self) -> str | Sample:
        """The image, as `run.stream` takes it."""
        if self.sample is None and is_web(self.name.lower()):
            return Sample(name=self.name, labels=(), load=partial(download, self.name))
        if self.sample is None and (address := address_of(self.name)) is not None:
            return Sample(name=self.name, labels=(), load=partial(read_address, address))
        return self.sample or self.name


def find_inputs(
    given: Sequence[str], *, allow_network: bool = False, stdin: Iterable[bytes] | None = None
) -> list[Item]:
    """List the images that are given, in order, and after them the other files of the folders.

    Args:
        given: Image files; folders, which are searched with their subfolders; patterns such as
            `photos/**/*.jpg`; ZIP archives, tar files and datasets; tables with a column of paths
            or images; `@FILE`, a list of images, folders and URLs, one a line, or `-` for such a
            list on stdin; URLs, and addresses of any of these such as `s3://bucket/photos`; and
            what the sources of plugins accept.
        allow_network: Whether URLs and other addresses are read.
        stdin: Lines of the list `-`; default: those of this process.

    Raises:
        DataError: Something does not exist or can't be read, or a URL is not allowed. A file or URL
            in a list or table is not looked at before it is its turn.
        PluginError: A plugin's source fails.
    """
    items: list[Item] = []
    for text in given:
        if text == "-":
            items += _of_list(sys.stdin.buffer if stdin is None else stdin)
        elif text.startswith("@") and not exists(Path(text)):
            items += _of_file(Path(text[1:]))
        else:
            items += _of(text, allow_network=allow_network)
    if not allow_network:
        remote = (i.name for i in items if i.sample is None and address_of(i.name) is not None)
        if (url := next(remote, None)) is not None:
            raise _not_allowed(url)
    return [i for i in items if not i.skipped] + [i for i in items if i.skipped]


def inputs_sha256(items: Iterable[Item]) -> str:
    """Return the SHA-256 of the names of the images, in order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(os.fsencode(item.name) + b"\0")
    return digest.hexdigest()


def _not_allowed(url: str) -> DataError:
    return DataError(
        f"no such image or folder: {printable(url)}; it is a URL",
        hint="download it first, or set `allow_network`",
    )


def _of(text: str, *, allow_network: bool) -> list[Item]:
    """List what a single argument names."""
    if (address := address_of(text)) is not None and plugin_source(text) is None:
        if not allow_network:
            raise _not_allowed(text)
        return _of_address(address)
    path = Path(text)
    try:
        path.stat()
    except FileNotFoundError:
        if not is_pattern(path) and (found := _matching(text)):
            return found
        if (samples := _of_source(text)) is not None:
            return samples
        raise DataError(f"no such image or folder: {printable(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"can't read {printable(path)}: {reason}") from error
    if path.is_dir():
        return _of_folder(path) if is_image_folder(path) else _of_source(text) or []
    if extension(path) in TABLES:
        return [_of_cell(path, each) for each in images_of_table(path)]
    if path.is_file() and not is_image_name(path):
        samples = _of_source(text)
        if samples is not None:
            return samples
    return [Item(str(path))]


def _of_address(address: str) -> list[Item]:
    """List what an address names: an image, a table, an archive, tar files, or a folder."""
    name = path_of(address)
    is_page = is_web(address) and extension(name) not in (*TABLES, *_ARCHIVES)
    if is_image_name(name) or (is_page and not is_pattern(name)):
        return [Item(address)]
    if extension(name) in TABLES:
        place = remote_place(address)
        images = images_of_table(place, allow_network=True) if isinstance(place, RemoteFile) else []
        return [Item(each.name, sample=each) for each in images if isinstance(each, Sample)]
    return _of_source(address) or []


def _of_folder(folder: Path) -> list[Item]:
    images, others = files_in(folder)
    skipped = (Item(str(path), skipped=f"skipped: {reason_of(path)}") for path in others)
    return [*(Item(str(path)) for path in images), *skipped]


def _matching(pattern: str) -> list[Item]:
    """List the files, and the images in folders, that a pattern matches."""
    if not glob.has_magic(pattern):
        return []
    found: dict[str, Item] = {}
    for path in map(Path, sorted(glob.glob(pattern, recursive=True))):  # noqa: PTH207
        if path.is_dir():
            items = _of_folder(path)
        else:
            skipped = "" if is_image_name(path) else f"skipped: {reason_of(path)}"
            items = [Item(str(path), skipped=skipped)]
        # With **, a folder can be matched as well as its files and subfolders.
        found |= {item.name: item for item in items if item.name not in found}
    return list(found.values())


def _of_cell(table: Path, image: str | Sample) -> Item:
    if isinstance(image, Sample):
        return Item(image.name, sample=image)
    return Item(image if address_of(image) is not None else str(table.parent / image))


def _of_source(text: str) -> list[Item] | None:
    found = unlabelled(text)
    if found is None:
        return None
    images, others = found
    skipped = (Item(name, skipped=f"skipped: {reason_of(PurePath(name))}") for name in others)
    return [*(Item(str(sample.where), sample=sample) for sample in images), *skipped]


def _of_file(path: Path) -> list[Item]:
    try:
        with path.open("rb") as lines:
            return list(_of_list(lines))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"can't read the list {printable(path)}: {reason}") from error


def _of_list(lines: Iterable[bytes]) -> Iterator[Item]:
    for n, line in enumerate(lines):
        # Windows writes a byte order mark into text files.
        text = os.fsdecode((line if n else line.removeprefix(BOM_UTF8)).rstrip(b"\r\n"))
        if not text:
            continue
        if address_of(text) is None and os.path.isdir(text):  # noqa: PTH112  # a Path takes longer
            yield from _of_folder(Path(text))
        else:
            yield Item(text)
