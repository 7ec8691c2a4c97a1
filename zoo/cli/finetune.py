"""`zoo finetune`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.options import allocator_option
from zoo.cli.recipe_options import SectionedCommand, recipe_options
from zoo.cli.start import starting
from zoo.cli.words import echo
from zoo.errors import Stopped
from zoo.io.files import expand
from zoo.recipe import PACKAGED, Recipe, change, make_recipe

if TYPE_CHECKING:
    from zoo.events import Listener
    from zoo.runs.read import Run


@click.command("finetune", cls=SectionedCommand, short_help="Train a classifier on your images.")
@click.option(
    "--recipe",
    metavar="FILE|NAME",
    help="TOML file with any of the options below, or the name of a packaged recipe: "
    f"{', '.join(PACKAGED)}. A file without .toml needs its folder (./NAME). "
    "Options on the command line take precedence.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run folder, new or empty.  [default: a new one in runs/]",
)
@click.option(
    "--resume",
    metavar="RUN|auto",
    help="Resume an interrupted run from its folder, to the same weights; options given here "
    "change it. auto: with --out, start the run or resume it.",
)
@click.option(
    "--allow-changed",
    is_flag=True,
    help="Resume although images or options differ; the differences are recorded in the run.",
)
@click.option(
    "--logger",
    "loggers",
    multiple=True,
    metavar="NAME",
    help="Also log to NAME, such as tensorboard; zoo plugins lists them. May be repeated.",
)
@click.option(
    "--report/--no-report",
    default=True,
    help="Write report.html, with figures, plots and mistakes, at the end.  [default: yes]",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and stop; nothing is written.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Also print the memory allocator, cache use and the fit of the probe.",
)
@recipe_options()
@allocator_option
def command(
    recipe: str | None,
    out: Path | None,
    resume: str | None,
    allow_changed: bool,
    loggers: tuple[str, ...],
    report: bool,
    dry_run: bool,
    verbose: bool,
    allocator_tuning: bool,
    **fields: object,
) -> None:
    """Fine-tune a pretrained backbone on a folder of images and write a run folder.

    Some defaults differ for the demo, for SGD and for random weights; the plan lists them.

    \b
      zoo finetune                                    run the demo
      zoo finetune --data photos                      use the default backbone and settings
      zoo finetune --data photos --backbone resnet18  use another backbone
      zoo finetune --data photos --freeze backbone    train only the head: fastest
      zoo finetune --data photos --recipe quick       get a first result in seconds
      zoo finetune --recipe runs/x/recipe.toml        repeat a run
      zoo finetune --resume runs/x                    resume an interrupted run

    Ctrl-C or SIGTERM writes a checkpoint after the current step; the exit code is 130 or 143.
    """
    given = {k: v for k, v in fields.items() if v is not None}
    made = make_recipe(recipe, **given)
    _check_options(recipe, out, resume, allow_changed)
    with starting(allocator_tuning=allocator_tuning):
        from zoo.cli.console import TrainingConsole
        from zoo.machine.processes import is_main
        from zoo.pipeline.compatibility import refuse_more
        from zoo.pipeline.finetune import execute, is_complete, prepare_again
        from zoo.pipeline.loggers import open_loggers, with_loggers
        from zoo.pipeline.shared_folder import find_run
        from zoo.planning import prepare
        from zoo.runs.read import load

    with TrainingConsole(verbose=verbose, flags=True) as console:
        try:
            listen = with_loggers(console, open_loggers(loggers))
            folder = expand(out if out is not None else resume or ".")
            checkpoint = None
            changed = {name: getattr(made, name) for name in made.model_fields_set}
            if not dry_run and (
                of_folds := _on_folds(made, given, out, resume, listen, allow_changed, report)
            ):
                if is_main():
                    console.result(of_folds)
                return
            if resume is not None:
                checkpoint = find_run(folder, allow_new=resume == "auto")
            if checkpoint is not None and is_complete(checkpoint):
                refuse_more(folder, checkpoint, changed)
                if is_main():
                    console.say("the run is complete already; there is nothing to resume")
                    console.result(load(folder))
                return
            if checkpoint is None:
                made = change(made, fold=1) if made.needs_folds else made
                prepared = prepare(made, given=given, out=out, listen=listen)
            else:
                prepared = prepare_again(folder, checkpoint, listen, **changed)
            main = prepared.accelerator.is_main_process
            if not dry_run:
                run = execute(prepared, listen, checkpoint, allow_changed, report=report)
        except Stopped as stopped:
            console.stopped(stopped)
            raise SystemExit(128 + stopped.signum) from None
        except KeyboardInterrupt:
            echo("! interrupted before anything was written", err=True)
            raise SystemExit(130) from None
        if main and dry_run:
            console.say("dry run: nothing was trained or written")
        elif main:
            console.result(run)


def _on_folds(
    made: Recipe,
    given: Mapping[str, object],
    out: Path | None,
    resume: str | None,
    listen: Listener,
    allow_changed: bool,
    report: bool,
) -> Run | None:
    """Start or resume runs on folds; None if there are none to start or to resume."""
    from zoo.pipeline.folds import finetune_folds, resume_folds
    from zoo.runs.folds import has_folds

    folder = expand(out if out is not None else resume or ".")
    if resume is not None and has_folds(folder):
        changed = {name: getattr(made, name) for name in made.model_fields_set}
        return resume_folds(
            folder, allow_changed=allow_changed, listen=listen, report=report, **changed
        )
    if made.needs_folds and resume in (None, "auto"):
        return finetune_folds(made, out=out, given=given, listen=listen, report=report)
    return None


def _check_options(
    recipe: str | None, out: Path | None, resume: str | None, allow_changed: bool
) -> None:
    if resume == "auto" and out is None:
        raise click.UsageError("--resume auto needs --out, the folder of the run")
    if resume not in (None, "auto") and (out is not None or recipe is not None):
        raise click.UsageError(f"--resume {resume} can't be used with --out or --recipe")
    if allow_changed and resume is None:
        raise click.UsageError("--allow-changed can only be used with --resume")
