"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.words import echo, with_flags

if TYPE_CHECKING:
    from zoo.runs.read import Asked, Run
    from zoo.runs.tta import Tta

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

#: The device to compute on.
device_option: Decorator = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)


def complete_backbone(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return full and bare names of backbones for the shell, from the index on disk if any."""
    from zoo.plugins.index import indexed_names

    full = indexed_names()
    names = [*full, *dict.fromkeys(name.partition("/")[2] for name in full)]
    return [name for name in names if name.startswith(incomplete)]


def all_options(*options: Decorator) -> Decorator:
    """Return a decorator that adds options to a command, in their order."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


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


#: Whether addresses in the table of labelled images are read.
network_option: Decorator = click.option(
    "--allow-network",
    is_flag=True,
    help="Also read images at addresses in a table, such as s3://bucket/a.jpg.  "
    "[default: as training did, on the data it was trained on]",
)


def images_options(default: str) -> Decorator:
    """Return the options for labelled images; `default` is what is measured without `--data`."""
    return all_options(
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
        network_option,
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


#: Test-time augmentation.
tta_option: Decorator = click.option(
    "--tta",
    type=click.Choice(["hflip", "five-crop"]),
    help="Test-time augmentation: average over each image and its mirror image, or over each "
    "image, its four corners and its centre.  [default: none]",
)


#: The threshold of labels.
threshold_option: Decorator = click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=None,
    help="Multi-label runs: probability from which on a label is predicted.  "
    "[default: the run's, one for each label; or 0.5]",
)


#: Options for what is asked of predictions, which `asked_of` takes.
answer_options = all_options(
    threshold_option,
    click.option(
        "--min-confidence",
        type=share,
        metavar="P",
        help="Answer unsure where the best class has a lower probability, such as 0.8 or 80%.",
    ),
    click.option(
        "--max-error",
        type=share,
        metavar="P",
        help="Answer unsure as often as needed for at most this share of wrong answers, such "
        "as 5%. The threshold for it is computed from held-out images, which can show it with "
        "90% certainty.",
    ),
    click.option(
        "--set-coverage",
        type=share,
        metavar="P",
        help="Also give, for each image, a set of classes that has the right one with this "
        "probability, such as 90%.",
    ),
)


def asked_of(
    run: Run,
    *,
    top_k: int,
    threshold: float | None,
    min_confidence: float | None,
    max_error: float | None,
    set_coverage: float | None,
    tta: Tta | None = None,
) -> Asked:
    """Return what the options ask of a run's predictions; print what they mean for it, on stderr.

    Raises:
        click.UsageError: An option does not apply to the run's task.
        DataError: The run does not know, or its held-out images can't show, what is asked.
    """
    from zoo.runs.tta import doubt_of_tta

    if threshold is not None and run.task.exclusive:
        raise click.UsageError(
            f"--threshold applies to multi-label runs; this one is {run.task.name}"
        )
    given = {
        "threshold": threshold,
        "min_confidence": min_confidence,
        "max_error": max_error,
        "set_coverage": set_coverage,
    }
    asked = run.asked(top_k=top_k, tta=tta, **{k: v for k, v in given.items() if v is not None})
    if (doubt := doubt_of_tta(tta, run.info.recipe)) is not None:
        echo(f"! {with_flags(doubt)}", err=True)
    if max_error is not None:
        found = run.error_threshold(max_error)
        echo(
            f"answers from a confidence of {found.probability:.1%} on: {found.coverage:.1%} of the "
            f"held-out images, {found.error:.1%} of these wrong",
            err=True,
        )
    return asked
