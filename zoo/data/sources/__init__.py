"""Sources of labelled images: folders, tables, the demo, and those of plugins."""

from __future__ import annotations

from pathlib import Path

from zoo import plugins
from zoo.data.files import extension
from zoo.data.sources.demo import DemoSource
from zoo.data.sources.folder import FolderSource
from zoo.data.sources.source import Part, Source, issues_of
from zoo.data.sources.table import TABLES, TableSource
from zoo.errors import PluginError
from zoo.io.files import exists, expand, is_file

__all__ = [
    "DemoSource",
    "FolderSource",
    "Part",
    "Source",
    "TableSource",
    "issues_of",
    "open_source",
]


def open_source(
    data: str | Path | None, *, task: str = "auto", follow_links: bool = False
) -> Source:
    """Open the data source for `data`.

    Args:
        data: A folder, a CSV, TSV or Parquet file, or a string that a plugin's source accepts; None
            for the demo.
        task: As in the recipe; `single-label`: each label cell of a table is one label.
        follow_links: Also follow links that lead out of the folder.

    Raises:
        DataError: If the source does not exist or can't be read.
        PluginError: A plugin's source fails.
    """
    if data is None:
        return DemoSource()
    path = expand(data)
    if is_file(path) and extension(path) in TABLES:
        return TableSource(path, task=task)
    if not exists(path):
        for plugin in plugins.connect_all():
            for name, opener in plugins.declared(plugin, "zoo_sources").items():
                try:
                    source: Source | None = opener(str(data))
                except Exception as error:
                    raise PluginError(
                        f"source {name} of plugin {plugin} failed to open {data}: "
                        f"{plugins.explain(error)}"
                    ) from error
                if source is not None:
                    return source
    return FolderSource(path, follow_links=follow_links)
