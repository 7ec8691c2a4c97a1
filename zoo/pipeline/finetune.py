"""Fine-tuning, from the recipe to the run folder, and resuming an interrupted run."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo import plugins
from zoo.data.transforms import PixelTransform
from zoo.errors import Stopped, ZooError
from zoo.events import Listener, Measured, Note, RunEnd, RunStart, ignore
from zoo.io.files import expand
from zoo.io.text import listed
from zoo.machine.processes import decide_on_main, exchange, together
from zoo.pipeline.compatibility import keys_of, refuse_more
from zoo.pipeline.conclude import conclude, score_splits
from zoo.pipeline.loggers import open_loggers, with_loggers
from zoo.pipeline.phases import run_stages
from zoo.pipeline.shared_folder import check_shared, find_run
from zoo.pipeline.writer import RunWriter
from zoo.planning import Plan, Prepared, prepare
from zoo.planning.auto import AUTO
from zoo.recipe import Recipe, make_recipe
from zoo.runs.checkpoint_file import ORPHANS, Checkpoint, holding
from zoo.runs.figures import unmeasured
from zoo.runs.folder import open_folder
from zoo.runs.folds import has_folds
from zoo.runs.read import Run, load
from zoo.training.custom import NO_CUSTOM, Custom, Loss
from zoo.training.setup import Control
from zoo.training.signals import stoppable
from zoo.training.snapshot import Snapshot
from zoo.training.state import TrainingState


def finetune(
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    listen: Listener | None = None,
    loggers: Sequence[str] = (),
    report: bool = True,
    loss: Loss | str | None = None,
    transform: PixelTransform | str | None = None,
    **fields: Any,
) -> Run:
    """Fine-tune a backbone and write a run folder.

        run = zoo.finetune("photos", backbone="resnet18", epochs=3)

    Args:
        data: Folder with `CLASS/IMAGE`, or `train/CLASS/IMAGE` and `val/CLASS/IMAGE`; or a CSV or
            Parquet table with `path` and `label`. Default: the recipe's, or else the demo.
        out: The run folder, which must not contain a run. Default: a new one below `runs/`.
        recipe: TOML file with fields, the name of a packaged recipe (`quick`), or a `zoo.Recipe`;
            `fields` take precedence.
        listen: Called with each event of `zoo.events`, and with the `Plan`, as it happens. By
            default, warnings are passed to `warnings.warn` and other events are ignored.
        loggers: Names of loggers declared by plugins, such as `tensorboard`.
        report: Whether to write report.html at the end.
        loss: Loss of fine-tuning in place of the task's: maps (logits (N, classes) float32,
            targets (N, ...) of the task) to their mean loss (). With mixup or CutMix, targets are
            (N, classes) float32. It is called on parts of a batch (`micro_batch`). The probe is
            fitted with the task's loss, and val metrics are the task's. Or the name of a loss that
            a plugin declares.
        transform: Applied to each augmented train image: pixels (C, H, W) uint8 to pixels of the
            same shape and type, such as one of torchvision.transforms.v2, or what
            `zoo.albumentations` returns. It must draw from torch's global generator, and be
            picklable if `workers` is above 0. Or the name of a transform that a plugin declares.
            The run records the names of loss and transform.
        **fields: Fields of `zoo.Recipe`.

    Returns:
        The run, read back from its folder.

    Raises:
        ZooError: An argument, the data or the weights are invalid, which is checked before
            anything is written; or training can't continue.
        zoo.Stopped: A KeyboardInterrupt, after SIGINT (Ctrl-C) or SIGTERM: the current step is
            finished and a checkpoint written, from which `zoo.resume` continues. Signals are not
            handled outside the main thread, or if the program handles them itself.
    """
    listen = with_loggers(listen or warn, open_loggers(loggers))
    if data is not None:
        fields["data"] = data
    custom = _custom(loss, transform, fields)
    made = make_recipe(recipe, **fields)
    if made.needs_folds:
        from zoo.pipeline.folds import finetune_folds

        return finetune_folds(
            made, out=out, given=fields, custom=custom, listen=listen, report=report
        )
    prepared = prepare(made, given=fields, out=out, custom=custom, listen=listen)
    return execute(prepared, listen, report=report)


def resume(
    run: str | Path,
    *,
    allow_changed: bool = False,
    listen: Listener | None = None,
    loggers: Sequence[str] = (),
    report: bool = True,
    loss: Loss | str | None = None,
    transform: PixelTransform | str | None = None,
    **fields: Any,
) -> Run:
    """Resume an interrupted run; the weights equal those of an uninterrupted run.

        run = zoo.resume("runs/photos-resnet18")

    Args:
        run: The run folder. A complete run is only loaded; changing its settings is an error.
        allow_changed: Resume although something that affects the result differs; it is recorded.
        listen: As in `finetune`.
        loggers: As in `finetune`.
        report: As in `finetune`.
        loss: The loss that `finetune` was given. Only its name is compared with the run's. One that
            a plugin declares is found by the run's recipe.
        transform: The transform that `finetune` was given; as for `loss`.
        **fields: Fields of `zoo.Recipe` to change from now on.

    Returns:
        The run, read back from its folder.

    Raises:
        ZooError: There is no checkpoint, it is damaged, or something differs from the run.
        zoo.Stopped: As in `finetune`.
    """
    listen = with_loggers(listen or warn, open_loggers(loggers))
    custom = _custom(loss, transform, fields)
    if has_folds(expand(run)):
        from zoo.pipeline.folds import resume_folds

        return resume_folds(
            expand(run),
            allow_changed=allow_changed,
            custom=custom,
            listen=listen,
            report=report,
            **fields,
        )
    checkpoint = find_run(expand(run))
    if checkpoint is None:
        return load(run)
    if is_complete(checkpoint):
        refuse_more(expand(run), checkpoint, fields)
        return load(run)
    prepared = prepare_again(run, checkpoint, listen, custom, **fields)
    return execute(prepared, listen, checkpoint, allow_changed, report=report)


def _custom(
    loss: Loss | str | None, transform: PixelTransform | str | None, fields: dict[str, Any]
) -> Custom:
    """Return the code that is given as arguments; names of declared code are added to `fields`."""
    if isinstance(loss, str):
        fields["loss"], loss = loss, None
    if isinstance(transform, str):
        fields["transform"], transform = transform, None
    return Custom(loss=loss, transform=transform)


def is_complete(checkpoint: Checkpoint) -> bool:
    """Return whether the run of a checkpoint is complete."""
    return bool(checkpoint.about["complete"])


def start_or_resume(
    folder: Path,
    recipe: Recipe,
    listen: Listener,
    allow_changed: bool = False,
    *,
    report: bool = True,
    with_test: bool = True,
    custom: Custom = NO_CUSTOM,
    prepared: Prepared | None = None,
) -> Run:
    """Start, resume or load the run of a folder, whichever is left to do.

    Args:
        folder: The run folder.
        recipe: Of a new run.
        listen: As in `finetune`.
        allow_changed: As in `resume`.
        report: As in `finetune`.
        with_test: Whether to read test images, if there are any, and measure the model on them.
        custom: Code of the caller that takes part.
        prepared: A new run, if it is prepared already.

    Raises:
        ZooError, Stopped: As in `finetune` and `resume`.
    """
    checkpoint = find_run(folder, allow_new=True)
    if checkpoint is None:
        prepared = prepared or prepare(
            recipe, out=folder, with_test=with_test, custom=custom, listen=listen
        )
        return execute(prepared, listen, report=report)
    if is_complete(checkpoint):
        return load(folder)
    prepared = prepare_again(folder, checkpoint, listen, custom, with_test=with_test)
    return execute(prepared, listen, checkpoint, allow_changed, report=report)


def prepare_again(
    run: str | Path,
    checkpoint: Checkpoint,
    listen: Listener,
    custom: Custom = NO_CUSTOM,
    *,
    with_test: bool = True,
    **fields: Any,
) -> Prepared:
    """Prepare an interrupted run up to its next step.

    Raises:
        ZooError: As in `resume`.
    """
    if fields.get("backbone") == AUTO:
        # The run has chosen one; the same command may start and resume it.
        del fields["backbone"]
    recipe = make_recipe(make_recipe(None, **checkpoint.about["recipe"]), **fields)
    prepared = prepare(
        recipe,
        given=fields,
        out=run,
        resumed=checkpoint.about.get("origins", {}),
        transfer=Snapshot.from_parts(checkpoint.tensors, checkpoint.about).state.transfer,
        with_test=with_test,
        custom=custom,
        listen=listen,
    )
    # The original text may mention sources that were not tried again.
    plan = replace(prepared.plan, weights_source=checkpoint.about["weights_source"])
    return replace(prepared, plan=plan)


def warn(event: object) -> None:
    """Pass warnings and doubts to `warnings.warn`; ignore other events."""
    match event:
        case Note(text=text, warning=True) | Measured(doubt=str(text)):
            warnings.warn(text, stacklevel=2)


def execute(
    prepared: Prepared,
    listen: Listener = ignore,
    checkpoint: Checkpoint | None = None,
    allow_changed: bool = False,
    *,
    report: bool = True,
    stages: Callable[..., None] = run_stages,
) -> Run:
    """Train as planned, write the run folder, and return the run as read back and checked.

    `stages` trains the model and saves it; its arguments are those of `run_stages`.

    Raises:
        ZooError, Stopped: As in `finetune` and `resume`.
    """
    plan, accelerator = prepared.plan, prepared.accelerator
    listen = listen if accelerator.is_main_process else ignore
    with ExitStack() as held:
        folder = decide_on_main(
            accelerator, lambda: _held(plan, held, listen, resuming=checkpoint is not None)
        )
        keys = together(lambda: keys_of(prepared.splits))
        writer = RunWriter(prepared, folder, checkpoint)
        try:
            if plan.processes > 1:
                check_shared(folder)
            if checkpoint is None:
                decide_on_main(accelerator, lambda: writer.begin(keys))
            else:
                decide_on_main(accelerator, lambda: writer.resume(keys, allow_changed, listen))
            listen(
                RunStart(
                    folder=folder,
                    recipe=plan.recipe.model_dump(mode="json"),
                    step=writer.state.step,
                    resumed=checkpoint is not None,
                )
            )
            with stoppable() as stop:
                stages(
                    prepared,
                    keys,
                    writer.state,
                    Control(save=writer.save, last=writer.last, stop=stop, listen=listen),
                    origin=writer.origin,
                    resumed=writer.resumed,
                )
                exchange(None)  # The others must not read what the first one still writes.
                run = together(partial(load, folder, device=plan.recipe.device))
                scored = score_splits(run, prepared, listen)
                if scored is not None:
                    run = conclude(run, prepared, scored, listen, report=report)
                writer.finish()
                if (text := unpredicted(writer.state, plan)) is not None:
                    listen(Note(text=text, warning=True))
                if (text := unmeasured(plan.class_names, plan.val_counts, "val")) is not None:
                    # Said as a warning before training.
                    listen(Note(text=text))
                listen(RunEnd(folder=folder, error=None))
        except KeyboardInterrupt as stopped:
            signum = stopped.signum if isinstance(stopped, Stopped) else signal.SIGINT
            listen(RunEnd(folder=folder, error="interrupted"))
            raise Stopped(signum, writer.outcome()) from None
        except Exception as error:
            # Of any type: the caller's loss may have raised it. A listener must not hide it.
            with suppress(Exception):
                text = str(error) if isinstance(error, ZooError) else plugins.explain(error)
                listen(RunEnd(folder=folder, error=text))
            if checkpoint is not None or writer.kept:
                error.add_note(writer.outcome())
            else:
                writer.drop()
            raise
    return run


def unpredicted(state: TrainingState, plan: Plan) -> str | None:
    """Return which classes the best model predicts for no val image, in a sentence, if any."""
    if not state.never_predicted:
        return None
    names = [plan.class_names[label] for label in state.never_predicted]
    return f"classes that were predicted for no val image: {listed(names)}"


def _held(plan: Plan, held: ExitStack, listen: Listener, *, resuming: bool) -> Path:
    """Return the run folder, locked by this process until `held` is closed."""
    if resuming:
        held.enter_context(holding(plan.out, patience=ORPHANS))
        return plan.out
    folder = held.enter_context(open_folder(plan.out, plan.recipe, default=plan.default_out))
    if folder != plan.out:
        listen(Note(text=f"run folder {folder}: another run has taken {plan.out}", warning=True))
    return folder
