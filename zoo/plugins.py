"""Find plugins, load each on its own, report those that fail: one broken neighbour hurts nobody.

pluggy alone stops at the first entry point that fails to import, loses all results when one hook
raises, and accepts misspelt hooks; so every entry point gets a plugin manager of its own here.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Literal

import pluggy

from zoo import hookspecs
from zoo.backbone import Backbone, LeftOut
from zoo.errors import PluginError, UnknownBackboneError, ZooError

if TYPE_CHECKING:
    from torch import Tensor, nn

State = Literal["ok", "missing dependency", "broken", "duplicate", "disabled"]

#: Environment variable with the names, separated by commas, of plugins to leave out.
DISABLE = "ZOO_DISABLE_PLUGINS"

#: A bare name means the first of these that declares it, else the only plugin that does.
PREFERRED = ("torchvision", "zoo")

#: What a backbone's bare name looks like.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A plugin as found on this machine.

    Attributes:
        name: Its entry-point name, the prefix of its backbones' full names.
        distribution: The installed package it comes from.
        version: That package's version.
        state: `ok`, or why it was left out.
        cause: The failure in words, empty if ok.
        backbones: What it declares, by full name.
        left_out: What its library has and it does not declare, by full name.
        hooks: Its hook manager; None if it was left out itself.
    """

    name: str
    distribution: str
    version: str
    state: State = "ok"
    cause: str = ""
    backbones: dict[str, Backbone] = field(default_factory=dict)
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    hooks: pluggy.PluginManager | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


def backbones(pattern: str = "*") -> list[Backbone]:
    """All declared backbones whose full or bare name matches, sorted by full name.

    Args:
        pattern: Shell-style (`*`, `?`, `[...]`), case-insensitive; text without wildcards matches
            anywhere in the name.
    """
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    matches = re.compile(fnmatch.translate(pattern), re.IGNORECASE).match
    return sorted(
        (
            backbone
            for plugin in load_all()
            for full_name, backbone in plugin.backbones.items()
            if matches(full_name) or matches(full_name.partition("/")[2])
        ),
        key=lambda b: b.name,
    )


def get(name: str) -> Backbone:
    """The backbone of that name: `<plugin>/<name>`, or a bare name.

    Only the plugins that must be asked are loaded: one for a full name; for a bare name the
    preferred ones, then all.

    Raises:
        UnknownBackboneError: No plugin declares it (with the nearest names), or several do.
        PluginError: The plugin that is asked for by name, or a preferred one that might declare
            the bare name, could not be loaded.
    """
    prefix, slash, bare = name.partition("/")
    if slash:
        if prefix not in _entry_points():
            known = ", ".join(sorted(_entry_points())) or "none"
            raise UnknownBackboneError(
                f"no plugin {prefix!r} is installed (asked for backbone {name!r}); "
                f"installed plugins: {known}"
            )
        plugin = load(prefix)
        if plugin.state != "ok":
            raise PluginError(f"plugin {plugin} can't be used: {plugin.state}: {plugin.cause}")
        if name in plugin.backbones:
            return plugin.backbones[name]
        _refuse_left_out(name, [plugin])
        raise _unknown(name, [f"{prefix}/{n}" for n in _nearest(bare, [plugin])])
    failed = None
    for preferred in (load(p) for p in PREFERRED if p in _entry_points()):
        if _declares(preferred, name):
            return preferred.backbones[f"{preferred.name}/{name}"]
        failed = preferred if preferred.state not in ("ok", "disabled") else failed
    if failed is not None:
        raise PluginError(
            f"plugin {failed}, which may mean backbone {name!r}, can't be used: "
            f"{failed.state}: {failed.cause}; give the full name, PLUGIN/{name}"
        )
    candidates = [p.backbones[f"{p.name}/{name}"] for p in load_all() if _declares(p, name)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        full_names = ", ".join(b.name for b in candidates)
        raise UnknownBackboneError(
            f"backbone {name!r} is declared by several plugins: {full_names}; give the full name"
        )
    _refuse_left_out(name, load_all())
    raise _unknown(name, _nearest(name, load_all()))


def of(name: str) -> list[Plugin]:
    """The plugins of that entry-point name or distribution, loaded.

    Raises:
        PluginError: There is none, or one of them could not be loaded.
    """
    found = [
        load(entry_point)
        for entry_point, points in sorted(_entry_points().items())
        if name == entry_point or name in [p.dist.name for p in points if p.dist]
    ]
    if not found:
        known = ", ".join(sorted(_entry_points())) or "none"
        raise PluginError(f"no plugin {name!r} is installed; installed plugins: {known}")
    for plugin in found:
        if plugin.state != "ok":
            raise PluginError(f"plugin {plugin} can't be used: {plugin.state}: {plugin.cause}")
    return found


def matching(name: str) -> list[Backbone]:
    """The backbone of that name, or those that match it if it holds wildcards.

    Raises:
        UnknownBackboneError, PluginError: As `get`; or nothing matches.
    """
    if not any(c in name for c in "*?["):
        return [get(name)]
    found = backbones(name)
    if not found:
        raise UnknownBackboneError(f"no backbone matches {name!r}; `zoo backbones` lists all")
    return found


def load_all() -> list[Plugin]:
    """Every plugin found, those that were left out included, sorted by name."""
    return [load(name) for name in sorted(_entry_points())]


@functools.cache
def load(name: str) -> Plugin:
    """The plugin behind the entry point of that name, loaded once per process.

    Whatever goes wrong in the plugin's code is its `state` and `cause`, never an exception.
    """
    entry_point, *others = _entry_points()[name]
    dist = entry_point.dist
    plugin = Plugin(
        name=name,
        distribution=dist.name if dist else "unknown",
        version=dist.version if dist else "unknown",
    )
    if name in disabled():
        return replace(plugin, state="disabled", cause=f"by {DISABLE} or --no-plugin")
    if others:
        rivals = ", ".join(sorted(e.dist.name for e in (entry_point, *others) if e.dist))
        return replace(
            plugin, state="duplicate", cause=f"several packages claim this name: {rivals}"
        )
    try:
        return _call(plugin, entry_point)
    except ImportError as error:
        return replace(plugin, state="missing dependency", cause=_describe(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code raises anything
        return replace(plugin, state="broken", cause=_describe(error))


def disabled() -> list[str]:
    """Names of the plugins to leave out."""
    return [name.strip() for name in os.environ.get(DISABLE, "").split(",") if name.strip()]


def disable(names: Sequence[str]) -> None:
    """Leave plugins out, in this process and those it starts.

    Raises:
        PluginError: There is no plugin of that name.
    """
    for name in names:
        if name not in _entry_points():
            known = ", ".join(sorted(_entry_points())) or "none"
            raise PluginError(f"no plugin {name!r} to leave out; installed plugins: {known}")
    os.environ[DISABLE] = ",".join([*disabled(), *names])


def build(backbone: Backbone, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Call the plugin's `build`, turning whatever it raises into an error that names the plugin.

    Raises:
        PluginError: `build` raised; its exception is the cause. Errors of zoo pass as they are.
    """
    try:
        return backbone.build(num_classes, pretrained)
    except ZooError:
        raise
    except Exception as error:
        raise PluginError(
            f"backbone {backbone.name} could not be built "
            f"(num_classes={num_classes}, pretrained={pretrained}): {_describe(error)}"
        ) from error


def convert(backbone: Backbone, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Call the plugin's `convert`, if it has one, turning whatever it raises into a PluginError."""
    if backbone.convert is None:
        return state_dict
    try:
        return backbone.convert(state_dict)
    except Exception as error:
        raise PluginError(
            f"backbone {backbone.name} can't make sense of these weights: {_describe(error)}"
        ) from error


def _call(plugin: Plugin, entry_point: metadata.EntryPoint) -> Plugin:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(entry_point.load(), name=entry_point.name)
    manager.check_pending()
    declared: dict[str, Backbone] = {}
    left_out: dict[str, LeftOut] = {}
    for each in (b for result in manager.hook.zoo_backbones() for b in result):
        if not isinstance(each, Backbone | LeftOut):
            raise PluginError(f"zoo_backbones gave {each!r}, which is no zoo.Backbone")
        if not NAME.fullmatch(each.name):
            raise PluginError(
                f"backbone name {each.name!r}: use letters, digits, '.', '_' and '-' only"
            )
        full_name = f"{entry_point.name}/{each.name}"
        if full_name in declared or full_name in left_out:
            raise PluginError(f"backbone {full_name} is declared twice")
        if isinstance(each, Backbone):
            declared[full_name] = replace(each, name=full_name)
        else:
            left_out[full_name] = replace(each, name=full_name)
    return replace(plugin, backbones=declared, left_out=left_out, hooks=manager)


@functools.cache
def _entry_points() -> dict[str, list[metadata.EntryPoint]]:
    found: dict[str, list[metadata.EntryPoint]] = {}
    for entry_point in metadata.entry_points(group=hookspecs.PROJECT):
        # One distribution can be seen twice (an editable install beside its own source tree).
        known = found.setdefault(entry_point.name, [])
        if entry_point.value not in [e.value for e in known]:
            known.append(entry_point)
    return found


def _declares(plugin: Plugin, bare_name: str) -> bool:
    return f"{plugin.name}/{bare_name}" in plugin.backbones


def _refuse_left_out(name: str, among: list[Plugin]) -> None:
    for plugin in among:
        for full_name, left_out in plugin.left_out.items():
            if name in (full_name, full_name.partition("/")[2]):
                raise UnknownBackboneError(f"{full_name} is no backbone: {left_out.reason}")


def _nearest(bare_name: str, among: list[Plugin]) -> list[str]:
    bare_names = sorted({n.partition("/")[2] for p in among for n in p.backbones})
    return difflib.get_close_matches(bare_name, bare_names, n=5, cutoff=0.6)


def _unknown(name: str, nearest: list[str]) -> UnknownBackboneError:
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    left_out = "".join(
        f"\nplugin {p} was left out: {p.state}: {p.cause}" for p in load_all() if p.state != "ok"
    )
    return UnknownBackboneError(
        f"no backbone named {name!r}{hint}; `zoo backbones` lists all{left_out}"
    )


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]
