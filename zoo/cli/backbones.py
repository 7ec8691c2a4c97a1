"""`zoo backbones`."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, number, print_table, text
from zoo.cli.words import count, echo, echo_json
from zoo.io.text import spreadsheet_cell

if TYPE_CHECKING:
    from zoo.backbone import Weights
    from zoo.plugins import Entry


@click.command("backbones", short_help="List the available backbones.")
@click.argument("pattern", default="*")
@click.option(
    "--weights",
    "tags",
    is_flag=True,
    help="List all published weights of each backbone, as NAME.TAG, with their training data.",
)
@format_option("table", "json", "csv")
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

    index = plugins.index().matching(pattern)
    found = index.published if tags else index.backbones
    if form == "json":
        echo_json([_about(entry) for entry in found])
    elif form == "csv":
        _print_csv(found)
    elif tags:
        columns = [text("backbone"), label("input"), number("classes"), text("trained on")]
        columns += [text("licence"), label("here")]
        print_table(columns, [_weights_row(entry) for entry in found])
        echo(count(len(found), "set") + " of weights", err=True)
    else:
        print_table([text(), label(), text()], [_row(entry) for entry in found])
        echo(count(len(found), "backbone"), err=True)
    for network in index.left_out:
        echo(f"- {network.name} is no backbone: {network.reason}", err=True)
    for failure in index.failures:
        echo(f"! {failure}", err=True)


def _print_csv(entries: Sequence[Entry]) -> None:
    rows = [_flat(_about(entry)) for entry in entries]
    writer = csv.DictWriter(sys.stdout, list(dict.fromkeys(k for row in rows for k in row)))
    writer.writeheader()
    for row in rows:
        writer.writerow({key: spreadsheet_cell(str(value)) for key, value in row.items()})


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return one value per cell: nested keys joined, lists as text with spaces, None empty."""
    flat: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, dict):
            flat |= _flat({f"{key} {inner}": each for inner, each in value.items()})
        elif isinstance(value, list | tuple):
            flat[key] = " ".join(map(str, value))
        else:
            flat[key] = "" if value is None else value
    return flat


def _about(entry: Entry) -> dict[str, Any]:
    weights = entry.weights
    return {
        "name": entry.name,
        "head": list(entry.head),
        "input_size": list(entry.preprocess.height_width),
        "preprocess": entry.preprocess.to_dict(),
        "tags": list(entry.tags),
        "tag": weights.tag if weights else None,
        "weights": weights.place if weights else None,
        "sha256": weights.sha256 if weights else None,
        "license": weights.license if weights else None,
        "data": weights.data if weights else None,
        "classes": weights.num_classes if weights else None,
        "metrics": dict(weights.metrics) if weights else {},
        "here": _is_here(weights),
    }


def _row(entry: Entry) -> tuple[str, str, str]:
    weights = entry.weights
    licence = (weights.license or "licence not stated") if weights else "no weights"
    return entry.name, _input_size(entry), licence


def _weights_row(entry: Entry) -> tuple[str, ...]:
    weights = entry.weights
    if weights is None:
        return entry.name, _input_size(entry), "", "no weights", "", ""
    classes = "" if weights.num_classes is None else str(weights.num_classes or "no head")
    return (
        entry.name,
        _input_size(entry),
        classes,
        weights.data or "not stated",
        weights.license or "not stated",
        "yes" if _is_here(weights) else "",
    )


def _input_size(entry: Entry) -> str:
    return "x".join(map(str, entry.preprocess.height_width))


def _is_here(weights: Weights | None) -> bool:
    from zoo.weights.getting import locate

    return weights is not None and locate(weights, own=True) is not None
