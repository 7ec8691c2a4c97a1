"""`zoo evaluate`."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import (
    allocator_option,
    device_option,
    format_option,
    images_options,
    threshold_option,
    tta_option,
)
from zoo.cli.start import starting
from zoo.cli.tables import (
    Column,
    label,
    least_width,
    number,
    plain_console,
    print_facts,
    print_table,
    text,
)
from zoo.cli.words import echo, json_text, with_flags
from zoo.io.files import expand
from zoo.io.text import count, spreadsheet_cell

if TYPE_CHECKING:
    from zoo.runs.evaluate import Evaluation, Split
    from zoo.runs.figures import ClassFigures, Figure, Figures
    from zoo.runs.tta import Tta, TtaGain

#: Maximum number of classes for which the confusion matrix is printed.
WIDEST_MATRIX = 20

#: Maximum number of pairs of classes that are listed instead of the matrix.
MOST_CONFUSIONS = 20

#: Number of rows that are converted to Python's own values at a time.
ROWS = 1000


@click.command("evaluate", short_help="Measure a run on labelled images.")
@click.argument("run", type=click.Path(path_type=Path))
@images_options("the data it was trained on")
@tta_option
@threshold_option
@format_option("table", "json", "csv", "parquet")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File to write with json, csv and parquet.  [default: stdout; parquet needs a file]",
)
@device_option
@allocator_option
def command(
    run: Path,
    data: Path | None,
    split: Split,
    form: str,
    output: Path | None,
    strict: bool,
    follow_links: bool,
    allow_network: bool,
    tta: Tta | None,
    threshold: float | None,
    device: str,
    allocator_tuning: bool,
) -> None:
    """Measure RUN, a run folder or its model.safetensors, on labelled images.

    The table has accuracy and other metrics, in all and by class, each with its 95% confidence
    interval; the baseline, a model that ignores its input; and the confusions. csv and parquet have
    a row for each image: its label, the prediction, and the probabilities of all classes. json has
    both. In csv, labels of a multi-label run are separated by |, and names are escaped as by
    zoo predict.

    With --tta, everything is measured with test-time augmentation, and the metrics also without it,
    on the same images; the gain is tested as zoo compare tests the difference of two runs.

    F1 and accuracy of a multi-label run are for the run's own thresholds, one for each label,
    unless --threshold sets another one for all of them.

    Several processes divide the images: torchrun --nproc-per-node=4 -m zoo evaluate RUN.
    """
    if output is not None and form == "table":
        raise click.UsageError("--output can only be used with --format json, csv or parquet")
    if output is None and form == "parquet":
        raise click.UsageError("--format parquet needs --output, the file to write")
    with starting(allocator_tuning=allocator_tuning):
        from zoo.data.issue import describe
        from zoo.machine.device import own_gpu
        from zoo.machine.processes import join_processes, together
        from zoo.runs.evaluate import Reading, evaluate_together
        from zoo.runs.read import load
        from zoo.runs.scores import parquet_bytes
        from zoo.runs.write import at_threshold, write_file

    own_gpu()
    loaded = together(lambda: load(run, device=device))
    join_processes()
    result = evaluate_together(
        loaded.model,
        loaded.backbone,
        at_threshold(loaded.info, threshold),
        None if data is None else expand(data),
        Reading(split=split, strict=strict, follow_links=follow_links, allow_network=allow_network),
        tta=tta,
    )
    if result is None:
        return  # The first process speaks for all.
    for line in describe(result.issues):
        echo(f"! {with_flags(line)}", err=True)
    if form == "table":
        _print(result)
    elif form == "parquet":
        content = parquet_bytes(result.rows, [each.name for each in result.classes])
        write_file(expand(str(output)), content)
    else:
        written = _json(result) if form == "json" else _csv(result)
        if output is None:
            sys.stdout.write(written)
        else:
            write_file(expand(output), written.encode())


def _json(result: Evaluation) -> str:
    rows = [dict(zip(result.rows, row, strict=True)) for row in _rows(result)]
    better = {"better_than_baseline": result.figures.better_than_baseline}
    content = asdict(replace(result, rows={}))
    content |= {"figures": content["figures"] | better, "rows": rows}
    return f"{json_text(content)}\n"


def _csv(result: Evaluation) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(spreadsheet_cell, result.rows))
    writer.writerows(map(_cell, row) for row in _rows(result))
    return file.getvalue()


def _rows(result: Evaluation) -> Iterator[tuple[Any, ...]]:
    from zoo.runs.scores import values_of

    for start in range(0, result.images, ROWS):
        part = slice(start, start + ROWS)
        yield from zip(*(values_of(each[part]) for each in result.rows.values()), strict=True)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = "|".join(value)
    return spreadsheet_cell(value) if isinstance(value, str) else value


def _print(result: Evaluation) -> None:
    from zoo.runs.figures import doubt, figure_text
    from zoo.tasks import metric_label

    found, correct = result.figures, round(result.accuracy * result.images)
    facts = [("images", result.source)]
    for name, figure in found.metrics.items():
        what, value = metric_label(name), figure_text(name, figure)
        if name == "accuracy":
            what = "accuracy" if result.confusion else "exact matches"
            value += f", {correct} of {result.images}"
        facts.append((what, value))
    facts.append(("baseline", f"{found.baseline.value:.2%}, {found.baseline_what}"))
    of = f"{count(found.units, 'group')}" if found.units < found.images else "the images"
    facts.append(("intervals", f"in parentheses, 95%, over {of}"))
    print_facts(facts)
    if (reason := doubt(found)) is not None:
        plain_console().print(reason, style="bold red")
    if result.tta is not None:
        echo()
        _print_gain(result.tta, found)
    echo()
    columns, rows = _class_table(found.classes)
    print_table(columns, rows)
    if not result.confusion:
        return
    echo()
    if len(result.classes) > WIDEST_MATRIX or not _print_matrix(result):
        _print_confusions(result)


def _print_gain(gain: TtaGain, found: Figures) -> None:
    """Print the metrics with and without test-time augmentation, and the test of their difference.

    Args:
        gain: What it changes.
        found: The figures with it.
    """
    from zoo.runs.figures import figure_text
    from zoo.tasks import metric_label
    from zoo.tasks.paired import SIGNIFICANT

    without = gain.without.metrics
    print_table(
        [text("metric"), label(f"with {gain.tta}"), label("without")],
        [
            (metric_label(name), figure_text(name, figure), figure_text(name, without[name]))
            for name, figure in found.metrics.items()
            if name in without
        ],
    )
    difference = gain.only_with - gain.only_without
    what = "more accurate" if difference > 0 else "less accurate" if difference else "as accurate"
    chance = "" if gain.p < SIGNIFICANT or not difference else ", but that may be chance"
    print_facts(
        [
            ("gained", f"{count(gain.only_with, 'image')} right only with {gain.tta}"),
            ("lost", f"{count(gain.only_without, 'image')} right only without"),
            ("verdict", f"{gain.tta} is {what}{chance} (p = {gain.p:.2g})"),
        ]
    )


def _class_table(
    classes: Sequence[ClassFigures],
) -> tuple[Sequence[Column], Sequence[Sequence[str]]]:
    """Return the widest table that fits: with intervals, without, or without AUROC as well."""
    names = ("precision", "recall", "f1", "auroc")
    width = plain_console().width
    layouts: tuple[tuple[Sequence[str], Callable[[Figure | None], str]], ...] = (
        (names, _with_interval),
        (names, _alone),
        (names[:3], _alone),
    )
    for shown, show in layouts:
        columns = [text("class"), number("images"), *map(number, shown)]
        rows = []
        for each in classes:
            cells = [show(getattr(each, name)) for name in shown]
            if not each.images:
                cells = ["not measured", *[""] * (len(shown) - 1)]
            rows.append((each.name, str(each.images), *cells))
        if least_width(columns, rows) <= width:
            break
    return columns, rows


def _alone(figure: Figure | None) -> str:
    return "-" if figure is None else f"{figure.value:.2%}"


def _with_interval(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    return f"{figure.value:.1%} {figure.low * 100:.0f}-{figure.high * 100:.0f}"


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
