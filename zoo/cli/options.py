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
