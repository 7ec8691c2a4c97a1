"""`zoo backbones`."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import format_option
from zoo.cli.tables import label, number, print_fitting
from zoo.cli.words import echo, echo_csv, echo_json
from zoo.io.text import clip, count

if TYPE_CHECKING:
    from zoo.plugins import Entry


#: What `--sort` and the filters compare; None if it is not stated.
_KEYS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda entry: entry.name,
    "parameters": lambda entry: entry.parameters,
    "macs": lambda entry: entry.macs,
    "input-size": lambda entry: max(entry.preprocess.height_width),
    "top-1": lambda entry: entry.weights.top_1 if entry.weights else None,
    "license": lambda entry: entry.weights.license if entry.weights else None,
    "data": lambda entry: entry.weights.data if entry.weights else None,
}

#: Length to which a licence, which may be a URL, is shortened in the table.
_LICENCE = 28

#: Factors of the units of a number on the command line.
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


def _amount(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Return a number that may have a unit, such as 25.6M."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgbt]?)", value, re.ASCII | re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a number, as in 25600000 or 25.6M")
    return float(found[1]) * _UNITS[found[2].lower()]


@click.command("backbones", short_help="List the available backbones.")
@click.argument("pattern", default="*")
@click.option(
    "--weights",
    "tags",
    is_flag=True,
    help="List all published weights of each backbone, as NAME.TAG, with their training data.",
)
@click.option(
    "--sort",
    type=click.Choice(list(_KEYS)),
    default="name",
    show_default=True,
    help="Sort by this, the smallest first.",
)
@click.option("--reverse", is_flag=True, help="Sort the largest first.")
@click.option(
    "--max-parameters",
    metavar="NUMBER",
    callback=_amount,
    help="Maximum number of parameters, such as 30M.",
)
@click.option(
    "--max-macs",
    metavar="NUMBER",
    callback=_amount,
    help="Maximum number of multiply-accumulates per image, such as 5G.",
)
@click.option(
    "--max-input-size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Maximum side of the input in pixels.",
)
@click.option(
    "--min-top-1",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="At least this published top-1 accuracy.",
)
@click.option("--license", "license_", metavar="PATTERN", help="Only weights with such a licence.")
@click.option("--data", metavar="PATTERN", help="Only weights trained on such data.")
@click.option("--here", is_flag=True, help="Only backbones whose weights are on this machine.")
@format_option("table", "json", "csv")
def command(
    pattern: str,
    tags: bool,
    sort: str,
    reverse: bool,
    max_parameters: float | None,
    max_macs: float | None,
    max_input_size: int | None,
    min_top_1: float | None,
    license_: str | None,
    data: str | None,
    here: bool,
    form: str,
) -> None:
    """List the backbones whose name matches PATTERN: part of a name, or with * and ?.

    Without a tag, NAME means the library's default weights. GMACs are the billions of
    multiply-accumulates for one image of the input size. Backbones that don't state what a filter
    asks for are left out. Networks of a plugin's library that can't be fine-tuned are listed on
    stderr, with the reason.

    \b
      zoo backbones resnet
      zoo backbones --max-parameters 10M --sort macs
      zoo backbones --min-top-1 80 --sort parameters
      zoo backbones --weights --license mit --data ImageNet-21k
      zoo backbones --weights resnet50                  weights: --backbone resnet50.a1_in1k
      zoo backbones 'timm/vit_*_224' --format json
    """
    from zoo import plugins

    limits = {"parameters": max_parameters, "macs": max_macs, "input-size": max_input_size}
    filters: dict[str, Callable[[Any], object]] = {
        key: functools.partial(operator.ge, most)
        for key, most in limits.items()
        if most is not None
    }
    if min_top_1 is not None:
        filters["top-1"] = functools.partial(operator.le, min_top_1)
    if license_ is not None:
        filters["license"] = plugins.matcher(license_)
    if data is not None:
        filters["data"] = plugins.matcher(data)
    index = plugins.index().matching(pattern)
    found = list(index.published if tags else index.backbones)
    for key, wanted in filters.items():
        found = _filtered(found, key, wanted)
    if here:
        found = [entry for entry in found if _is_here(entry)]
    found = _sorted(found, _KEYS[sort], reverse=reverse)
    if form == "json":
        echo_json([_about(entry) for entry in found])
    elif form == "csv":
        rows = [_flat(_about(entry)) for entry in found]
        echo_csv(rows, list(dict.fromkeys(key for row in rows for key in row)))
    else:
        _print_table(found)
        things = f"{count(len(found), 'set')} of weights" if tags else count(len(found), "backbone")
        echo(things, err=True)
    if not filters and not here:
        for network in index.left_out:
            echo(f"- {network.name} is not a backbone: {network.reason}", err=True)
    for failure in index.failures:
        echo(f"! {failure}", err=True)


def _filtered(entries: list[Entry], key: str, wanted: Callable[[Any], object]) -> list[Entry]:
    """Return the entries that state a wanted value; say how many state none."""
    stating = [entry for entry in entries if _KEYS[key](entry) is not None]
    if missing := len(entries) - len(stating):
        echo(f"{missing:,} left out: {key} not stated", err=True)
    return [entry for entry in stating if wanted(_KEYS[key](entry))]


def _sorted(entries: list[Entry], key: Callable[[Entry], Any], *, reverse: bool) -> list[Entry]:
    """Return the entries in order, those without a value last."""
    stating = [entry for entry in entries if key(entry) is not None]
    missing = [entry for entry in entries if key(entry) is None]
    return [*sorted(stating, key=key, reverse=reverse), *missing]


def _print_table(entries: Sequence[Entry]) -> None:
    """Print the columns that fit the terminal, so that no name or number is broken."""
    columns = [
        label("backbone"),
        number("params"),
        number("GMACs"),
        number("input"),
        number("top-1"),
        label("here"),
        label("licence"),
        label("trained on"),
        number("classes"),
    ]
    print_fitting(columns, [_row(entry) for entry in entries])


def _row(entry: Entry) -> tuple[str, ...]:
    weights = entry.weights
    height, width = entry.preprocess.height_width
    top_1, classes = (weights.top_1, weights.num_classes) if weights else (None, None)
    return (
        entry.name,
        "" if entry.parameters is None else f"{entry.parameters / 1e6:,.1f}M",
        "" if entry.macs is None else f"{entry.macs / 1e9:,.2f}",
        str(height) if height == width else f"{height}x{width}",
        "" if top_1 is None else f"{top_1:.1f}",
        "yes" if _is_here(entry) else "",
        clip(weights.license or "not stated", _LICENCE) if weights else "no weights",
        (weights.data or "not stated") if weights else "",
        "" if classes is None else str(classes or "no head"),
    )


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return one value per cell: nested keys joined, lists as text with spaces."""
    flat: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, dict):
            flat |= _flat({f"{key} {inner}": each for inner, each in value.items()})
        elif isinstance(value, list | tuple):
            flat[key] = " ".join(map(str, value))
        else:
            flat[key] = value
    return flat


def _about(entry: Entry) -> dict[str, Any]:
    weights = entry.weights
    return {
        "name": entry.name,
        "head": list(entry.head),
        "parameters": entry.parameters,
        "macs": entry.macs,
        "input_size": list(entry.preprocess.height_width),
        "preprocess": entry.preprocess.to_dict(),
        "tags": list(entry.tags),
        "tag": weights.tag if weights else None,
        "weights": weights.place if weights else None,
        "sha256": weights.sha256 if weights else None,
        "license": weights.license if weights else None,
        "data": weights.data if weights else None,
        "classes": weights.num_classes if weights else None,
        "top_1": weights.top_1 if weights else None,
        "metrics": dict(weights.metrics) if weights else {},
        "here": _is_here(entry),
    }


def _is_here(entry: Entry) -> bool:
    from zoo.weights.place import is_here

    return is_here(entry.name, entry.weights)
