"""The whole path, from recipe to run folder; and on from where one was interrupted."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo.data.decoded import content_keys
from zoo.errors import Stopped, ZooError
from zoo.events import Listener, Note, RunEnd, RunStart, ignore
from zoo.io.files import expand
from zoo.io.text import listed
from zoo.machine.processes import decide_on_main, together
from zoo.pipeline.compatibility import DataKeys, refuse_more
from zoo.pipeline.loggers import open_loggers, with_loggers
from zoo.pipeline.phases import run_stages
from zoo.pipeline.shared_folder import check_shared, find_run
from zoo.pipeline.writer import RunWriter
from zoo.planning import Plan, Prepared, prepare
from zoo.recipe import Recipe, make_recipe
from zoo.runs.checkpoint_file import ORPHANS, Checkpoint, holding
from zoo.runs.folder import open_folder
from zoo.runs.read import Run, load
from zoo.tasks import TASKS, metric_label
from zoo.training.setup import Control
from zoo.training.state import TrainingState
from zoo.training.stopping import stoppable


def finetune(
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    listen: Listener | None = None,
    loggers: Sequence[str] = (),
    **fields: Any,
) -> Run:
    """Fine-tune a backbone and leave a run folder.

        run = zoo.finetune("photos", backbone="resnet18", epochs=3)

    Args:
        data: Folder with `CLASS/IMAGE`, or `train/CLASS/IMAGE` and `val/CLASS/IMAGE`; or a CSV or
            Parquet table with `path` and `label`; None for the recipe's, or the demo.
        out: The run folder, which must not hold a run; default: a new one below `runs/`.
        recipe: TOML file with fields, the name of a recipe that zoo brings (`quick`), or a
            `zoo.Recipe`; fields given here win.
        listen: Called with each event of `zoo.events`, and the `Plan`, as it happens. By default
            warnings are passed to `warnings.warn`, all else is ignored.
        loggers: Names of loggers that plugins declare, such as `tensorboard`.
        **fields: Fields of `zoo.Recipe`.

    Returns:
        The run, as read back from its folder.

    Raises:
        ZooError: Whatever is wrong with what was given, before anything is written; or training
            that can't go on.
        zoo.Stopped: SIGINT (Ctrl-C) or SIGTERM, a KeyboardInterrupt: the step was finished, a
            checkpoint written; `zoo.resume` goes on from there. Signals are left alone outside the
            main thread, and where the program handles them itself.
    """
    listen = with_loggers(listen or warn, open_loggers(loggers))
    if data is not None:
        fields["data"] = data
    return execute(
        prepare(make_recipe(recipe, **fields), given=fields, out=out, listen=listen), listen
    )


def resume(
    run: str | Path,
    *,
    allow_changed: bool = False,
    listen: Listener | None = None,
    loggers: Sequence[str] = (),
    **fields: Any,
) -> Run:
    """Go on with a run that was interrupted, and come to the very weights it would have come to.

        run = zoo.resume("runs/photos-resnet18")

    Args:
        run: Its folder. One that is complete is only read; to change it is an error.
        allow_changed: Go on although something that decides the result differs; the run says so.
        listen: As in `finetune`.
        loggers: As in `finetune`.
        **fields: Fields of `zoo.Recipe` that are to be others from now on.

    Returns:
        The run, as read back from its folder.

    Raises:
        ZooError: There is nothing to go on from, it is damaged, or something differs.
        zoo.Stopped: As in `finetune`.
    """
    listen = with_loggers(listen or warn, open_loggers(loggers))
    checkpoint = find_run(expand(run))
    if checkpoint is None:
        return load(run)
    if is_complete(checkpoint):
        refuse_more(expand(run), checkpoint, fields)
        return load(run)
    return execute(
        prepare_again(run, checkpoint, listen, **fields), listen, checkpoint, allow_changed
    )


def is_complete(checkpoint: Checkpoint) -> bool:
    """Whether there is nothing left to do."""
    return bool(checkpoint.about["complete"])


def prepare_again(
    run: str | Path, checkpoint: Checkpoint, listen: Listener, **fields: Any
) -> Prepared:
    """Everything up to the next step of an interrupted run.

    Raises:
        ZooError: As in `resume`.
    """
    recipe = make_recipe(make_recipe(None, **checkpoint.about["recipe"]), **fields)
    prepared = prepare(
        recipe, given=fields, out=run, resumed=checkpoint.about.get("origins", {}), listen=listen
    )
    # In words that may tell of places which are not tried again.
    plan = replace(prepared.plan, weights_source=checkpoint.about["weights_source"])
    return replace(prepared, plan=plan)


def warn(event: object) -> None:
    """Listen to warnings alone, and pass them to Python's own."""
    if isinstance(event, Note) and event.warning:
        warnings.warn(event.text, stacklevel=2)


def execute(
    prepared: Prepared,
    listen: Listener = ignore,
    checkpoint: Checkpoint | None = None,
    allow_changed: bool = False,
) -> Run:
    """Train as planned and leave the run folder, read back and checked.

    Args:
        prepared: Ready to start, or to go on.
        listen: Hears what happens.
        checkpoint: What an interrupted run goes on from.
        allow_changed: As in `resume`.

    Raises:
        ZooError, Stopped: As in `finetune` and `resume`.
    """
    plan, accelerator = prepared.plan, prepared.accelerator
    listen = listen if accelerator.is_main_process else ignore
    with ExitStack() as held:
        folder = decide_on_main(
            accelerator, lambda: _held(plan, held, listen, resuming=checkpoint is not None)
        )
        keys = together(
            lambda: DataKeys(
                train=content_keys(prepared.splits.train), val=content_keys(prepared.splits.val)
            )
        )
        writer = RunWriter(prepared, folder, checkpoint)
        try:
            if plan.processes > 1:
                check_shared(folder)
            if checkpoint is None:
                decide_on_main(accelerator, lambda: writer.begin(keys))
            else:
                decide_on_main(accelerator, lambda: writer.go_on(keys, allow_changed, listen))
            listen(
                RunStart(
                    folder=folder,
                    recipe=plan.recipe.model_dump(mode="json"),
                    step=writer.state.step,
                    resumed=checkpoint is not None,
                )
            )
            with stoppable() as stop:
                run_stages(
                    prepared,
                    keys,
                    writer.state,
                    Control(save=writer.save, last=writer.last, stop=stop, listen=listen),
                    origin=writer.origin,
                    resumed=writer.resumed,
                )
                accelerator.wait_for_everyone()
                writer.finish()
                for text in doubts(writer.state, plan):
                    listen(Note(text=text, warning=True))
                listen(RunEnd(folder=folder, error=None))
        except KeyboardInterrupt as stopped:
            signum = stopped.signum if isinstance(stopped, Stopped) else signal.SIGINT
            listen(RunEnd(folder=folder, error="interrupted"))
            raise Stopped(signum, writer.outcome()) from None
        except ZooError as error:
            listen(RunEnd(folder=folder, error=str(error)))
            if checkpoint is not None or writer.kept:
                error.add_note(writer.outcome())
            else:
                writer.drop()
            raise
    return load(folder, device=plan.recipe.device)


def doubts(state: TrainingState, plan: Plan) -> list[str]:
    """Why the kept model may be of little use, a sentence each; mostly nothing."""
    found = []
    task = TASKS[plan.recipe.task]
    baseline = task.baseline(plan.val_counts, plan.val_images)
    if state.best_score <= baseline.value:
        found.append(
            f"val {metric_label(task.main)} {state.best_score:.2%} is no better than "
            f"{baseline.what} ({baseline.value:.2%})"
        )
    if state.never_predicted:
        names = [plan.class_names[label] for label in state.never_predicted]
        found.append(f"classes that were predicted for no val image: {listed(names)}")
    return found


def _held(plan: Plan, held: ExitStack, listen: Listener, *, resuming: bool) -> Path:
    """The run folder, held by this process until `held` is closed."""
    if resuming:
        held.enter_context(holding(plan.out, patience=ORPHANS))
        return plan.out
    folder = held.enter_context(open_folder(plan.out, plan.recipe, default=plan.default_out))
    if folder != plan.out:
        listen(Note(text=f"run folder {folder}: another run has taken {plan.out}", warning=True))
    return folder
