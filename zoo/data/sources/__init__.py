"""Sources of labelled images: folders, archives, tables, datasets, the demo, and plugins'.

Folders, archives and tables are on this machine or at an address, such as `s3://bucket/photos`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeGuard

from zoo import plugins
from zoo.cache.keys import derived_key
from zoo.data.columns import MANY
from zoo.data.files import extension
from zoo.data.remote import (
    Address,
    AnyFile,
    RemoteFile,
    address_of,
    existing_file,
    files_below,
    key_of,
)
from zoo.data.remote import path_of as path_of_address
from zoo.data.sample import Sample
from zoo.data.sources.archive import ArchiveSource, all_images
from zoo.data.sources.demo import DemoSource
from zoo.data.sources.folder import FolderSource
from zoo.data.sources.frequent import FrequentSource
from zoo.data.sources.grouped import FOLDER, GroupedSource, by_pattern, folder_of, own_group
from zoo.data.sources.hf import (
    PREFIX,
    HubSource,
    is_saved,
    pinned,
    place_of,
    unlabelled_rows,
)
from zoo.data.sources.indexed import ListedSource, open_indexed, recall, remember
from zoo.data.sources.joined import JoinedSource
from zoo.data.sources.layout import files_in
from zoo.data.sources.remote import archive_of_files
from zoo.data.sources.shards import (
    COMPRESSED,
    TAR,
    ShardSource,
    archive_of,
    images_of_shards,
    in_shards,
    is_compressed,
    is_labelled,
    is_pattern,
    key_of_shards,
    names_of_classes,
    read_shards,
    remote_shards,
    shards_among,
    shards_of,
)
from zoo.data.sources.source import Part, Source, is_remote, issues_of
from zoo.data.sources.table import TABLES, TableSource, images_of_table
from zoo.data.sources.zipped import in_zip, read_zip
from zoo.errors import DataError, PluginError
from zoo.io.files import exists, expand, is_dir, is_file
from zoo.io.text import printable
from zoo.recipe import Recipe

__all__ = [
    "ArchiveSource",
    "DemoSource",
    "FolderSource",
    "HubSource",
    "Part",
    "ShardSource",
    "Source",
    "TableSource",
    "frequent",
    "is_image_folder",
    "is_remote",
    "issues_of",
    "located",
    "open_source",
    "plugin_source",
    "remote_place",
    "source_of",
    "unlabelled",
    "unlabelled_images",
]


def open_source(
    data: str | Path | None,
    *,
    task: str = "auto",
    follow_links: bool = False,
    group_by: str | None = None,
    subfolders: bool = False,
    allow_network: bool = False,
    val: str | None = None,
    test: str | None = None,
) -> Source:
    """Open the data source for `data`.

    Args:
        data: A folder; a ZIP archive; a tar file, a folder or a pattern of tar files; a CSV, TSV,
            JSON Lines or Parquet file; the address of any of these, such as `s3://bucket/photos`;
            `hf:NAME[@REVISION][:CONFIG]` or a folder that `datasets` saved; or a string that a
            plugin's source accepts. None for the demo.
        task: As in the recipe; `single-label`: each label cell of a table is one label.
        follow_links: Also follow links that lead out of the folder.
        group_by: As in the recipe: a column of the table; `folder`; or a regular expression that
            finds the group in a sample's name. None: the source's own groups, if it has any.
        subfolders: Also read images in subfolders of class folders, as with `group_by=folder`.
        allow_network: Also read addresses in a table that are not of the table's own server.
        val: Where the val split is, as for `data`; None: in `data`.
        test: Where the test split is, as for `data`; None: in `data`.

    Raises:
        DataError: If the source does not exist or can't be read, or `group_by` does not fit it.
        UnavailableError: An address can't be read now.
        PluginError: A plugin's source fails.
    """
    opened = partial(
        _open,
        task=task,
        follow_links=follow_links,
        group_by=group_by,
        subfolders=subfolders,
        allow_network=allow_network,
    )
    source = opened(data)
    others = {
        split: opened(place) for split, place in (("val", val), ("test", test)) if place is not None
    }
    return JoinedSource(source, others) if others else source


def frequent(source: Source, min_count: int) -> Source:
    """Leave classes with fewer train images out of all splits of a source.

    Raises:
        DataError: Fewer than two classes are left.
    """
    return FrequentSource(source, min_count) if min_count > 1 else source


def _open(
    data: str | Path | None,
    *,
    task: str,
    follow_links: bool,
    group_by: str | None,
    subfolders: bool,
    allow_network: bool,
) -> Source:
    """Open a source in a single place."""
    address = None if data is None else address_of(data)
    if address is not None and (source := plugin_source(str(data))) is not None:
        return _grouped(source, group_by)
    place: Path | RemoteFile | Address | None = None
    if data is not None:
        place = expand(data) if address is None else remote_place(address)
    if _is_table(place):
        table = TableSource(place, task=task, group_by=group_by, allow_network=allow_network)
        return _by_column(table, group_by)
    subfolders = subfolders or group_by == FOLDER
    source = _without_groups(
        data, place, follow_links=follow_links, subfolders=subfolders, group_by=group_by
    )
    if isinstance(source, HubSource):
        return _by_column(source, group_by)
    return _grouped(source, group_by)


def _grouped(source: Source, group_by: str | None) -> Source:
    """Group a source that has no columns."""
    if group_by is None:
        return source
    if group_by != FOLDER:
        return GroupedSource(source, group_by, by_pattern(group_by))
    own = getattr(source, "own_groups", False)
    return GroupedSource(source, group_by, own_group if own else folder_of)


def remote_place(address: str) -> RemoteFile | Address:
    """Return the table, archive or tar file at an address; a folder or a pattern as it is.

    Raises:
        DataError: There is no such file, or it can't be asked for.
        UnavailableError: It can't be asked for now.
    """
    path = path_of_address(address)
    is_one = extension(path) in (*TABLES, ".zip", TAR) or path.lower().endswith(COMPRESSED)
    if is_one and not is_pattern(path):
        return existing_file(address)
    return Address(address.rstrip("/"))


def _is_table(place: Path | RemoteFile | Address | None) -> TypeGuard[AnyFile]:
    if isinstance(place, RemoteFile):
        return extension(place.path) in TABLES
    return isinstance(place, Path) and is_file(place) and extension(place) in TABLES


def _by_column(source: TableSource | HubSource, group_by: str | None) -> Source:
    """Group a source that has columns."""
    if group_by is None:
        return source
    if source.grouped:
        return GroupedSource(source, group_by, own_group)
    group_of = folder_of if group_by == FOLDER else by_pattern(group_by, source.columns)
    return GroupedSource(source, group_by, group_of)


def _without_groups(
    data: str | Path | None,
    path: Path | RemoteFile | Address | None,
    *,
    follow_links: bool,
    subfolders: bool,
    group_by: str | None,
) -> Source:
    """Open a source that is no table, with its own groups."""
    if path is None:
        return DemoSource()
    if not isinstance(path, Path):
        return _of_address(str(data), path, subfolders=subfolders)
    if is_file(path) or not exists(path):
        source = plugin_source(str(data))
        if source is not None:
            return source
    if _is_zip(path):
        return _zip(path, subfolders=subfolders)
    if _is_dataset(str(data), path):
        return HubSource(place_of(str(data)), group_by=group_by)
    if (shards := shards_of(path)) is not None:
        return _tar(path, path, shards, subfolders=subfolders)
    return FolderSource(path, follow_links=follow_links, subfolders=subfolders)


def _of_address(data: str, place: RemoteFile | Address, *, subfolders: bool) -> Source:
    """Open a folder, an archive or tar files at an address."""
    if isinstance(place, RemoteFile) and _is_zip(place):
        return _zip(place, subfolders=subfolders)
    shards, files = _shards_at(place)
    if shards is None and isinstance(place, Address):
        archive = archive_of_files(place, files)
        # Nothing tells whether a folder has changed but a list of its files.
        return open_indexed(
            b"", archive.locate, lambda: ArchiveSource(archive, subfolders=subfolders)
        )
    return _tar(data, address_of(data) or data, shards or [], subfolders=subfolders)


def _zip(path: AnyFile, *, subfolders: bool) -> Source:
    """Open a ZIP archive, or take what it holds from the cache."""
    key = key_of(path)
    return open_indexed(
        derived_key(key, "zip", str(path), subfolders) if key else b"",
        in_zip(path),
        lambda: ArchiveSource(read_zip(path), subfolders=subfolders),
    )


def _tar(
    data: str | Path, name: str | Path, shards: Sequence[AnyFile], *, subfolders: bool
) -> Source:
    """Open tar files, or take what they hold from the cache.

    Args:
        data: What names them.
        name: The same for messages.
        shards: The tar files.
        subfolders: As in `open_source`.
    """
    key = key_of_shards(shards)
    key = derived_key(key, str(data), str(name), subfolders) if key else b""

    def opened() -> ListedSource:
        rows, splits = read_shards(data, shards)
        if is_labelled(rows):
            return ShardSource(name, rows, splits)
        return ArchiveSource(archive_of(data, rows, splits), subfolders=subfolders)

    source = None
    if (known := recall(key)) is None:
        source = opened()
        known = {"labelled": isinstance(source, ShardSource)}
        if source.size < MANY:
            return source
        remember(key, known)
    # The names of classes are in another file, which labels alone make sense of.
    classes = [*names_of_classes(shards).items()] if known["labelled"] else None
    key = derived_key(key, "classes", classes) if key else b""
    return open_indexed(key, in_shards(shards), opened if source is None else lambda: source)


def _shards_at(
    place: RemoteFile | Address,
) -> tuple[Sequence[RemoteFile] | None, Sequence[RemoteFile]]:
    """Return (the tar files at an address, all files of a folder that has others)."""
    if isinstance(place, RemoteFile):
        if not str(place.path).lower().endswith(TAR):
            raise is_compressed(place)
        return [place], ()
    if is_pattern(str(place)):
        return remote_shards(str(place)), ()
    files = files_below(str(place))
    return shards_among(place, files), files


def is_image_folder(data: str | Path) -> bool:
    """Whether `data` is a folder of images, and no other source."""
    path = expand(data)
    return (
        exists(path)
        and path.is_dir()
        and not _is_dataset(str(data), path)
        and shards_of(path) is None
    )


def is_table(data: str | Path) -> bool:
    """Whether `data` is a table on this machine."""
    return address_of(data) is None and _is_table(expand(data))


def located(data: str) -> str:
    """Return `data` as it is found from any folder, and at any time: absolute, with the commit.

    Raises:
        DataError: The commit of a dataset of the Hub can't be found out.
    """
    path = expand(data)
    if exists(path):
        return os.path.realpath(path)
    if (address := address_of(data)) is not None:
        return address
    if data.startswith(PREFIX):
        place = pinned(place_of(data))
        return str(place)
    return os.path.abspath(path) if is_pattern(path) else data  # noqa: PTH100 - links stay


def unlabelled(data: str) -> tuple[list[Sample], list[str]] | None:
    """List the images of a source other than a folder or a table of paths, as prediction reads it.

    Args:
        data: As for `open_source`.

    Returns:
        (images, names of other files); None if `data` is for no such source.

    Raises:
        DataError: As `open_source`.
        PluginError: A plugin's source fails.
    """
    path = expand(data)
    if is_file(path) or not exists(path):
        source = plugin_source(data)
        if source is not None:
            return [each for split in source.splits for each in source.read(split).samples], []
    if (address := address_of(data)) is not None:
        return _unlabelled_at(data, remote_place(address))
    if _is_zip(path):
        return all_images(read_zip(path))
    if _is_dataset(data, path):
        return unlabelled_rows(place_of(data)), []
    if (shards := shards_of(path)) is not None:
        return images_of_shards(read_shards(path, shards)[0])
    return None


def unlabelled_images(data: str) -> list[Sample]:
    """List the images of a source, of which labels and splits don't count.

    Args:
        data: As for `open_source`. Folders are searched with their subfolders.

    Raises:
        DataError: As `open_source`.
        PluginError: A plugin's source fails.
    """
    address, path = address_of(data), expand(data)
    place = path if address is None else remote_place(address)
    if _is_table(place):
        rows = images_of_table(place)
        return [
            row if isinstance(row, Sample) else Sample(name=row, labels=(), file=path.parent / row)
            for row in rows
        ]
    found = unlabelled(data)
    if found is not None:
        return [replace(sample, labels=(), group=None) for sample in found[0]]
    if not is_dir(path):
        raise DataError(f"no such folder of images: {printable(data)}")
    files = files_in(path)[0]
    names = [file.relative_to(path).as_posix() for file in files]
    return [
        Sample(name=name, labels=(), file=file) for name, file in zip(names, files, strict=True)
    ]


def _unlabelled_at(data: str, place: RemoteFile | Address) -> tuple[list[Sample], list[str]]:
    """List the images of a folder, an archive or tar files at an address."""
    if isinstance(place, RemoteFile) and _is_zip(place):
        return all_images(read_zip(place))
    shards, files = _shards_at(place)
    if shards is None and isinstance(place, Address):
        return all_images(archive_of_files(place, files))
    return images_of_shards(read_shards(data, shards or [])[0])


def _is_dataset(data: str, path: Path) -> bool:
    return (data.startswith(PREFIX) and not exists(path)) or is_saved(path)


def _is_zip(path: AnyFile) -> bool:
    if isinstance(path, RemoteFile):
        return extension(path.path) == ".zip"
    return extension(path) == ".zip" and is_file(path)


def plugin_source(data: str) -> Source | None:
    """Open the data with the first source of a plugin that accepts it; None if none does.

    Raises:
        PluginError: A plugin's source fails.
    """
    for plugin in plugins.connect_all():
        for name, opener in plugins.declared(plugin, "zoo_sources").items():
            try:
                source: Source | None = opener(data)
            except Exception as error:
                raise PluginError(
                    f"source {name} of plugin {plugin} failed to open {data}: "
                    f"{plugins.explain(error)}"
                ) from error
            if source is not None:
                return source
    return None


def source_of(recipe: Recipe) -> Source:
    """Open the data source of a recipe, with its groups and its places of val and test.

    Raises:
        DataError, PluginError: As in `open_source`.
    """
    source = open_source(
        recipe.data,
        task=recipe.task,
        follow_links=recipe.follow_links,
        group_by=recipe.group_by,
        allow_network=recipe.allow_network,
        val=recipe.val,
        test=recipe.test,
    )
    return frequent(source, recipe.min_count)
