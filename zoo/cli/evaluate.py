"""`zoo evaluate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import allocator_option, device_option, format_option
from zoo.cli.start import starting
from zoo.cli.words import echo, echo_json, shown

if TYPE_CHECKING:
    from zoo.run.evaluate import Evaluation, Split

#: With more classes a confusion matrix fits no terminal.
WIDEST_MATRIX = 20


@click.command("evaluate", short_help="Measure a run on labelled images.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled folder.  [default: the data it was trained on]",
)
@click.option(
    "--split",
    type=click.Choice(["val", "train", "test", "all"]),
    default="val",
    show_default=True,
    help="val: DATA/val, else what training held out of DATA, else DATA/test, else all. "
    "train, test: those folders, or what training learnt from. all: every labelled image.",
)
@format_option("table", "json")
@click.option(
    "--strict",
    is_flag=True,
    help="Make unreadable images, wrong extensions, and links that lead out of the data folder or "
    "in circles an error.",
)
@click.option(
    "--follow-links",
    is_flag=True,
    help="Follow links in the data folder that lead out of it too.  "
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
        from zoo.data.folder import said_left_out
        from zoo.run.read import load

    result = load(run, device=device).evaluate(
        data, split=split, strict=strict, follow_links=follow_links
    )
    problems = said_left_out(result.unreadable, result.misnamed, result.links)
    for problem in (*result.notes, *problems):
        echo(f"! {shown(problem)}", err=True)
    if form == "json":
        echo_json(asdict(result))
    else:
        _print(result)


def _print(result: Evaluation) -> None:
    correct = sum(row[i] for i, row in enumerate(result.confusion))
    echo(f"images    {shown(result.source)}")
    echo(f"accuracy  {result.accuracy:.2%} ({correct} of {result.images})")
    echo(f"loss      {result.loss:.4f}\n")
    names = [shown(c.name) for c in result.classes]
    width = max(5, *map(len, names))
    echo(f"{'class':{width}}  precision  recall      f1  images")
    for name, c in zip(names, result.classes, strict=True):
        echo(f"{name:{width}}  {c.precision:9.2%} {c.recall:7.2%} {c.f1:7.2%}  {c.images:6}")
    mistakes = sorted(
        (
            (count, names[truth], names[taken])
            for truth, row in enumerate(result.confusion)
            for taken, count in enumerate(row)
            if truth != taken and count
        ),
        key=lambda mistake: (-mistake[0], *mistake[1:]),
    )
    if len(result.classes) > WIDEST_MATRIX:
        echo(f"\nmost frequent of {len(mistakes)} confusions (all: --format json)")
        for count, truth, taken in mistakes[:WIDEST_MATRIX]:
            echo(f"{count:6}  {truth} taken for {taken}")
        return
    echo("\nconfusion: rows are the truth, columns (by row number) what it was taken for")
    column = max(4, *(len(str(n)) for row in result.confusion for n in row))
    numbers = range(1, len(result.classes) + 1)
    echo(f"{'':{width + 4}}" + "".join(f"  {n:>{column}}" for n in numbers))
    for n, name, row in zip(numbers, names, result.confusion, strict=True):
        echo(f"{n:2}  {name:{width}}" + "".join(f"  {k:>{column}}" for k in row))
