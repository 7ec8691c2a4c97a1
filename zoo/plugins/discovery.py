"""Load each plugin in isolation.

pluggy alone stops at the first entry point that fails to import, loses all results if one hook
raises, and accepts misspelt hooks. Therefore each entry point has its own plugin manager.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, Literal

import pluggy

from zoo import hookspecs
from zoo.backbone import Backbone, LeftOut
from zoo.errors import PluginError
from zoo.plugins.foreign import explain, off_stdout

State = Literal["ok", "missing dependency", "broken", "duplicate", "disabled"]

#: Environment variable with comma-separated names of plugins to leave out.
DISABLE = "ZOO_DISABLE_PLUGINS"

#: Pattern of a backbone's bare name.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

#: What the tag of weights looks like, which follows the last dot of NAME.TAG.
TAG = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """An installed plugin.

    Attributes:
        name: Entry-point name, the prefix of its backbones' full names.
        distribution: Installed package that it comes from.
        version: Version of that package.
        state: `ok`, or why it was left out.
        cause: Description of the failure, empty if ok.
        backbones: Declared backbones, by full name.
        left_out: Networks of its library that can't be backbones, by full name.
        printed: Beginning of what it printed while loading, on one line.
        hooks: Its pluggy manager; None if the plugin was left out.
    """

    name: str
    distribution: str
    version: str
    state: State = "ok"
    cause: str = ""
    backbones: dict[str, Backbone] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    printed: str = ""
    hooks: pluggy.PluginManager | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


def installed() -> list[str]:
    """Return the names of all installed plugins, without loading them."""
    return sorted(_entry_points())


def load_all() -> list[Plugin]:
    """Load every installed plugin; return all, also those that were left out, sorted by name.

    If several packages claim the same name, each of them is included.
    """
    return [p for name in installed() for p in (load(name), *_rivals(name))]


@functools.cache
def load(name: str) -> Plugin:
    """Load the plugin with that entry-point name, once per process.

    Any failure of the plugin's code is reported as `state` and `cause`, never as an exception. Its
    output is kept off stdout.
    """
    plugin = connect(name)
    return plugin if plugin.hooks is None else _isolated(plugin, _declare)


def connect(name: str) -> Plugin:
    """Like `load`, but without calling `zoo_backbones`, which may import a library of models."""
    return _disabled(found(name)) if name in disabled() else _imported(name)


def connect_all() -> list[Plugin]:
    """Call `connect` for every installed plugin, sorted by name."""
    return [connect(name) for name in installed()]


def of(name: str) -> list[Plugin]:
    """Load the plugins with that entry-point name or distribution.

    Raises:
        PluginError: If there is none, or one of them could not be loaded.
    """
    found = []
    for entry_point, claims in sorted(_entry_points().items()):
        if name == entry_point:
            found.append(load(name))
        elif name in [_named(claim).distribution for claim in claims]:
            claimants = (load(entry_point), *_rivals(entry_point))
            found += [plugin for plugin in claimants if plugin.distribution == name]
    if not found:
        known = ", ".join(installed()) or "none"
        raise PluginError(f"no plugin {name!r} is installed; installed plugins: {known}")
    for plugin in found:
        if plugin.state != "ok":
            raise PluginError(f"plugin {plugin} can't be used: {plugin.state}: {plugin.cause}")
    return found


def found(name: str) -> Plugin:
    """Return the plugin of that name from its package's metadata, without loading it."""
    return _named(_entry_points()[name][0])


def versions_behind(name: str) -> dict[str, str]:
    """Return versions of a third-party plugin's distribution and its installed requirements.

    For zoo's own plugins it is empty: `zoo.runs.write.versions` has those of their libraries.
    """
    if name not in _entry_points():
        return {}
    plugin = found(name)
    if _is_own(plugin):
        return {}
    return {plugin.distribution: plugin.version, **required_versions(plugin.distribution)}


def required_versions(distribution: str) -> dict[str, str]:
    """Return versions of what a distribution requires, as far as it is installed."""
    versions = {}
    for requirement in metadata.requires(distribution) or ():
        if required := NAME.match(requirement):
            with suppress(metadata.PackageNotFoundError):
                versions[required[0]] = metadata.version(required[0])
    return versions


def disabled() -> list[str]:
    """Return the names of the plugins to leave out."""
    return [name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip()]


def disable(names: Sequence[str]) -> None:
    """Leave plugins out, in this process and its child processes.

    Raises:
        PluginError: If there is no plugin of that name.
    """
    for name in names:
        if name not in _entry_points():
            known = ", ".join(installed()) or "none"
            raise PluginError(f"no plugin {name!r} to leave out; installed plugins: {known}")
    os.environ[DISABLE] = ",".join([*disabled(), *names])


@functools.cache
def _imported(name: str) -> Plugin:
    plugin = found(name)
    if len(_entry_points()[name]) > 1 and not _is_own(plugin):
        return _duplicate(plugin)
    return _isolated(plugin, _register)


def _isolated(plugin: Plugin, step: Callable[[Plugin], Plugin]) -> Plugin:
    printed = [plugin.printed] if plugin.printed else []
    try:
        with off_stdout(printed):
            plugin = step(plugin)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - plugin code can raise anything, SystemExit too
        state: State = "missing dependency" if isinstance(error, ImportError) else "broken"
        plugin = replace(plugin, hooks=None, state=state, cause=explain(error))
    return replace(plugin, printed="\\n".join(printed))


def _register(plugin: Plugin) -> Plugin:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(_entry_points()[plugin.name][0].load(), name=plugin.name)
    manager.check_pending()
    return replace(plugin, hooks=manager)


def _declare(plugin: Plugin) -> Plugin:
    declared: dict[str, Backbone] = {}
    left_out: dict[str, LeftOut] = {}
    hook: Any = plugin.hooks and plugin.hooks.hook
    for each in (b for result in hook.zoo_backbones() for b in result):
        if not isinstance(each, Backbone | LeftOut):
            raise PluginError(f"zoo_backbones gave {each!r}, not a zoo.Backbone")
        if not NAME.fullmatch(each.name):
            raise PluginError(
                f"backbone name {each.name!r}: use letters, digits, '.', '_' and '-' only"
            )
        full_name = f"{plugin.name}/{each.name}"
        if full_name in declared or full_name in left_out:
            raise PluginError(f"backbone {full_name} is declared twice")
        if isinstance(each, Backbone):
            declared[full_name] = replace(each, name=full_name)
        else:
            left_out[full_name] = replace(each, name=full_name)
    return replace(plugin, backbones=declared, left_out=left_out)


@functools.cache
def _entry_points() -> dict[str, list[metadata.EntryPoint]]:
    """Return the entry points by name; several can claim a name, zoo's own is first."""
    found: dict[str, list[metadata.EntryPoint]] = {}
    claims = metadata.entry_points(group=hookspecs.PROJECT)
    for entry_point in sorted(claims, key=lambda e: (not _is_own(_named(e)), e.value)):
        # A distribution can be listed twice (an editable install and its source tree), or under an
        # earlier name.
        known = found.setdefault(entry_point.name, [])
        if entry_point.value not in [e.value for e in known]:
            known.append(entry_point)
    return found


def _rivals(name: str) -> list[Plugin]:
    """Return the other packages that claim the name."""
    others = [_named(claim) for claim in _entry_points()[name][1:]]
    if name in disabled():
        return [_disabled(other) for other in others]
    return [_duplicate(other) for other in others]


def _named(entry_point: metadata.EntryPoint) -> Plugin:
    dist = entry_point.dist
    return Plugin(
        name=entry_point.name,
        distribution=dist.name if dist else "unknown",
        version=dist.version if dist else "unknown",
    )


def _is_own(plugin: Plugin) -> bool:
    return plugin.distribution == hookspecs.DISTRIBUTION


def _disabled(plugin: Plugin) -> Plugin:
    return replace(plugin, state="disabled", cause=f"by {DISABLE} or `no_plugin`")


def _duplicate(plugin: Plugin) -> Plugin:
    """Leave out a plugin whose name several packages claim, as the choice would be arbitrary.

    zoo's own plugins keep their names, so that no package can replace the default backbone.
    """
    rivals = sorted(_named(claim).distribution for claim in _entry_points()[plugin.name])
    if hookspecs.DISTRIBUTION in rivals:
        cause = f"the name is that of one of zoo's own plugins: {', '.join(rivals)}"
    else:
        cause = f"several packages claim this name: {', '.join(rivals)}"
    return replace(plugin, state="duplicate", cause=cause)
