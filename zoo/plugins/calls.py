"""Call functions that a plugin declared, and name the plugin in their errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoo.backbone import Backbone
from zoo.errors import PluginError, ZooError
from zoo.plugins.foreign import explain, off_stdout
from zoo.plugins.loading import Plugin, connect_all, found, installed

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(backbone: Backbone, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Call the plugin's `build`, turning any exception into an error that names the plugin.

    Raises:
        PluginError: If `build` raises; its exception is the cause. Other errors of zoo, such as
            WeightsError, are not changed.
    """
    arguments = f"(num_classes={num_classes}, pretrained={pretrained})"
    with blame(backbone, f"could not be built {arguments}"):
        return backbone.build(num_classes, pretrained)


def convert(backbone: Backbone, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Call the plugin's `convert`, if it has one, turning any exception into a PluginError."""
    if backbone.convert is None:
        return state_dict
    with blame(backbone, "can't make sense of these weights"):
        return backbone.convert(state_dict)


def declared(plugin: Plugin, hook: str) -> Mapping[str, Any]:
    """Return what a plugin declares by name through a hook; empty if the plugin was left out.

    Args:
        plugin: A plugin from `connect`.
        hook: Name of the hook: `zoo_loggers`, `zoo_sources` ...

    Raises:
        PluginError: If its hook fails.
    """
    if plugin.hooks is None:
        return {}
    found: dict[str, Any] = {}
    printed: list[str] = []
    try:
        with off_stdout(printed):
            for each in getattr(plugin.hooks.hook, hook)():
                found.update(each)
    except Exception as error:
        what = hook.removeprefix("zoo_").replace("_", " ")
        raise PluginError(
            f"plugin {plugin} failed while listing {what}: {explain(error)}"
        ) from error
    return found


def implements(plugin: Plugin, hook: str) -> bool:
    """Return whether a plugin implements a hook; False if it was left out."""
    return plugin.hooks is not None and bool(getattr(plugin.hooks.hook, hook).get_hookimpls())


def declared_as(hook: str, name: str) -> Any:
    """What is declared by that name through a hook, by whatever plugin.

    A plugin whose hook fails is passed over, and named if no other one declares the name.

    Args:
        hook: `zoo_loggers`, `zoo_exporters` ...
        name: As users give it.

    Raises:
        PluginError: No plugin declares it, or several do.
    """
    what = hook.removeprefix("zoo_").removesuffix("s").replace("_", " ")
    known: dict[str, list[tuple[Plugin, Any]]] = {}
    failures = []
    for plugin in connect_all():
        try:
            for each, value in declared(plugin, hook).items():
                known.setdefault(each, []).append((plugin, value))
        except PluginError as error:
            failures.append(f"\n{error}")
    if name not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise PluginError(
            f"no {what} {name!r} is installed; installed {what}s: {listed}{''.join(failures)}"
        )
    owners = known[name]
    if len(owners) > 1:
        claimants = ", ".join(str(plugin) for plugin, _ in owners)
        raise PluginError(f"several plugins declare {what} {name!r}: {claimants}")
    return owners[0][1]


@contextmanager
def blame(backbone: Backbone, what: str) -> Iterator[None]:
    """Turn exceptions of a backbone's own code into an error that names its plugin.

    Args:
        backbone: The backbone whose code is called inside.
        what: Follows the backbone's description in the message: "could not be built".

    Raises:
        PluginError: If the code raises; its exception is the cause. Other errors of zoo (weights
            that can't be downloaded) are not changed.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ZooError) and not isinstance(error, PluginError):
            raise
        raise PluginError(f"{describe(backbone)} {what}: {explain(error)}") from error


def describe(backbone: Backbone) -> str:
    """Describe a backbone for an error message, with its plugin, distribution and version.

    No plugin is loaded. A backbone that no plugin declared is described by its name alone.
    """
    prefix, slash, _ = backbone.name.partition("/")
    if slash and prefix in installed():
        return f"backbone {backbone.name} of plugin {found(prefix)}"
    return f"backbone {backbone.name}"
