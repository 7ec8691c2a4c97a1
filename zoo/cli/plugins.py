"""`zoo plugins`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, print_table, text
from zoo.cli.words import echo_json, with_flags
from zoo.errors import PluginError
from zoo.io.text import count

if TYPE_CHECKING:
    from zoo.plugins import Plugin

#: Other hooks, and how the table calls what they bring.
OTHERS = {"weights": "sources of weights", "resolve": "names on request"}


@click.command("plugins", short_help="List the plugins found, and why any was left out.")
@format_option("table", "json")
def command(form: str) -> None:
    """List every plugin found: what it brings, and its package, or why it was left out.

    Beside backbones, a plugin brings sources (`--data`), exporters (`zoo export --to`), loggers
    (`--logger`), losses (`--loss`) and transforms (`--transform`). With "sources of weights" it
    declares where the pretrained weights of any backbone are; with "names on request" it resolves
    names that are not listed, such as hub ids.

    To leave out a plugin, use `zoo --no-plugin NAME COMMAND` or, for all commands, set
    ZOO_DISABLE_PLUGINS=NAME,NAME in the environment.
    """
    from zoo import plugins

    found = plugins.load_all()
    if form == "json":
        listed = []
        for p in found:
            brings, failures = _declared(p)
            listed.append(
                {
                    "name": p.name,
                    "distribution": p.distribution,
                    "version": p.version,
                    "state": p.state,
                    "cause": with_flags(p.cause),
                    "backbones": len(p.backbones),
                    "left_out": len(p.left_out),
                    **{kind: sorted(declared) for kind, declared in brings.items()},
                    **{hook: plugins.implements(p, f"zoo_{hook}") for hook in OTHERS},
                    "failures": failures,
                    "printed": p.printed,
                }
            )
        echo_json(listed)
        return
    rows = []
    for p in found:
        rows.append((p.name, f"{p.distribution} {p.version}", _state(p)))
        if p.printed:
            rows.append(("", "", f"printed while loading: {p.printed}"))
    print_table([label(), text(), text()], rows)


def _declared(plugin: Plugin) -> tuple[dict[str, Mapping[str, object]], list[str]]:
    """Return what it declares besides backbones, by kind and name, and why hooks failed."""
    from zoo import plugins

    brings: dict[str, Mapping[str, object]] = {}
    failures = []
    for hook in plugins.NAMED.values():
        kind = hook.removeprefix("zoo_")
        brings[kind] = {}
        try:
            brings[kind] = plugins.declared(plugin, hook)
        except PluginError as error:
            failures.append(str(error))
    return brings, failures


def _state(plugin: Plugin) -> str:
    from zoo import plugins

    if plugin.state != "ok":
        return f"{plugin.state}: {with_flags(plugin.cause)}"
    brings, failures = _declared(plugin)
    parts = [
        f"{what} {name}" + (f" ({summary})" if summary else "")
        for what, hook in plugins.NAMED.items()
        for name, each in sorted(brings[hook.removeprefix("zoo_")].items())
        for summary in (getattr(each, "summary", ""),)
    ]
    parts += [what for hook, what in OTHERS.items() if plugins.implements(plugin, f"zoo_{hook}")]
    if plugin.backbones or not (parts or failures):
        parts.insert(0, count(len(plugin.backbones), "backbone"))
    if plugin.left_out:
        parts.append(f"{len(plugin.left_out)} left out")
    return ", ".join([*parts, *failures])
