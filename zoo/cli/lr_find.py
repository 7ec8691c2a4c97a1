"""`zoo lr-find`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.options import allocator_option, format_option
from zoo.cli.progress import ProgressListener
from zoo.cli.recipe_options import SectionedCommand, recipe_options
from zoo.cli.start import starting
from zoo.cli.tables import label, number, print_facts, print_table
from zoo.cli.words import echo, echo_json, flag_of
from zoo.errors import RunError

if TYPE_CHECKING:
    from zoo.pipeline.lr_find import RangeTest

#: Number of steps in the table, about.
_SHOWN = 12


@click.command("lr-find", cls=SectionedCommand, short_help="Find a learning rate before training.")
@click.option("--recipe", metavar="FILE|NAME", help="As in zoo finetune.")
@click.option(
    "--min",
    "min_lr",
    type=click.FloatRange(0, min_open=True),
    default=1e-7,
    show_default=True,
    help="Learning rate of the backbone at the first step.",
)
@click.option(
    "--max",
    "max_lr",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="That at the last step.",
)
@click.option(
    "--steps",
    type=click.IntRange(20, 10_000),
    default=100,
    show_default=True,
    help="Number of steps; the test ends earlier if the loss diverges.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg|FILE.png",
    help="Also plot the loss against the learning rate.",
)
@click.option(
    "--csv",
    "steps_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.csv",
    help="Also write learning rates and losses of all steps.",
)
@format_option("table", "json")
@recipe_options(without=("steps", "samples"))
@allocator_option
def command(
    recipe: str | None,
    min_lr: float,
    max_lr: float,
    steps: int,
    out: Path | None,
    steps_file: Path | None,
    form: str,
    allocator_tuning: bool,
    **fields: object,
) -> None:
    """Find a learning rate by a range test: training steps at ever larger learning rates.

    The options are those of zoo finetune, and so are the steps, after the probe if there is one.
    The learning rate of the backbone goes from --min to --max, and the head and all other parameter
    groups keep their ratios to it. The loss first falls and then diverges, which ends the test.
    Only train images are used, and no weights are kept.

    valley is the suggestion for --lr: halfway down the longest fall of the smoothed loss. steep,
    where it falls fastest, is often larger.

    \b
      zoo lr-find --data photos
      zoo lr-find --data photos --backbone resnet18 --optimizer sgd --out rates.svg
      zoo lr-find --recipe mine.toml --min 1e-5 --max 0.1 --steps 200 --csv rates.csv
    """
    if not min_lr < max_lr:
        raise click.UsageError(f"--min {min_lr:g} must be below --max {max_lr:g}")
    with starting(allocator_tuning=allocator_tuning):
        from zoo.machine.processes import is_main
        from zoo.pipeline.lr_find import lr_find, write_steps
        from zoo.pipeline.plot import check_format, plot_range_test

    if out is not None:
        check_format(out)
    for file in (out, steps_file):
        if file is not None and not file.parent.is_dir():
            raise RunError(f"can't write {file}: there is no folder {file.parent}")
    given: dict[str, Any] = {k: v for k, v in fields.items() if v is not None}
    with ProgressListener() as listen:
        test = lr_find(
            recipe=recipe, min_lr=min_lr, max_lr=max_lr, steps=steps, listen=listen, **given
        )
    if not is_main():
        return
    if out is not None:
        plot_range_test(test, out)
    if steps_file is not None:
        write_steps(test, steps_file)
    if form == "json":
        echo_json(asdict(test))
    else:
        _print(test, steps)


def _print(test: RangeTest, steps: int) -> None:
    rows = list(test.rows())
    every = max(1, round(len(rows) / _SHOWN))
    shown = [n for n in range(len(rows)) if not n % every or n == len(rows) - 1]
    marks = {test.valley: "valley", test.steep: "steep"}
    if test.valley == test.steep:
        marks = {test.valley: "valley, steep"}
    shown = sorted({*shown, *(n for n, lr in enumerate(test.lr) if lr in marks)})
    print_table(
        [
            number("step"),
            number("lr"),
            number("lr of the head"),
            number("loss"),
            number("smoothed"),
            label(),
        ],
        [
            (
                str(rows[n]["step"]),
                f"{rows[n]['lr']:.2g}",
                f"{rows[n]['lr_head']:.2g}",
                f"{rows[n]['loss']:.4g}",
                f"{rows[n]['smoothed']:.4g}",
                marks.get(test.lr[n], ""),
            )
            for n in shown
        ],
    )
    echo()
    ended = f"the loss diverged after {len(rows)} of {steps}" if test.diverged else f"all {steps}"
    facts = [("steps", ended), ("recipe", f"{flag_of('lr')} {test.recipe_lr:.2g}")]
    for name, rate in (("valley", test.valley), ("steep", test.steep)):
        if rate is not None:
            head = f"the head has {rate * test.head_lr_mult:.2g}"
            facts.append((name, f"{flag_of('lr')} {rate:.2g} ({head})"))
    print_facts(facts)
