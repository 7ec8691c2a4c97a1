"""`zoo backbones`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, print_table, text
from zoo.cli.words import echo

if TYPE_CHECKING:
    from zoo.backbone import Backbone


@click.command("backbones", short_help="List the available backbones.")
@click.argument("pattern", default="*")
@format_option("table", "json")
def command(pattern: str, form: str) -> None:
    """List the backbones whose name matches PATTERN: part of a name, or with * and ?.

    Networks of a plugin's library that can't be fine-tuned are listed on stderr, with the reason.

    \b
      zoo backbones resnet
      zoo backbones 'timm/vit_*_224' --format json
    """
    from zoo import plugins

    found = plugins.backbones(pattern)
    if form == "json":
        echo(
            json.dumps(
                [
                    {
                        "name": b.name,
                        "head": list(b.head_paths),
                        "input_size": list(b.preprocess.height_width),
                        "weights": b.weights.place if b.weights else None,
                        "license": b.weights.license if b.weights else None,
                    }
                    for b in found
                ],
                indent=2,
            )
        )
    else:
        print_table([text(), label(), text()], [_row(b) for b in found])
        echo(f"{len(found)} backbones", err=True)
    for network in plugins.left_out(pattern):
        echo(f"- {network.name} is no backbone: {network.reason}", err=True)
    for plugin in plugins.load_all():
        if plugin.state not in ("ok", "disabled"):
            echo(f"! plugin {plugin} was left out: {plugin.state}: {plugin.cause}", err=True)


def _row(backbone: Backbone) -> tuple[str, str, str]:
    weights = backbone.weights
    licence = (weights.license or "licence not stated") if weights else "no weights"
    return backbone.name, "x".join(map(str, backbone.preprocess.height_width)), licence
