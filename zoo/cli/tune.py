"""`zoo tune`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from zoo.cli.options import allocator_option
from zoo.cli.recipe_options import SectionedCommand, recipe_options
from zoo.cli.start import starting
from zoo.cli.tables import label, number, plain_console, print_facts, print_table, text
from zoo.cli.words import echo, with_flags
from zoo.events import Note, Progress, StepEnd, TrialEnd
from zoo.io.text import clip, count
from zoo.recipe import PACKAGED
from zoo.recipe.search import value_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo.cli.console import TrainingConsole
    from zoo.runs.search import Search

#: Widths of the columns of the table of trials, because rows are printed one by one.
_COLUMNS = (
    number("trial", least=5),
    label("state", least=8),
    number("val", least=7),
    number("epochs", least=6),
    number("seconds", least=7),
    text("values"),
)


@click.command("tune", cls=SectionedCommand, short_help="Search for the best settings.")
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="FIELD=RANGE",
    help="Search an option among LOW..HIGH, or values separated by commas, such as lr=1e-5..1e-3 "
    "or mixup=0,0.2. Rates have a log scale, others a linear one; LOW..HIGH:log and "
    "LOW..HIGH:linear choose it. May be repeated.  [default: learning rate, layer-wise decay, "
    "weight decay, label smoothing, mixup and augmentation, those that are not given]",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum number of trials.  [default: as many as fit into --time]",
)
@click.option(
    "--recipe",
    metavar="FILE|NAME",
    help="TOML file with any of the options below, which are fixed, and ranges in a table "
    f"[search]; or the name of a packaged recipe: {', '.join(PACKAGED)}.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the search, new or empty.  [default: a new one in runs/]",
)
@click.option(
    "--resume",
    metavar="FOLDER|auto",
    help="Go on with an interrupted search, or, with more --time or --trials, with one that has "
    "ended. auto: with --out, start the search or resume it.",
)
@recipe_options(
    without=("folds", "fold"),
    helps={
        "time": "Time limit for the whole search, such as 90s, 10m or 2h. A trial is started only "
        "if it can end in time.",
        "epochs": "Number of epochs of each trial.",
        "val": "Folder or table of the val images, which choose the best trial. Default: the val "
        "split of the data, or else a part of train.",
        "test": "Folder or table of the test images, which the search does not use; it is written "
        "to the best recipe.",
    },
)
@allocator_option
def command(
    ranges: tuple[str, ...],
    trials: int | None,
    recipe: str | None,
    out: Path | None,
    resume: str | None,
    allocator_tuning: bool,
    **fields: object,
) -> None:
    """Search for the best settings within a time, by successive halving.

    Each trial is a run with values of its own. After a ninth and a third of its epochs it is
    stopped, unless it is among the best third so far. Trials are compared on val; test images are
    not used. The first trial has the values that zoo finetune would use.

    Writes trials.csv, a plot (trials.svg), the best recipe (best.toml), which zoo finetune reads,
    and keeps the run of the best trial.

    \b
      zoo tune --data photos --time 1h
      zoo tune --data photos --time 1h --range lr=1e-5..1e-3 --range mixup=0,0.2
      zoo tune --data photos --trials 20 --train finetune --range optimizer=adamw,lamb
      zoo tune --resume runs/tune-photos-efficientnet_lite0 --time 2h
      zoo finetune --recipe runs/tune-photos-efficientnet_lite0/best.toml

    Ctrl-C or SIGTERM stops the search after the current step, as in zoo finetune.
    """
    given: dict[str, Any] = {k: v for k, v in fields.items() if v is not None}
    if resume == "auto" and out is None:
        raise click.UsageError("--resume auto needs --out, the folder of the search")
    if resume not in (None, "auto") and (out is not None or recipe is not None):
        raise click.UsageError(f"--resume {resume} can't be used with --out or --recipe")
    again: bool | Literal["auto"] = "auto" if resume == "auto" else resume is not None
    among = _by_field(ranges)
    with starting(allocator_tuning=allocator_tuning):
        from zoo.cli.console import TrainingConsole
        from zoo.errors import Stopped
        from zoo.pipeline.tune import tune

    with TrainingConsole(flags=True) as training:
        console = _SearchConsole(training)
        try:
            search = tune(
                ranges=among,
                out=resume if resume not in (None, "auto") else out,
                recipe=recipe,
                trials=trials,
                resume=again,
                listen=console,
                **given,
            )
        except Stopped as stopped:
            training.stopped(stopped)
            raise SystemExit(128 + stopped.signum) from None
    _print_result(search)


def _by_field(ranges: tuple[str, ...]) -> Mapping[str, str]:
    """Return the text of each range by its field."""
    found: dict[str, str] = {}
    for given in ranges:
        name, separator, among = given.partition("=")
        # As in an option: `--range layer-decay=0.6..1`.
        name = name.strip().replace("-", "_")
        if not separator or not name or not among:
            raise click.UsageError(f"--range {given!r} is not FIELD=RANGE, such as lr=1e-5..1e-3")
        if name in found:
            raise click.UsageError(f"--range {name} is given twice")
        found[name] = among
    return found


class _SearchConsole:
    """A listener that prints warnings and a line for each trial, and shows progress.

    Args:
        training: Shows the progress of a run.
    """

    def __init__(self, training: TrainingConsole) -> None:
        self._training = training
        self._header = True

    def __call__(self, event: object) -> None:
        """Print an event."""
        match event:
            case Note(warning=True) | Progress() | StepEnd():
                self._training(event)
            case TrialEnd():
                self._end(event)

    def _end(self, end: TrialEnd) -> None:
        values = " ".join(f"{k}={_short(v)}" for k, v in end.params.items())
        cells = (
            str(end.number),
            "best" if end.best else "unfinished" if end.state == "running" else end.state,
            "-" if end.value is None else f"{end.value:.4f}",
            str(end.epochs),
            f"{end.seconds:.0f}",
            f"{values}: {clip(with_flags(end.reason), 100)}" if end.reason else values,
        )
        console = self._training.out
        style = "green" if end.best else None
        print_table(_COLUMNS, [cells], console=console, header=self._header, style=style)
        self._header = False


def _short(value: bool | int | float | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value_text(value)


def _print_result(search: Search) -> None:
    from zoo.runs.search import BEST, PLOT, TABLE
    from zoo.tasks import metric_label

    best = search.best
    if best is None:
        return
    states = [trial.state for trial in search.trials]
    made = ", ".join(
        f"{states.count(state)} {'unfinished' if state == 'running' else state}"
        for state in ("complete", "pruned", "failed", "running")
        if state in states
    )
    values = " ".join(f"{name}={_short(value)}" for name, value in best.params.items())
    recipe = search.path / BEST
    echo()
    print_facts(
        [
            ("trials", f"{count(len(states), 'trial')}: {made}; {search.seconds:.0f} s"),
            ("best", f"trial {best.number}, val {metric_label(search.metric)} {best.value:.4f}"),
            ("", values),
            ("", "chosen on val, so its figure there is optimistic"),
        ],
        console=plain_console(),
    )
    print_facts(
        [
            ("table", str(search.path / TABLE)),
            ("plot", str(search.path / PLOT)),
            ("run", str(search.folder_of(best))),
            ("recipe", f"zoo finetune --recipe {shlex.quote(str(recipe))}"),
        ],
        least=len("trials"),
        wrapped=False,
    )
