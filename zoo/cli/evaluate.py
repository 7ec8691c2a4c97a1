"""`zoo evaluate`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from zoo.run.evaluate import Evaluation


@click.command("evaluate", short_help="Measure a run on labelled images.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled folder.  [default: the data it was trained on]",
)
@click.option(
    "--split",
    type=click.Choice(["val", "all"]),
    default="val",
    show_default=True,
    help="val: DATA/val, else what training held out of DATA, else all. "
    "all: every class folder of DATA.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print.",
)
@click.option("--strict", is_flag=True, help="Make an unreadable image an error.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
def command(run: Path, data: Path | None, split: str, form: str, strict: bool, device: str) -> None:
    """Measure accuracy, per-class precision, recall and F1, and confusions of RUN.

    RUN is a run folder or its model.safetensors.
    """
    from zoo.run.evaluate import evaluate
    from zoo.run.read import load

    result = evaluate(load(run, device=device), data, split=split, strict=strict)
    for problem in result.unreadable:
        click.echo(f"! {problem}", err=True)
    if result.unreadable:
        click.echo(f"! {len(result.unreadable)} unreadable images left out", err=True)
    if form == "json":
        click.echo(json.dumps(asdict(result), indent=2, ensure_ascii=False))
    else:
        _print(result)


def _print(result: Evaluation) -> None:
    correct = sum(row[i] for i, row in enumerate(result.confusion))
    click.echo(f"images    {result.source}")
    click.echo(f"accuracy  {result.accuracy:.2%} ({correct} of {result.images})")
    click.echo(f"loss      {result.loss:.4f}\n")
    width = max(5, *(len(c.name) for c in result.classes))
    click.echo(f"{'class':{width}}  precision  recall      f1  images")
    for c in result.classes:
        click.echo(
            f"{c.name:{width}}  {c.precision:9.2%} {c.recall:7.2%} {c.f1:7.2%}  {c.images:6}"
        )
    click.echo("\nconfusion: rows are the truth, columns what it was taken for")
    column = max(6, *(len(str(n)) for row in result.confusion for n in row))
    header = "  ".join(f"{c.name[:column]:>{column}}" for c in result.classes)
    click.echo(f"{'':{width}}  {header}")
    for c, row in zip(result.classes, result.confusion, strict=True):
        click.echo(f"{c.name:{width}}  " + "  ".join(f"{n:>{column}}" for n in row))
