"""The variant of a backbone for an input size and for options of its own."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import replace

from zoo import plugins
from zoo.backbone import Backbone, OptionValue
from zoo.errors import OptionError, PluginError
from zoo.io.text import clip, listed
from zoo.models.channels import IN_CHANS, with_channels
from zoo.models.size import needs_resizing, resized

#: Maximum number of invalid options that a message names.
_MOST = 5


def variant(
    backbone: Backbone,
    *,
    size: int | tuple[int, int] | None = None,
    options: Mapping[str, object] | None = None,
) -> Backbone:
    """Return a backbone for another input size, if it needs to be rebuilt for it, and options.

    Raises:
        OptionError: If it does not have such options, or can't be built with them.
        SizeError: If it can't be built for that size.
        PluginError: If the plugin's code fails for another reason.
    """
    checked = check_options(backbone, options or {})
    if needs_resizing(backbone, size) and size is not None:
        backbone = resized(backbone, size)
    channels = checked.pop(IN_CHANS, None)
    configured = _configured(backbone, checked) if checked else backbone
    if not isinstance(channels, int) or channels == backbone.preprocess.channels:
        return configured
    other = _configured(backbone, {**checked, IN_CHANS: channels})
    return with_channels(configured, other, channels)


def check_options(backbone: Backbone, options: Mapping[str, object]) -> dict[str, OptionValue]:
    """Check options against their declarations; nothing is built.

    Returns:
        The options, each as a value of its type.

    Raises:
        OptionError: If there are no such options, or values have the wrong type or are out of
            range. The message names them all, and the options that there are.
    """
    checked: dict[str, OptionValue] = {}
    problems: list[str] = []
    for name, value in options.items():
        if (option := backbone.options.get(name)) is None:
            problems.append(_unknown(name, list(backbone.options)))
            continue
        try:
            checked[name] = option.checked(value)
        except ValueError as error:
            problems.append(f"{name} = {clip(repr(value), 60)} {error}")
    if problems:
        raise OptionError(
            f"options of backbone {backbone.name}: {listed(problems, _MOST)}",
            hint=f"it has {describe_options(backbone)}",
        )
    return checked


def describe_options(backbone: Backbone) -> str:
    """Describe the options of a backbone in one line."""
    described = [
        f"{name} ({option.values}, default: {default_text(option.default)})"
        for name, option in backbone.options.items()
    ]
    return ", ".join(described) or "no options"


def default_text(default: OptionValue | None) -> str:
    """Describe the default of an option."""
    return "its library's" if default is None else value_text(default)


def value_text(value: object) -> str:
    """Return the value of an option as the command line takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def options_text(options: Mapping[str, object]) -> str:
    """Return options in one line, as `drop_rate=0.1, drop_path_rate=0.2`."""
    return ", ".join(f"{name}={value_text(value)}" for name, value in options.items())


def _configured(backbone: Backbone, options: Mapping[str, OptionValue]) -> Backbone:
    if backbone.configured is None:
        return replace(backbone, build=functools.partial(backbone.build, **options))
    shown = options_text(options)
    with plugins.blame(backbone, f"could not be configured with {shown}"):
        try:
            found = backbone.configured(backbone, options)
        except ValueError as error:
            raise OptionError(
                f"backbone {backbone.name} can't be built with {shown}: {clip(str(error), 400)}"
            ) from error
    if not isinstance(found, Backbone):
        raise PluginError(
            f"{plugins.describe(backbone)}: configured gave {found!r}, not a zoo.Backbone"
        )
    return replace(found, name=backbone.name, definition=backbone.definition)


def _unknown(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"no option {clip(repr(name), 60)}" + (
        f" (did you mean {nearest[0]!r}?)" if nearest else ""
    )
