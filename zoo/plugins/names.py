"""Look up backbones by name or pattern."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from zoo.backbone import Backbone, LeftOut
from zoo.errors import PluginError, UnknownBackboneError, ZooError
from zoo.plugins.foreign import explain, off_stdout
from zoo.plugins.loading import Plugin, installed, load, load_all

#: A bare name refers to the first of these that declares it, else to the only plugin that does.
PREFERRED = ("torchvision", "zoo")

_Declared = TypeVar("_Declared", Backbone, LeftOut)


def backbones(pattern: str = "*") -> list[Backbone]:
    """Return all declared backbones whose full or bare name matches, sorted by full name.

    Args:
        pattern: Shell-style pattern (`*`, `?`, `[...]`), case-insensitive; text without wildcards
            matches anywhere in the name.
    """
    return _matching(pattern, lambda plugin: plugin.backbones)


def left_out(pattern: str = "*") -> list[LeftOut]:
    """Return all `LeftOut` networks whose full or bare name matches, sorted by full name.

    Args:
        pattern: As in `backbones`.
    """
    return _matching(pattern, lambda plugin: plugin.left_out)


def get(name: str) -> Backbone:
    """Return the backbone of that name: `<plugin>/<name>`, or a bare name.

    Only the necessary plugins are loaded: one for a full name; for a bare name the preferred ones,
    then all.

    Raises:
        UnknownBackboneError: If no plugin declares it (with the nearest names), or several do.
        PluginError: If the plugin in the name, or a preferred one that might declare the bare
            name, could not be loaded.
    """
    if "/" in name:
        return _get_by_full_name(name)
    failed = None
    for preferred in (load(p) for p in PREFERRED if p in installed()):
        if _declares(preferred, name):
            return preferred.backbones[f"{preferred.name}/{name}"]
        failed = preferred if preferred.state not in ("ok", "disabled") else failed
    if failed is not None:
        raise PluginError(
            f"plugin {failed}, which may mean backbone {name!r}, can't be used: "
            f"{failed.state}: {failed.cause}",
            hint=f"give the full name, PLUGIN/{name}",
        )
    candidates = [p.backbones[f"{p.name}/{name}"] for p in load_all() if _declares(p, name)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        full_names = ", ".join(b.name for b in candidates)
        raise UnknownBackboneError(
            f"backbone {name!r} is declared by several plugins: {full_names}",
            hint="give the full name",
        )
    if (resolved := _resolved_by_any(name)) is not None:
        return resolved
    _refuse_left_out(name, load_all())
    raise _unknown(name, _nearest(name, load_all()))


def _get_by_full_name(name: str) -> Backbone:
    prefix, _, bare = name.partition("/")
    if prefix not in installed():
        if (resolved := _resolved_by_any(name)) is not None:
            return resolved
        known = ", ".join(installed()) or "none"
        raise UnknownBackboneError(
            f"no plugin {prefix!r} is installed (asked for backbone {name!r}); "
            f"installed plugins: {known}"
        )
    plugin = load(prefix)
    if plugin.state != "ok":
        raise PluginError(f"plugin {plugin} can't be used: {plugin.state}: {plugin.cause}")
    if name in plugin.backbones:
        return plugin.backbones[name]
    if (resolved := _resolved(prefix, bare)) is not None:
        return resolved
    _refuse_left_out(name, [plugin])
    raise _unknown(name, [f"{prefix}/{n}" for n in _nearest(bare, [plugin])])


def matching(name: str) -> list[Backbone]:
    """Return the backbone of that name, or all that match if it contains wildcards.

    Raises:
        UnknownBackboneError, PluginError: As in `get`; or if nothing matches.
    """
    if not any(c in name for c in "*?["):
        return [get(name)]
    found = backbones(name)
    if not found:
        raise UnknownBackboneError(f"no backbone matches {name!r}; `zoo backbones` lists all")
    return found


def _matching(pattern: str, of: Callable[[Plugin], dict[str, _Declared]]) -> list[_Declared]:
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    matches = re.compile(fnmatch.translate(pattern), re.IGNORECASE).match
    return sorted(
        (
            declared
            for plugin in load_all()
            for full_name, declared in of(plugin).items()
            if matches(full_name) or matches(full_name.partition("/")[2])
        ),
        key=lambda d: d.name,
    )


def _resolved_by_any(name: str) -> Backbone | None:
    """Resolve an undeclared name with the first plugin that accepts it."""
    found = (_resolved(plugin, name) for plugin in installed())
    return next((backbone for backbone in found if backbone is not None), None)


@functools.cache
def _resolved(plugin_name: str, name: str) -> Backbone | None:
    """Call a plugin's `zoo_resolve` for an undeclared name; None if it does not accept it.

    Raises:
        PluginError: If its hook fails, or returns something other than a backbone.
    """
    plugin = load(plugin_name)
    if plugin.hooks is None:
        return None
    try:
        with off_stdout([]):
            found = next((b for b in plugin.hooks.hook.zoo_resolve(name=name) if b), None)
    except Exception as error:
        if isinstance(error, ZooError) and not isinstance(error, PluginError):
            raise
        raise PluginError(
            f"plugin {plugin} failed while resolving backbone {name!r}: {explain(error)}"
        ) from error
    if found is not None and not isinstance(found, Backbone):
        raise PluginError(f"plugin {plugin}: zoo_resolve gave {found!r}, which is no zoo.Backbone")
    return None if found is None else replace(found, name=f"{plugin.name}/{name}")


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
