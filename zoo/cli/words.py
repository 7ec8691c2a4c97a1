"""Printing: text that is safe for a terminal, JSON, human-readable numbers."""

from __future__ import annotations

import csv
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

import click

from zoo.io.text import printable, spreadsheet_cell

#: Characters that a terminal may interpret and that json does not escape itself.
_INTERPRETED = re.compile("[\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")

#: Options besides the recipe's fields that may be named in messages of the core.
_OPTIONS = frozenset(
    {
        *("allow_changed", "allow_network", "compile", "engine", "fix_to", "host", "html"),
        *("labels", "labels_from", "labels_to", "license", "logger", "max_images", "no_plugin"),
        *("out", "port", "public", "queue", "resume", "split", "tta", "with_predictions"),
        *("with_report", "yes"),
    }
)

#: Flags that are not spelt as the field of the recipe: one sets a single entry of a table.
_FLAGS = {"backbone_options": "--backbone-option", "optimizer_options": "--optimizer-option"}

_SETTING = re.compile(r"`([a-z_]+)(?:=([^`]+))?`")


def echo(text: str = "", *, err: bool = False) -> None:
    """Print text of one or more lines, on stderr with `err`; control characters are escaped."""
    click.echo(printable(text, lines=True), err=err)


def echo_json(value: object) -> None:
    """Print a value, also of paths and data classes, as JSON that is safe for a terminal."""
    click.echo(json_text(value))


def json_text(value: object) -> str:
    """Return a value as indented JSON that is exact when parsed and safe for a terminal."""
    return _json(value, indent=2)


def echo_json_list(values: Iterable[object]) -> None:
    """Print a JSON list value by value; it is closed even if the iteration is interrupted."""
    between = "["
    try:
        for value in values:
            click.echo(f"{between}\n{textwrap.indent(_json(value, indent=2), '  ')}", nl=False)
            between = ","
    finally:
        click.echo("[]" if between == "[" else "\n]")


def echo_json_lines(values: Iterable[object]) -> None:
    """Print a line of JSON for each value, as soon as it is available."""
    for value in values:
        click.echo(_json(value))


def echo_csv(rows: Iterable[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Print rows as CSV that a spreadsheet shows as text; None is empty, a tuple joined by +."""
    writer = csv.DictWriter(sys.stdout, columns)
    writer.writeheader()
    for row in rows:
        writer.writerow({key: spreadsheet_cell(_cell(value)) for key, value in row.items()})


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return " + ".join(map(str, value))
    return "" if value is None else str(value)


def _json(value: object, *, indent: int | None = None) -> str:
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=_plain)
    return _INTERPRETED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> object:
    """Return a path as text, and a data class as a dictionary."""
    return str(value) if isinstance(value, PurePath) else asdict(value)


def with_flags(text: str) -> str:
    """Replace the settings in a message of the core, named as in a recipe, by flags.

    "use `image_size` or `train=finetune`" becomes "use --image-size or --train finetune".
    Backquotes around anything else stay.
    """
    return _SETTING.sub(_as_flag, text)


def _as_flag(found: re.Match[str]) -> str:
    from zoo.recipe import Recipe

    name, value = found.groups()
    if name not in _OPTIONS and name not in Recipe.model_fields:
        return found[0]
    flag = flag_of(name)
    if value == "false":
        return f"--no-{flag[2:]}"
    return flag if value in (None, "true") else f"{flag} {value}"


def flag_of(name: str) -> str:
    """Return the flag of a field of the recipe."""
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def human_size(size: float) -> str:
    """Format a number of bytes, as "1.44 MB"."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
