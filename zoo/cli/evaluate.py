"""`zoo evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import allocator_option, device_option, format_option
from zoo.cli.start import starting
from zoo.cli.tables import (
    least_width,
    number,
    plain_console,
    print_facts,
    print_table,
    text,
)
from zoo.cli.words import echo, echo_json, with_flags

if TYPE_CHECKING:
    from zoo.runs.evaluate import Evaluation, Split

#: Maximum number of classes for which the confusion matrix is printed.
WIDEST_MATRIX = 20

#: Maximum number of pairs of classes that are listed instead of the matrix.
MOST_CONFUSIONS = 20


@click.command("evaluate", short_help="Measure a run on labelled images.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled folder or table.  [default: the data it was trained on]",
)
@click.option(
    "--split",
    type=click.Choice(["val", "train", "test", "all"]),
    default="val",
    show_default=True,
    help="val: DATA/val, else the images held out of DATA in training, else DATA/test, else all. "
    "train: DATA/train, or the training images. test: DATA/test. all: every labelled image.",
)
@format_option("table", "json")
@click.option(
    "--strict",
    is_flag=True,
    help="Treat unreadable images, wrong extensions, and links that lead out of the data folder or "
    "in circles as errors.",
)
@click.option(
    "--follow-links",
    is_flag=True,
    help="Also follow links in the data folder that lead out of it.  "
    "[default: as training did, on the data it was trained on]",
)
@device_option
@allocator_option
def command(
    run: Path,
    data: Path | None,
    split: Split,
    form: str,
    strict: bool,
    follow_links: bool,
    device: str,
    allocator_tuning: bool,
) -> None:
    """Measure accuracy, per-class precision, recall and F1, and confusions of RUN.

    RUN is a run folder or its model.safetensors.
    """
    with starting(allocator_tuning=allocator_tuning):
        from zoo.data.issue import describe
        from zoo.runs.read import load

    result = load(run, device=device).evaluate(
        data, split=split, strict=strict, follow_links=follow_links
    )
    for line in describe(result.issues):
        echo(f"! {with_flags(line)}", err=True)
    if form == "json":
        echo_json(asdict(result))
    else:
        _print(result)


def _print(result: Evaluation) -> None:
    from zoo.tasks import metric_label

    correct = round(result.accuracy * result.images)
    several = [] if result.confusion else [n for n in result.metrics if n != "accuracy"]
    exact = "accuracy" if result.confusion else "exact matches"
    print_facts(
        [
            ("images", result.source),
            *((metric_label(name), f"{result.metrics[name]:.2%}") for name in several),
            (exact, f"{result.accuracy:.2%} ({correct} of {result.images})"),
            ("loss", f"{result.loss:.4f}"),
        ]
    )
    echo()
    print_table(
        [text("class"), *map(number, ("precision", "recall", "f1", "images"))],
        [
            (c.name, f"{c.precision:.2%}", f"{c.recall:.2%}", f"{c.f1:.2%}", str(c.images))
            for c in result.classes
        ],
    )
    if not result.confusion:
        return
    echo()
    if len(result.classes) > WIDEST_MATRIX or not _print_matrix(result):
        _print_confusions(result)


def _print_matrix(result: Evaluation) -> bool:
    """Print the confusion matrix, if it fits; return whether it does."""
    console = plain_console()
    numbers = [str(n) for n, _ in enumerate(result.classes, 1)]
    columns = [number("row"), text("true class"), *map(number, numbers)]
    rows = [
        (n, c.name, *map(str, row))
        for n, c, row in zip(numbers, result.classes, result.confusion, strict=True)
    ]
    if least_width(columns, rows) > console.width:
        return False
    echo("confusion matrix (rows: true class, columns: predicted)")
    print_table(columns, rows, console=console)
    return True


def _print_confusions(result: Evaluation) -> None:
    names = [c.name for c in result.classes]
    mistakes = sorted(
        (
            (count, names[truth], names[taken])
            for truth, row in enumerate(result.confusion)
            for taken, count in enumerate(row)
            if truth != taken and count
        ),
        key=lambda mistake: (-mistake[0], *mistake[1:]),
    )
    listed = mistakes[:MOST_CONFUSIONS]
    echo(f"{len(listed)} most frequent of {len(mistakes)} confusions (all: --format json)")
    print_table(
        [number("images"), text("true class"), text("predicted")],
        [(str(count), truth, taken) for count, truth, taken in listed],
    )
