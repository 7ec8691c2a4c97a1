"""`zoo plugins`."""

from __future__ import annotations

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, print_table, text
from zoo.cli.words import echo_json


@click.command("plugins", short_help="List the plugins found, and why any was left out.")
@format_option("table", "json")
def command(form: str) -> None:
    """List every plugin found: its backbones and package, or why it was left out.

    A plugin can be left out on purpose: by `zoo --no-plugin NAME COMMAND`, or for all commands by
    ZOO_DISABLE_PLUGINS=NAME,NAME in the environment. One that is still loading after 60 seconds,
    or as many as ZOO_PLUGIN_TIMEOUT says, is left out.
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
                "cause": p.cause,
                "backbones": len(p.backbones),
                "left_out": len(p.left_out),
                "printed": p.printed,
            }
            for p in found
        ]
        echo_json(listed)
        return
    rows = []
    for p in found:
        state = f"{len(p.backbones)} backbones" if p.state == "ok" else f"{p.state}: {p.cause}"
        left_out = f", {len(p.left_out)} left out" if p.left_out else ""
        rows.append((p.name, f"{p.distribution} {p.version}", f"{state}{left_out}"))
        if p.printed:
            rows.append(("", "", f"printed while loading: {p.printed}"))
    print_table([label(), text(), text()], rows)
