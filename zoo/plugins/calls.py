"""Call functions that a plugin declared, and name the plugin in their errors."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.backbone import Backbone, Preprocess
from zoo.errors import PluginError, ZooError
from zoo.hookspecs import Factory
from zoo.plugins.discovery import Plugin, connect_all, found, installed
from zoo.plugins.foreign import explain, off_stdout

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

#: Hooks through which plugins declare things by name, by what these are.
NAMED = {
    "source": "zoo_sources",
    "exporter": "zoo_exporters",
    "logger": "zoo_loggers",
    "loss": "zoo_losses",
    "transform": "zoo_transforms",
}

#: Name of a JSON file of a run; in lower case, because file systems may not tell the case apart.
_FILE = re.compile(r"[a-z0-9][a-z0-9_-]*\.json")


def build(backbone: Backbone, num_classes: int | None, pretrained: bool) -> nn.Module:
    """Call the plugin's `build`, turning any exception into an error that names the plugin.

    If the backbone declares `logits`, the model applies it to the output of its forward pass. This
    is a hook, which leaves the names of parameters as they are.

    Raises:
        PluginError: If `build` raises; its exception is the cause. Other errors of zoo, such as
            WeightsError, are not changed.
    """
    arguments = f"(num_classes={num_classes}, pretrained={pretrained})"
    with blame(backbone, f"could not be built {arguments}"):
        model = backbone.build(num_classes, pretrained)
        if backbone.logits is not None:
            hook = functools.partial(_take_logits, backbone.logits, describe(backbone))
            model.register_forward_hook(hook)
        return model


def _take_logits(
    logits: Callable[[Any], Any], described: str, model: nn.Module, args: Any, output: Any
) -> Any:
    try:
        taken = logits(output)
    except Exception as error:
        raise PluginError(
            f"{described}: `logits` fails for the output of its forward pass, a "
            f"{type(output).__name__}: {explain(error)}"
        ) from error
    if taken is None:  # torch would take it for leave to return the output.
        raise PluginError(f"{described}: `logits` gives None for a {type(output).__name__}")
    return taken


def files(
    backbone: Backbone, class_names: Sequence[str], preprocess: Preprocess
) -> dict[str, dict[str, Any]]:
    """Return the JSON files that the plugin declares for a run: their contents, by name.

    Raises:
        PluginError: If `files` raises, a name is not a plain `NAME.json`, or a content is not a
            JSON object.
    """
    if backbone.files is None:
        return {}
    with blame(backbone, "could not say the files of a run"):
        declared: dict[str, Any] = dict(backbone.files(class_names, preprocess))
    for name, content in declared.items():
        if not isinstance(name, str) or not _FILE.fullmatch(name):
            raise PluginError(
                f"{describe(backbone)}: `files` has the file {name!r}",
                hint="name files NAME.json, in lower-case letters, digits, '_' and '-'",
            )
        try:
            same = json.loads(json.dumps(content, allow_nan=False)) == content
        except (TypeError, ValueError, RecursionError) as error:
            raise PluginError(
                f"{describe(backbone)}: its {name} can't be written as JSON: {explain(error)}",
                hint="use dicts, lists, text, numbers and None only",
            ) from error
        if not same or not isinstance(content, dict):
            raise PluginError(
                f"{describe(backbone)}: its {name} is other data when it is read back",
                hint="use a dict with text as keys, and lists instead of tuples",
            )
    return declared


def convert(backbone: Backbone, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Call the plugin's `convert`, if it has one, turning any exception into a PluginError."""
    if backbone.convert is None:
        return state_dict
    with blame(backbone, "can't make sense of these weights"):
        return backbone.convert(state_dict)


def declared(plugin: Plugin, hook: str) -> Mapping[str, Any]:
    """Return what a plugin declares by name through a hook; empty if the plugin was left out.

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
                found.update(each if isinstance(each, Mapping) else _by_name(each))
    except Exception as error:
        what = hook.removeprefix("zoo_").replace("_", " ")
        raise PluginError(
            f"plugin {plugin} failed while listing {what}: {explain(error)}"
        ) from error
    return found


def _by_name(factories: Iterable[object]) -> dict[str, Factory]:
    found: dict[str, Factory] = {}
    for each in factories:
        if not isinstance(each, Factory):
            raise PluginError(f"it gave {each!r}, not a zoo.Factory")
        if each.name in found:
            raise PluginError(f"{each.name} is declared twice")
        found[each.name] = each
    return found


def implements(plugin: Plugin, hook: str) -> bool:
    """Return whether a plugin implements a hook; False if it was left out."""
    return plugin.hooks is not None and bool(getattr(plugin.hooks.hook, hook).get_hookimpls())


def declared_as(hook: str, name: str) -> Any:
    """What is declared by that name through a hook, by whatever plugin.

    Raises:
        PluginError: As `declarer`.
    """
    return declarer(hook, name)[1]


def declarer(hook: str, name: str) -> tuple[Plugin, Any]:
    """Return the plugin that declares something by that name through a hook, and what it declares.

    A plugin whose hook fails is skipped, and named if no other one declares the name.

    Raises:
        PluginError: No plugin declares it, or several do.
    """
    what = next(what for what, each in NAMED.items() if each == hook)
    kinds = hook.removeprefix("zoo_")
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
            f"no {what} {name!r} is installed; installed {kinds}: {listed}{''.join(failures)}"
        )
    owners = known[name]
    if len(owners) > 1:
        claimants = ", ".join(str(plugin) for plugin, _ in owners)
        raise PluginError(f"several plugins declare {what} {name!r}: {claimants}")
    return owners[0]


def make(what: str, function: Callable[[], T]) -> T:
    """Call a function without arguments that a plugin declared, such as that of a logger.

    Args:
        what: What it creates, for messages, such as "logger acme".
        function: The function.

    Raises:
        PluginError: It raises; for a ModuleNotFoundError, the package to install is named.
    """
    try:
        return function()
    except ModuleNotFoundError as error:
        missing = error.name
        raise PluginError(
            f"{what} needs {missing}, which is not installed: pip install {missing}"
        ) from error
    except Exception as error:
        raise PluginError(f"{what} failed: {explain(error)}") from error


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
