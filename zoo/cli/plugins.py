"""`zoo plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, print_table, text
from zoo.cli.words import count, echo_json, with_flags

if TYPE_CHECKING:
    from zoo.plugins import Plugin

#: What plugins declare by name besides backbones, each through a hook zoo_KIND.
KINDS = ("sources", "loggers", "exporters")


@click.command("plugins", short_help="List the plugins found, and why any was left out.")
@format_option("table", "json")
def command(form: str) -> None:
    """List every plugin found: its backbones and package, or why it was left out.

    To leave out a plugin, use `zoo --no-plugin NAME COMMAND` or, for all commands, set
    ZOO_DISABLE_PLUGINS=NAME,NAME in the environment.
    """
    from zoo import plugins

    found = plugins.load_all()
    if form == "json":
        listed = [
            {
                "name": p.name,
                "distribution": p.distribution,
                "version": p.version,
                "state": p.state,
                "cause": with_flags(p.cause),
                "backbones": len(p.backbones),
                "left_out": len(p.left_out),
                **_declared(p),
                "printed": p.printed,
            }
            for p in found
        ]
        echo_json(listed)
        return
    rows = []
    for p in found:
        rows.append((p.name, f"{p.distribution} {p.version}", _state(p)))
        if p.printed:
            rows.append(("", "", f"printed while loading: {p.printed}"))
    print_table([label(), text(), text()], rows)


def _declared(plugin: Plugin) -> dict[str, list[str]]:
    """Return the names of what the plugin declares besides backbones, by kind."""
    from zoo import plugins

    return {kind: sorted(plugins.declared(plugin, f"zoo_{kind}")) for kind in KINDS}


def _state(plugin: Plugin) -> str:
    if plugin.state != "ok":
        return f"{plugin.state}: {with_flags(plugin.cause)}"
    parts = [f"{kind[:-1]} {name}" for kind, names in _declared(plugin).items() for name in names]
    if plugin.backbones or not parts:
        parts.insert(0, count(len(plugin.backbones), "backbone"))
    if plugin.left_out:
        parts.append(f"{len(plugin.left_out)} left out")
    return ", ".join(parts)
