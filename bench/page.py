"""The figures of compare.py as tables, as docs/performance.md and as docs/performance.svg."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runs import (
    Row,
    Run,
    Spread,
    accuracy_after,
    best_accuracy,
    equal_time,
    images_per_second,
    seconds_per_epoch,
    seconds_to,
    spread,
)
from tools import REFERENCE

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
START, END = "<!-- compare.py writes from here -->", "<!-- to here -->"
#: Val accuracies that the time is taken to.
GOALS = (0.90, 0.93)

Results = tuple[dict[str, Any], list[Row]]
#: (heading, figure of a run, format of a number)
Column = tuple[str, Callable[[Run], float | None], Callable[[float], str]]


def render(results: Sequence[Results], page: Path = PAGE) -> None:
    """Rewrite the page between its markers, and the figure beside it from the first results.

    Raises:
        ValueError: The page lacks the markers.
    """
    text = page.read_text(encoding="utf-8")
    if START not in text or END not in text:
        raise ValueError(f"{page} has no lines {START!r} and {END!r} to write between")
    before, after = text.split(START)[0], text.split(END)[1]
    figure = page.with_suffix(".svg")
    draw(results[0][1], figure)
    picture = f"![Val accuracy over seconds, a line a tool]({figure.name})"
    parts = [f"{_heading(about)}\n\n{tables(about, rows)}" for about, rows in results]
    written = "\n\n".join([parts[0], picture, *parts[1:]])
    page.write_text(f"{before}{START}\n\n{written}\n\n{END}{after}", encoding="utf-8")


def tables(about: dict[str, Any], rows: Sequence[Row]) -> str:
    """What was measured, ratios to zoo's, and the settings, in Markdown."""
    columns = _columns(rows)
    compared = [column for column in columns if "accuracy" not in column[0]]
    ran = [row for row in rows if row.runs]
    parts = [
        _described(about),
        _table(["tool", *(c[0] for c in columns)], [_figures(row, columns) for row in rows]),
    ]
    if zoo := next((row for row in ran if row.name == REFERENCE), None):
        parts += [
            f"The same divided by {REFERENCE}'s: above 1 is worse than it, for images/s better.",
            _table(
                ["tool", *(c[0] for c in compared)], [_ratios(row, zoo, compared) for row in ran]
            ),
        ]
    return "\n\n".join([*parts, "\n".join(f"- {row.name}: {row.settings}." for row in ran)])


def draw(rows: Sequence[Row], file: Path) -> None:
    """Val accuracy over seconds since process start, medians of the rounds, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "zoo"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row in rows:
        if row.runs and row.learns:
            seconds, accuracies = _curve(row)
            style = "-" if row.name.startswith("zoo ") else "--"
            axes.plot(seconds, accuracies, style, marker="o", markersize=3, label=row.name)
    axes.set(xlabel="seconds since the process started", ylabel="val accuracy", xlim=(0, None))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _columns(rows: Sequence[Row]) -> list[Column]:
    columns: list[Column] = [
        (f"s to {goal:.0%}", lambda run, goal=goal: seconds_to(run, goal), "{:.1f}".format)
        for goal in GOALS
    ]
    limit = equal_time(rows)
    if math.isfinite(limit):
        columns.append(
            (f"accuracy after {limit:.0f} s", lambda run: accuracy_after(run, limit), _percent)
        )
    return [
        *columns,
        ("best accuracy", best_accuracy, _percent),
        ("s in all", lambda run: run.seconds, "{:.1f}".format),
        ("images/s in training", images_per_second, "{:.1f}".format),
        ("s per epoch", seconds_per_epoch, "{:.1f}".format),
        ("peak memory, MB", lambda run: run.peak_mb, "{:.0f}".format),
    ]


def _figures(row: Row, columns: Sequence[Column]) -> list[str]:
    if not row.runs:
        return [row.name, row.problem or "not run", *[""] * (len(columns) - 1)]
    return [row.name, *(_figure(row, column) for column in columns)]


def _figure(row: Row, column: Column) -> str:
    found = _shown(row, column)
    if found is None:
        return "-"
    median, least, most = (
        column[2](value) if math.isfinite(value) else "never"
        for value in (found.median, found.least, found.most)
    )
    return median if least == most else f"{median} ({least} to {most})"


def _shown(row: Row, column: Column) -> Spread | None:
    """The column's figure; None for the time to an accuracy where none can be compared."""
    heading, figure, _ = column
    return None if heading.startswith("s to") and not row.learns else spread(row, figure)


def _ratios(row: Row, zoo: Row, columns: Sequence[Column]) -> list[str]:
    pairs = [(_shown(row, column), _shown(zoo, column)) for column in columns]
    return [
        row.name,
        *(
            f"{mine.median / its.median:.2f}"
            if mine and its and math.isfinite(mine.median) and 0 < its.median < math.inf
            else "-"
            for mine, its in pairs
        ),
    ]


def _curve(row: Row) -> tuple[list[float], list[float]]:
    """Medians, over the rounds, of the time and the accuracy of each report."""
    known = [[p for p in run.points if p.val_accuracy is not None] for run in row.runs]
    reports = list(zip(*known, strict=False))
    return (
        [statistics.median(p.t for p in points) for points in reports],
        [statistics.median(p.val_accuracy for p in points) for points in reports],
    )


def _heading(about: dict[str, Any]) -> str:
    return "## The others with zoo's allocator setting" if about["allocator"] else "## As they come"


def _described(about: dict[str, Any]) -> str:
    data, versions = about["data"], about["versions"]
    load = "" if about["load"] is None else f", load {about['load']:.1f} at the start"
    return (
        f"{data['name']}: {data['classes']} classes, {data['train']} train and {data['val']} val "
        f"images. {about['processor']}, {about['threads']} threads on {about['cores']} cores"
        f"{load}. {about['rounds']} rounds: median (least to most). "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _percent(value: float) -> str:
    return f"{value:.1%}"
