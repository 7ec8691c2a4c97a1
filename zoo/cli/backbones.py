"""`zoo backbones`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, number, print_table, text
from zoo.cli.words import count, echo, echo_json

if TYPE_CHECKING:
    from zoo.backbone import Backbone, Weights


@click.command("backbones", short_help="List the available backbones.")
@click.argument("pattern", default="*")
@click.option(
    "--weights",
    "tags",
    is_flag=True,
    help="List all published weights of each backbone, as NAME.TAG, with their training data.",
)
@format_option("table", "json")
def command(pattern: str, tags: bool, form: str) -> None:
    """List the backbones whose name matches PATTERN: part of a name, or with * and ?.

    Without a tag, NAME means the library's default weights. Networks of a plugin's library that
    can't be fine-tuned are listed on stderr, with the reason.

    \b
      zoo backbones resnet
      zoo backbones --weights resnet50                  weights: --backbone resnet50.a1_in1k
      zoo backbones 'timm/vit_*_224' --format json
    """
    from zoo import plugins

    found = plugins.published(pattern) if tags else plugins.backbones(pattern)
    if form == "json":
        echo_json([_about(backbone) for backbone in found])
    elif tags:
        columns = [text("backbone"), label("input"), number("classes"), text("trained on")]
        columns += [text("licence"), label("here")]
        print_table(columns, [_weights_row(backbone) for backbone in found])
        echo(count(len(found), "set") + " of weights", err=True)
    else:
        print_table([text(), label(), text()], [_row(b) for b in found])
        echo(count(len(found), "backbone"), err=True)
    for network in plugins.left_out(pattern):
        echo(f"- {network.name} is no backbone: {network.reason}", err=True)
    for plugin in plugins.load_all():
        if plugin.state not in ("ok", "disabled"):
            echo(f"! plugin {plugin} was left out: {plugin.state}: {plugin.cause}", err=True)


def _about(backbone: Backbone) -> dict[str, Any]:
    weights = backbone.weights
    return {
        "name": backbone.name,
        "head": list(backbone.head_paths),
        "input_size": list(backbone.preprocess.height_width),
        "preprocess": backbone.preprocess.to_dict(),
        "tags": list(backbone.tagged),
        "tag": weights.tag if weights else None,
        "weights": weights.place if weights else None,
        "sha256": weights.sha256 if weights else None,
        "license": weights.license if weights else None,
        "data": weights.data if weights else None,
        "classes": weights.num_classes if weights else None,
        "metrics": dict(weights.metrics) if weights else {},
        "here": _is_here(weights),
    }


def _row(backbone: Backbone) -> tuple[str, str, str]:
    weights = backbone.weights
    licence = (weights.license or "licence not stated") if weights else "no weights"
    return backbone.name, _input_size(backbone), licence


def _weights_row(backbone: Backbone) -> tuple[str, ...]:
    weights = backbone.weights
    if weights is None:
        return backbone.name, _input_size(backbone), "", "no weights", "", ""
    classes = "" if weights.num_classes is None else str(weights.num_classes or "no head")
    return (
        backbone.name,
        _input_size(backbone),
        classes,
        weights.data or "not stated",
        weights.license or "not stated",
        "yes" if _is_here(weights) else "",
    )


def _input_size(backbone: Backbone) -> str:
    return "x".join(map(str, backbone.preprocess.height_width))


def _is_here(weights: Weights | None) -> bool:
    from zoo.weights.getting import locate

    return weights is not None and locate(weights, own=True) is not None
