"""Call what a plugin declared, and name the plugin when that fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoo.backbone import Backbone
from zoo.errors import PluginError, ZooError
from zoo.plugins.foreign import explain, off_stdout
from zoo.plugins.loading import Plugin, found, installed

if TYPE_CHECKING:
    from torch import Tensor, nn


def build(backbone: Backbone, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Call the plugin's `build`, turning whatever it raises into an error that names the plugin.

    Raises:
        PluginError: `build` raised; its exception is the cause. zoo's errors about weights and
            files pass as they are.
    """
    arguments = f"(num_classes={num_classes}, pretrained={pretrained})"
    with blame(backbone, f"could not be built {arguments}"):
        return backbone.build(num_classes, pretrained)


def convert(backbone: Backbone, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Call the plugin's `convert`, if it has one, turning whatever it raises into a PluginError."""
    if backbone.convert is None:
        return state_dict
    with blame(backbone, "can't make sense of these weights"):
        return backbone.convert(state_dict)


def declared(plugin: Plugin, hook: str) -> Mapping[str, Any]:
    """What a plugin declares by name through a hook; nothing of one that was left out.

    Args:
        plugin: Connected.
        hook: `zoo_loggers`, `zoo_sources` ...

    Raises:
        PluginError: Its hook fails.
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


@contextmanager
def blame(backbone: Backbone, what: str) -> Iterator[None]:
    """Turn what a backbone's own code raises into an error that names its plugin.

    Args:
        backbone: Whose code is called inside.
        what: Follows the backbone's description: "could not be built".

    Raises:
        PluginError: What was raised is its cause. zoo's errors of other kinds (weights that can't
            be fetched) pass as they are.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ZooError) and not isinstance(error, PluginError):
            raise
        raise PluginError(f"{describe(backbone)} {what}: {explain(error)}") from error


def describe(backbone: Backbone) -> str:
    """The backbone for an error message: with its plugin, distribution and version.

    No plugin is loaded for it. A backbone that no plugin declared is described by its name alone.
    """
    prefix, slash, _ = backbone.name.partition("/")
    if slash and prefix in installed():
        return f"backbone {backbone.name} of plugin {found(prefix)}"
    return f"backbone {backbone.name}"
