"""Look up backbones by name or pattern."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from zoo.backbone import Backbone, LeftOut
from zoo.errors import PluginError, UnknownBackboneError, ZooError
from zoo.plugins.calls import blame
from zoo.plugins.discovery import Plugin, installed, load, load_all
from zoo.plugins.foreign import explain, off_stdout

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
    """Return all `LeftOut` networks whose full or bare name matches, sorted by full name."""
    return _matching(pattern, lambda plugin: plugin.left_out)


def published(pattern: str = "*") -> list[Backbone]:
    """Return the matching backbones with each of their published weights, sorted by full name.

    A backbone without tags is returned as it is.

    Raises:
        PluginError: If a plugin fails to declare a backbone with one of its tags.
    """
    matches = matcher(pattern)
    found = []
    for plugin in load_all():
        for backbone in plugin.backbones.values():
            for tag in backbone.tagged or ("",):
                name = f"{backbone.name}.{tag}" if tag else backbone.name
                if matches(name) or matches(name.partition("/")[2]):
                    found.append(with_tag(backbone, tag) if tag else backbone)
    return sorted(found, key=lambda b: b.name)


def get(name: str, definition: Mapping[str, Any] | None = None) -> Backbone:
    """Return the backbone of that name: `<plugin>/<name>`, or a bare name.

    `<name>.<tag>` selects other published weights of it. Names that no plugin declares, such as
    `hf-hub:OWNER/NAME` and `local-dir:PATH`, are resolved by the plugins.

    Only the necessary plugins are loaded: one for a full name; for a bare name the preferred ones,
    then all.

    Args:
        name: The name.
        definition: `Backbone.definition` of the backbone that the name was resolved to, if a run
            keeps it.

    Raises:
        UnknownBackboneError: If no plugin declares it (with the nearest names), or several do.
        PluginError: If the plugin in the name, or a preferred one that might declare the bare
            name, could not be loaded.
    """
    if "/" in name:
        return _get_by_full_name(name, definition)
    failed = None
    for preferred in (load(p) for p in PREFERRED if p in installed()):
        if (declared := _declared(preferred, name)) is not None:
            return declared
        failed = preferred if preferred.state not in ("ok", "disabled") else failed
    if failed is not None:
        raise PluginError(
            f"plugin {failed}, which may mean backbone {name!r}, can't be used: "
            f"{failed.state}: {failed.cause}",
            hint=f"give the full name, PLUGIN/{name}",
        )
    candidates = [b for p in load_all() if (b := _declared(p, name)) is not None]
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
    _refuse_tag(name, load_all())
    raise _unknown(name, _nearest(name, load_all()))


def _get_by_full_name(name: str, definition: Mapping[str, Any] | None) -> Backbone:
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
    if (declared := _declared(plugin, bare)) is not None:
        return declared
    if (found := _resolved(prefix, bare, definition)) is not None:
        return _usable(name, [found])
    _refuse_left_out(name, [plugin])
    _refuse_tag(bare, [plugin])
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
        raise UnknownBackboneError(
            f"no backbone matches {name!r}", hint="`zoo backbones` lists all"
        )
    return found


def _matching(pattern: str, of: Callable[[Plugin], dict[str, _Declared]]) -> list[_Declared]:
    matches = matcher(pattern)
    return sorted(
        (
            declared
            for plugin in load_all()
            for full_name, declared in of(plugin).items()
            if matches(full_name) or matches(full_name.partition("/")[2])
        ),
        key=lambda d: d.name,
    )


def matcher(pattern: str) -> Callable[[str], object]:
    """Return a function that compares a name with a pattern as for `backbones`."""
    if not any(c in pattern for c in "*?["):
        pattern = f"*{pattern}*"
    return re.compile(fnmatch.translate(pattern), re.IGNORECASE).match


def _resolved_by_any(name: str) -> Backbone | None:
    """Resolve an undeclared name with the first plugin that accepts it."""
    found = [each for plugin in installed() if (each := _resolved(plugin, name, None)) is not None]
    return _usable(name, found) if found else None


def _usable(name: str, found: Sequence[Backbone | LeftOut]) -> Backbone:
    """Return the first backbone among what a name was resolved to.

    Raises:
        UnknownBackboneError: If there is none, with the reasons of the plugins.
    """
    for each in found:
        if isinstance(each, Backbone):
            return each
    reasons = "; ".join(each.reason for each in found if isinstance(each, LeftOut))
    raise UnknownBackboneError(f"{name} is not a backbone: {reasons}")


def _resolved(
    plugin_name: str, name: str, definition: Mapping[str, Any] | None
) -> Backbone | LeftOut | None:
    """Call a plugin's `zoo_resolve` for an undeclared name; None if it does not accept it.

    Raises:
        PluginError: If its hook fails, or returns something other than a backbone.
    """
    plugin = load(plugin_name)
    if plugin.hooks is None:
        return None
    hook = plugin.hooks.hook.zoo_resolve
    try:
        with off_stdout([]):
            found = next((b for b in hook(name=name, definition=definition) if b), None)
    except Exception as error:
        if isinstance(error, ZooError) and not isinstance(error, PluginError):
            raise
        raise PluginError(
            f"plugin {plugin} failed while resolving backbone {name!r}: {explain(error)}"
        ) from error
    if found is not None and not isinstance(found, Backbone | LeftOut):
        raise PluginError(f"plugin {plugin}: zoo_resolve gave {found!r}, not a zoo.Backbone")
    return None if found is None else replace(found, name=f"{plugin.name}/{found.name}")


def _declared(plugin: Plugin, bare_name: str) -> Backbone | None:
    """Return the plugin's backbone of that name, which may end in a tag; None if there is none."""
    full_name = f"{plugin.name}/{bare_name}"
    if full_name in plugin.backbones:
        return plugin.backbones[full_name]
    untagged, _, tag = full_name.rpartition(".")
    backbone = plugin.backbones.get(untagged)
    return None if backbone is None or tag not in backbone.tagged else with_tag(backbone, tag)


@functools.cache
def _with_tag(full_name: str, tag: str) -> Backbone:
    backbone = load(full_name.partition("/")[0]).backbones[full_name]
    with blame(backbone, f"could not be declared with tag {tag}"):
        declared = backbone.tagged[tag]()
    if not isinstance(declared, Backbone):
        raise PluginError(f"backbone {full_name}: tag {tag} gave {declared!r}, not a zoo.Backbone")
    return replace(declared, name=f"{full_name}.{tag}")


def with_tag(backbone: Backbone, tag: str) -> Backbone:
    """Return a declared backbone with the published weights of one of its tags.

    Raises:
        PluginError: If the plugin fails to declare it.
    """
    return _with_tag(backbone.name, tag)


def _refuse_left_out(name: str, among: list[Plugin]) -> None:
    for plugin in among:
        for full_name, left_out in plugin.left_out.items():
            if name in (full_name, full_name.partition("/")[2]):
                raise UnknownBackboneError(f"{full_name} is not a backbone: {left_out.reason}")


def _refuse_tag(bare_name: str, among: list[Plugin]) -> None:
    """Raise an error that lists the tags, if only the tag of a name is unknown."""
    untagged, _, tag = bare_name.rpartition(".")
    declared = [plugin.backbones.get(f"{plugin.name}/{untagged}") for plugin in among]
    found = [backbone for backbone in declared if backbone is not None]
    if found:
        tags = "; ".join(f"tags of {b.name}: {', '.join(b.tagged) or 'none'}" for b in found)
        raise UnknownBackboneError(f"no weights of {untagged} have the tag {tag!r}", hint=tags)


def _nearest(bare_name: str, among: list[Plugin]) -> list[str]:
    bare_names = sorted({n.partition("/")[2] for p in among for n in p.backbones})
    return difflib.get_close_matches(bare_name, bare_names, n=5, cutoff=0.6)


def _unknown(name: str, nearest: list[str]) -> UnknownBackboneError:
    left_out = "".join(
        f"\nplugin {p} was left out: {p.state}: {p.cause}" for p in load_all() if p.state != "ok"
    )
    close = f"nearest: {', '.join(nearest)}; " if nearest else ""
    return UnknownBackboneError(
        f"no backbone named {name!r}{left_out}", hint=f"{close}`zoo backbones` lists all"
    )
