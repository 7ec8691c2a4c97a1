"""Sources of labelled images: folders, archives, tables, datasets, the demo, and plugins'."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from zoo import plugins
from zoo.data.files import extension
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
from zoo.data.sources.joined import JoinedSource
from zoo.data.sources.layout import files_in
from zoo.data.sources.shards import (
    ShardSource,
    archive_of,
    images_of_shards,
    is_labelled,
    is_pattern,
    read_shards,
    shards_of,
)
from zoo.data.sources.source import Part, Source, is_remote, issues_of
from zoo.data.sources.table import TABLES, TableSource, images_of_table
from zoo.data.sources.zipped import read_zip
from zoo.errors import DataError, PluginError
from zoo.io.files import exists, expand, is_file
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
    "is_image_folder",
    "is_remote",
    "issues_of",
    "located",
    "open_source",
    "plugin_source",
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
    val: str | None = None,
    test: str | None = None,
    min_count: int = 1,
) -> Source:
    """Open the data source for `data`.

    Args:
        data: A folder; a ZIP archive; a tar file, a folder or a pattern of tar files; a CSV, TSV,
            JSON Lines or Parquet file; `hf:NAME[@REVISION][:CONFIG]` or a folder that `datasets`
            saved; or a string that a plugin's source accepts. None for the demo.
        task: As in the recipe; `single-label`: each label cell of a table is one label.
        follow_links: Also follow links that lead out of the folder.
        group_by: As in the recipe: a column of the table; `folder`; or a regular expression that
            finds the group in a sample's name. None: the source's own groups, if it has any.
        subfolders: Also read images in subfolders of class folders, as with `group_by=folder`.
        val: Where the val split is, as for `data`; None: in `data`.
        test: Where the test split is, as for `data`; None: in `data`.
        min_count: Classes with fewer train images are left out of all splits.

    Raises:
        DataError: If the source does not exist or can't be read, or `group_by` does not fit it, or
            `min_count` leaves fewer than two classes.
        PluginError: A plugin's source fails.
    """

    def opened(place: str | Path | None) -> Source:
        return _open(
            place, task=task, follow_links=follow_links, group_by=group_by, subfolders=subfolders
        )

    source = opened(data)
    others = {
        split: opened(place) for split, place in (("val", val), ("test", test)) if place is not None
    }
    source = JoinedSource(source, others) if others else source
    return FrequentSource(source, min_count) if min_count > 1 else source


def _open(
    data: str | Path | None,
    *,
    task: str,
    follow_links: bool,
    group_by: str | None,
    subfolders: bool,
) -> Source:
    """Open a source in a single place."""
    path = None if data is None else expand(data)
    if path is not None and is_file(path) and extension(path) in TABLES:
        return _by_column(TableSource(path, task=task, group_by=group_by), group_by)
    subfolders = subfolders or group_by == FOLDER
    source = _without_groups(
        data, path, follow_links=follow_links, subfolders=subfolders, group_by=group_by
    )
    if isinstance(source, HubSource):
        return _by_column(source, group_by)
    if group_by is None:
        return source
    if group_by != FOLDER:
        return GroupedSource(source, group_by, by_pattern(group_by))
    own = getattr(source, "own_groups", False)
    return GroupedSource(source, group_by, own_group if own else folder_of)


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
    path: Path | None,
    *,
    follow_links: bool,
    subfolders: bool,
    group_by: str | None,
) -> Source:
    """Open a source that is no table, with its own groups."""
    if path is None:
        return DemoSource()
    if is_file(path) or not exists(path):
        source = plugin_source(str(data))
        if source is not None:
            return source
    if _is_zip(path):
        return ArchiveSource(read_zip(path), subfolders=subfolders)
    if _is_dataset(str(data), path):
        return HubSource(place_of(str(data)), group_by=group_by)
    if (shards := shards_of(path)) is not None:
        rows, splits = read_shards(path, shards)
        if is_labelled(rows):
            return ShardSource(path, rows, splits)
        return ArchiveSource(archive_of(path, rows, splits), subfolders=subfolders)
    return FolderSource(path, follow_links=follow_links, subfolders=subfolders)


def is_image_folder(data: str | Path) -> bool:
    """Whether `data` is a folder of images, and no other source."""
    path = expand(data)
    return path.is_dir() and not _is_dataset(str(data), path) and shards_of(path) is None


def located(data: str) -> str:
    """Return `data` as it is found from any folder, and at any time: absolute, with the commit.

    Raises:
        DataError: The commit of a dataset of the Hub can't be found out.
    """
    path = expand(data)
    if exists(path):
        return os.path.realpath(path)
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
    path = expand(data)
    if is_file(path) and extension(path) in TABLES:
        rows = images_of_table(path)
        return [
            row if isinstance(row, Sample) else Sample(name=row, labels=(), file=path.parent / row)
            for row in rows
        ]
    found = unlabelled(data)
    if found is not None:
        return [replace(sample, labels=(), group=None) for sample in found[0]]
    if not path.is_dir():
        raise DataError(f"no such folder of images: {printable(data)}")
    files = files_in(path)[0]
    names = [file.relative_to(path).as_posix() for file in files]
    return [
        Sample(name=name, labels=(), file=file) for name, file in zip(names, files, strict=True)
    ]


def _is_dataset(data: str, path: Path) -> bool:
    return (data.startswith(PREFIX) and not exists(path)) or is_saved(path)


def _is_zip(path: Path) -> bool:
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
    return open_source(
        recipe.data,
        task=recipe.task,
        follow_links=recipe.follow_links,
        group_by=recipe.group_by,
        val=recipe.val,
        test=recipe.test,
        min_count=recipe.min_count,
    )
