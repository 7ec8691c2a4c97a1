"""The recipe's fields as options of a command, listed by section in its help."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, Literal, Union, get_args, get_origin

import click

from zoo.cli.options import Decorator, all_options, complete_backbone
from zoo.cli.words import flag_of, with_flags
from zoo.io.parse import parse_json
from zoo.recipe import SECTIONS, Recipe
from zoo.recipe.aliases import meant

#: Metavars for options whose type alone would be misleading in the help.
_METAVARS = {
    "freeze": "[none|backbone|N|STAGE]",
    "unfreeze_epoch": "N[,N...]",
    "checkpoint_every": "N|TIME",
    "group_by": "PATTERN|COLUMN|folder",
    "time": "TIME",
    "collective_timeout": "TIME",
    "optimizer": "[adamw|sgd|NAME]",
}


def recipe_options(
    *, without: Collection[str] = (), helps: Mapping[str, str] | None = None
) -> Decorator:
    """Return the options for the fields of the recipe, in their order.

    Args:
        without: Fields that the command does not have.
        helps: Descriptions, by field, of fields that mean something else to the command.
    """
    described = {
        name: (helps or {}).get(name, str(field.description))
        for name, field in Recipe.model_fields.items()
        if name not in without
    }
    return all_options(*(_option(name, text) for name, text in described.items()))


def _option(name: str, description: str) -> Decorator:
    """Return the option for a field."""
    field, flag = Recipe.model_fields[name], flag_of(name)
    if name.endswith("_options"):
        return click.option(
            flag,
            name,
            multiple=True,
            metavar="NAME=VALUE",
            callback=_options,
            help=f"{description} May be repeated; replaces those of a recipe.",
        )
    default = "" if field.default is None else f"  [default: {_shown(field.default)}]"
    kind = _option_type(field.annotation)
    declaration = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    return click.option(
        declaration,
        name,
        type=None if kind is bool else kind,
        default=None,
        metavar=_METAVARS.get(name),
        shell_complete=complete_backbone if name == "backbone" else None,
        help=with_flags(f"{description}{default}"),
    )


def _option_type(annotation: Any) -> Any:
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if get_origin(annotation) in (types.UnionType, Union):
        kinds = [arg for arg in get_args(annotation) if arg is not type(None)]
        if kinds == [int, str]:
            return _number_or_text
        return kinds[0] if len(kinds) == 1 else _numbers
    return annotation


def _number_or_text(value: str) -> int | str:
    return int(value) if value.isascii() and value.isdigit() else value


def _numbers(value: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number, or several as in 2,4") from None
    return numbers if "," in value else numbers[0]


def _options(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, object] | None:
    options: dict[str, object] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        if name in options:
            raise click.BadParameter(f"{name} is given twice")
        options[name] = _option_value(value, lists=param.name == "optimizer_options")
    return options or None


def _option_value(text: str, *, lists: bool) -> object:
    """Parse a boolean, a number or a text in quotes; anything else is a text as it stands.

    With `lists`, `0.9,0.99` is a list of numbers.
    """
    if lists and "," in text:
        with suppress(ValueError):
            return tuple(float(part) for part in text.split(","))
    parsers: tuple[Callable[[str], object], ...] = (parse_json, float)
    for parse in parsers:
        with suppress(ValueError):
            value = parse(text)
            if isinstance(value, bool | int | float | str):
                return value
    return text


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)


class SectionedCommand(click.Command):
    """A command with the recipe's options, which its help lists by section after all others."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; what other tools call an option is answered with zoo's name."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            text = meant(error.option_name, Recipe.model_fields)
            if text is None:
                raise
            raise click.UsageError(
                f"no option {error.option_name}; {with_flags(text)}", ctx
            ) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        records = {p.name: p.get_help_record(ctx) for p in self.get_params(ctx)}
        sections = {"Options": [name for name in records if name not in Recipe.model_fields]}
        for title, names in (sections | SECTIONS).items():
            with formatter.section(title):
                formatter.write_dl([record for name in names if (record := records.get(name))])
