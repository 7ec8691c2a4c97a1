"""Find plugins, load each in isolation, and report those that fail without affecting others."""

from zoo.plugins.calls import (
    blame,
    build,
    convert,
    declared,
    declared_as,
    describe,
    files,
    implements,
)
from zoo.plugins.discovery import (
    DISABLE,
    NAME,
    TAG,
    Plugin,
    State,
    connect,
    connect_all,
    disable,
    disabled,
    installed,
    load,
    load_all,
    of,
    versions_behind,
)
from zoo.plugins.discovery import _entry_points as _entry_points
from zoo.plugins.discovery import _imported as _imported
from zoo.plugins.foreign import explain, off_stdout
from zoo.plugins.index import Entry, Index, index
from zoo.plugins.names import (
    PREFERRED,
    backbones,
    get,
    left_out,
    matcher,
    matching,
    published,
    with_tag,
)
from zoo.plugins.names import _with_tag as _with_tag

__all__ = [
    "DISABLE",
    "NAME",
    "PREFERRED",
    "TAG",
    "Entry",
    "Index",
    "Plugin",
    "State",
    "backbones",
    "blame",
    "build",
    "connect",
    "connect_all",
    "convert",
    "declared",
    "declared_as",
    "describe",
    "disable",
    "disabled",
    "explain",
    "files",
    "get",
    "implements",
    "index",
    "installed",
    "left_out",
    "load",
    "load_all",
    "matcher",
    "matching",
    "of",
    "off_stdout",
    "published",
    "versions_behind",
    "with_tag",
]
