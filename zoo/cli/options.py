"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path

import click

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

#: The device to compute on.
device_option: Decorator = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)


def format_option(*formats: str) -> Decorator:
    """Return an option for the output format: one of `formats`, by default the first."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How to print.",
    )


def images_options(default: str) -> Decorator:
    """Return the options that name the labelled images to measure a run on.

    Args:
        default: What is measured without `--data`.
    """
    options: list[Decorator] = [
        click.option(
            "--data",
            type=click.Path(path_type=Path),
            help=f"Labelled folder or table.  [default: {default}]",
        ),
        click.option(
            "--split",
            type=click.Choice(["val", "train", "test", "all"]),
            default="val",
            show_default=True,
            help="val: DATA/val, else the images held out of DATA in training, else DATA/test, "
            "else all. train: DATA/train, or the training images. test: DATA/test. all: every "
            "labelled image.",
        ),
        click.option(
            "--strict",
            is_flag=True,
            help="Treat unreadable images, wrong extensions, and links that lead out of the data "
            "folder or in circles as errors.",
        ),
        click.option(
            "--follow-links",
            is_flag=True,
            help="Also follow links in the data folder that lead out of it.  "
            "[default: as training did, on the data it was trained on]",
        ),
    ]
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


#: Whether to tune the memory allocator for neural networks.
allocator_option: Decorator = click.option(
    "--allocator-tuning/--no-allocator-tuning",
    default=True,
    help="Have glibc keep freed memory for the next layer: up to twice as fast on Linux CPUs.  "
    "[default: yes]",
)


def share(text: str) -> float:
    """Parse a share above 0 and below 1, such as `0.05` or `5%`; the type of an option.

    Raises:
        click.BadParameter: It is not one.
    """
    number = text.strip()
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a fraction or percentage, such as 0.05 or 5%"
        ) from None
    if not 0 < value < 1:
        raise click.BadParameter(f"{text!r} is not above 0 and below 1 (100%)")
    return value
