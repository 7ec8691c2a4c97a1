"""`zoo runs`: list, diff."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import format_option
from zoo.cli.start import starting
from zoo.cli.tables import label, number, print_facts, print_fitting, print_table, text
from zoo.cli.words import echo, echo_csv, echo_json, human_size
from zoo.io.text import count, listed

if TYPE_CHECKING:
    from zoo.runs.difference import DataDifference, RunDifference, Setting
    from zoo.runs.overview import Listed, Measure

#: The keys of `--sort`; those that measure or date runs put the highest or latest first.
_SORTS = ("name", "date", "backbone", "val", "test", "size")

#: Splits on which a run may have been measured.
_SPLITS = ("val", "test", "folds")

#: Maximum number of classes in the table of differing counts.
MOST_CLASSES = 30


class _Runs(click.Group):
    """A group whose command `list` may be left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("runs", cls=_Runs, short_help="List runs with their figures, or compare two.")
def command() -> None:
    """List runs with their figures, or show what differs between two.

    \b
      zoo runs                          list the runs in runs/
      zoo runs FOLDER                   list the runs in another folder
      zoo runs diff runs/a runs/b       settings, data and figures that differ
    """


@command.command("list", short_help="List runs with their figures (`list` may be left out).")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option(
    "--sort",
    type=click.Choice(_SORTS),
    default="name",
    show_default=True,
    help="Order. By val or test: the best first; by date: the latest first.",
)
@format_option("table", "json", "csv")
def list_command(folder: Path, sort: str, form: str) -> None:
    """List the runs below FOLDER, by default runs/, with their main metric.

    The state is finished; resumable, also while a run is training; or damaged, if the metadata or
    the checkpoint can't be read. zoo verify checks all files. Intervals are at the 95 % level.

    \b
      zoo runs
      zoo runs experiments --sort val
      zoo runs list --format csv
    """
    with starting(allocator_tuning=False):
        from zoo.runs.overview import list_runs

    runs = sorted(list_runs(folder), key=_key(sort))
    if form == "json":
        echo_json(runs)
    elif form == "csv":
        _print_csv(runs)
    elif runs:
        _print_list(runs)
    else:
        echo(f"no runs below {folder}", err=True)


def _key(sort: str) -> Callable[[Listed], tuple[Any, ...]]:
    def key(run: Listed) -> tuple[Any, ...]:
        if sort in _SPLITS:
            found = run.figures.get(sort)
            return (found is None, 0.0 if found is None else -found.value, run.name)
        if sort == "date":
            # Dates of one format sort as texts do; the latest come first.
            return (tuple(-ord(character) for character in run.date), run.name)
        if sort == "size":
            return (-run.size, run.name)
        return (run.backbone or "", run.name) if sort == "backbone" else (run.name,)

    return key


def _print_list(runs: Sequence[Listed]) -> None:
    from zoo.tasks import metric_label

    columns = [
        text("run"),
        label("state"),
        label("val"),
        label("test"),
        label("folds"),
        label("backbone"),
        label("data"),
        label("date"),
        number("size"),
        label("metric"),
    ]
    several = len({run.metric for run in runs} - {None}) > 1
    rows = [
        (
            run.name,
            run.state,
            *(_measure(run.figures.get(split)) for split in _SPLITS),
            run.backbone or "",
            Path(run.data).name if run.data else "demo" if run.classes else "",
            run.date[:16].replace("T", " "),
            human_size(run.size),
            metric_label(run.metric) if several and run.metric else "",
        )
        for run in runs
    ]
    print_fitting(columns, rows)
    for run in runs:
        if run.state == "damaged":
            echo(f"! {run.name}: {run.detail}", err=True)


def _measure(found: Measure | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{found.value:.2%}"
    return f"{found.value:.2%} ({100 * found.low:.1f}-{100 * found.high:.1f})"


def _print_csv(runs: Sequence[Listed]) -> None:
    names = ["name", "path", "state", "date", "size", "backbone", "data", "classes", "metric"]
    ends = [f"{split}{end}" for split in _SPLITS for end in ("", "_low", "_high")]
    rows = []
    for run in runs:
        row = {name: getattr(run, name) for name in (*names, "detail")}
        for split, found in run.figures.items():
            row |= {split: found.value, f"{split}_low": found.low, f"{split}_high": found.high}
        rows.append(row)
    echo_csv(rows, [*names, *ends, "detail"])


@command.command("diff", short_help="Show what differs between two runs.")
@click.argument("first", type=click.Path(path_type=Path), metavar="A")
@click.argument("second", type=click.Path(path_type=Path), metavar="B")
@format_option("table", "json")
def diff_command(first: Path, second: Path, form: str) -> None:
    """Show what differs between the runs A and B, in settings, data and figures.

    Settings are listed with where their values came from. Figures have intervals at the 95 % level;
    whether one run is better than the other on the same images is what zoo compare A B tests.

    \b
      zoo runs diff runs/first runs/second
      zoo runs diff runs/first runs/second --format json
    """
    with starting(allocator_tuning=False):
        from zoo.runs.difference import diff_runs

    found = diff_runs(first, second)
    if form == "json":
        echo_json(found)
    else:
        _print_difference(found)


def _print_difference(found: RunDifference) -> None:
    from zoo.tasks import metric_label

    print_facts([("A", str(found.first)), ("B", str(found.second))])
    echo()
    if found.config:
        columns = [label("setting"), text("A"), text("B"), text("A from"), text("B from")]
        print_table(columns, [_setting(each) for each in found.config])
    else:
        echo("the same settings")
    echo()
    print_facts(_facts(found.data))
    if found.data.counts:
        print_table(
            [label("split"), text("class"), number("A"), number("B")],
            [
                (each.split, each.name, *(_of_class(n) for n in (each.first, each.second)))
                for each in found.data.counts[:MOST_CLASSES]
            ],
        )
        if len(found.data.counts) > MOST_CLASSES:
            echo(f"{MOST_CLASSES} of {len(found.data.counts)} rows (all: --format json)")
    echo()
    print_table(
        [label("split"), label("metric"), label("A"), label("B")],
        [
            (
                each.split,
                metric_label(each.metric),
                _figure(each.metric, each.first),
                _figure(each.metric, each.second),
            )
            for each in found.results
        ],
    )
    if found.comparable:
        what = "the same images: "
        if not found.data.same_source:
            what = "images of the same names: if they are the same images, "
        echo(f"\nboth predict {what}zoo compare A B tests whether one run is better")


def _setting(each: Setting) -> tuple[str, ...]:
    shown = ["not set" if value is None else str(value) for value in (each.first, each.second)]
    return (each.name, *shown, each.first_origin or "", each.second_origin or "")


def _facts(data: DataDifference) -> list[tuple[str, str]]:
    facts = []
    for split, (first, second) in data.images.items():
        if first or second:
            what = "the same" if data.same_source else "the same names"
            same = f" ({what})" if split == "val" and data.same_val else ""
            shared = (data.shared or {}).get(split)
            if shared is not None and not same:
                same = f" ({count(shared, 'image')} in both)"
            facts.append((split, f"{_number(first)} and {_number(second)} images{same}"))
    for name, classes in (("only in A", data.only_first), ("only in B", data.only_second)):
        if classes:
            facts.append((name, f"{count(len(classes), 'class', 'classes')}: {listed(classes)}"))
    if data.reordered:
        facts.append(("classes", "the same, in another order"))
    elif not (data.only_first or data.only_second):
        facts.append(("classes", "the same"))
    return facts


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _of_class(images: int | None) -> str:
    return "no such class" if images is None else _number(images)


def _figure(metric: str, found: Measure | None) -> str:
    if metric not in ("log_loss", "loss") or found is None:
        return _measure(found)
    interval = "" if found.low is None else f" ({found.low:.4f}-{found.high:.4f})"
    return f"{found.value:.4f}{interval}"
