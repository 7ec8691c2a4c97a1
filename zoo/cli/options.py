"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable

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
