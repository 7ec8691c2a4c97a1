"""Find plugins, load each in isolation, and report those that fail without affecting others."""

from zoo.plugins.calls import (
    NAMED,
    blame,
    build,
    convert,
    declared,
    declared_as,
    declarer,
    describe,
    files,
    implements,
    make,
)
from zoo.plugins.discovery import (
    DISABLE,
    NAME,
    TAG,
    Plugin,
    State,
    _entry_points,
    _imported,
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
from zoo.plugins.foreign import explain, off_stdout
from zoo.plugins.index import Entry, Index, index
from zoo.plugins.names import (
    PREFERRED,
    _with_tag,
    backbones,
    get,
    left_out,
    matcher,
    matching,
    published,
    with_tag,
)
