"""`zoo plugins`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, print_table, text
from zoo.cli.words import count, echo_json

if TYPE_CHECKING:
    from zoo.plugins import Plugin


@click.command("plugins", short_help="List the plugins found, and why any was left out.")
@format_option("table", "json")
def command(form: str) -> None:
    """List every plugin found: its backbones and package, or why it was left out.

    A plugin can be left out on purpose: by `zoo --no-plugin NAME COMMAND`, or for all commands by
    ZOO_DISABLE_PLUGINS=NAME,NAME in the environment. One that is still loading after 60 seconds,
    or as many as ZOO_PLUGIN_TIMEOUT says, is left out.
    """
    from zoo import loggers, plugins

    found = plugins.load_all()
    if form == "json":
        listed = [
            {
                "name": p.name,
                "distribution": p.distribution,
                "version": p.version,
                "state": p.state,
                "cause": p.cause,
                "backbones": len(p.backbones),
                "left_out": len(p.left_out),
                "loggers": sorted(loggers.declared(p)),
                "printed": p.printed,
            }
            for p in found
        ]
        echo_json(listed)
        return
    rows = []
    for p in found:
        rows.append((p.name, f"{p.distribution} {p.version}", _state(p, loggers.declared(p))))
        if p.printed:
            rows.append(("", "", f"printed while loading: {p.printed}"))
    print_table([label(), text(), text()], rows)


def _state(plugin: Plugin, loggers: Iterable[str]) -> str:
    if plugin.state != "ok":
        return f"{plugin.state}: {plugin.cause}"
    parts = [f"logger {name}" for name in sorted(loggers)]
    if plugin.backbones or not parts:
        parts.insert(0, count(len(plugin.backbones), "backbone"))
    if plugin.left_out:
        parts.append(f"{len(plugin.left_out)} left out")
    return ", ".join(parts)
