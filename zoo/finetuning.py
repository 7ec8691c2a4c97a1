"""The whole path, from recipe to run folder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.data.split import Splits, names_sha256
from zoo.engine.events import EpochEnd, Interrupted, Listener, Note, ignore
from zoo.engine.processes import decide_on_main
from zoo.errors import ZooError
from zoo.planning import Plan, Prepared, prepare
from zoo.recipe import Recipe, make_recipe
from zoo.run.card import write_card
from zoo.run.folder import open_folder, remove_traces
from zoo.run.read import Run, load, read_info
from zoo.run.write import (
    MODEL,
    ModelInfo,
    append_metrics,
    versions,
    write_config,
    write_model,
)
from zoo.stages import run_stages


def finetune(
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    recipe: str | Path | Recipe | None = None,
    listen: Listener | None = None,
    **fields: Any,
) -> Run:
    """Fine-tune a backbone and leave a run folder.

        run = zoo.finetune("photos", backbone="resnet18", epochs=3)

    Args:
        data: Folder with `CLASS/IMAGE`, or `train/CLASS/IMAGE` and `val/CLASS/IMAGE`; None for the
            recipe's, or the demo.
        out: The run folder, which must not hold a run; default: a new one below `runs/`.
        recipe: TOML file with fields, or a `zoo.Recipe`; those given here win.
        listen: Called with a `Note`, `Plan`, `StepEnd`, `EpochEnd` or `Interrupted` as it happens.
            By default only a warning makes itself heard, as a UserWarning.
        **fields: Fields of `zoo.Recipe`.

    Returns:
        The run, as read back from its folder.

    Raises:
        ZooError: Whatever is wrong with what was given, before anything is written; or training
            that can't go on.
        KeyboardInterrupt: Interrupted before the first epoch ended. After that, an interrupt ends
            training and the best epoch so far is returned.
    """
    listen = listen or warn
    if data is not None:
        fields["data"] = data
    return execute(prepare(make_recipe(recipe, **fields), out=out, listen=listen), listen)


def warn(event: object) -> None:
    """Listen to warnings alone, and pass them to Python's own."""
    if isinstance(event, Note) and event.warning:
        warnings.warn(event.text, stacklevel=2)


def execute(prepared: Prepared, listen: Listener = ignore) -> Run:
    """Train as planned and leave the run folder, read back and checked.

    Raises:
        ZooError, KeyboardInterrupt: As in `finetune`.
    """
    plan, recipe, splits = prepared.plan, prepared.plan.recipe, prepared.splits
    accelerator, backbone = prepared.accelerator, prepared.backbone
    main = accelerator.is_main_process
    listen = listen if main else ignore
    folder = decide_on_main(
        accelerator, lambda: open_folder(plan.out, recipe, default=plan.default_out)
    )
    if folder != plan.out:
        listen(Note(text=f"run folder {folder}: another run has taken {plan.out}", warning=True))

    def keep(model: nn.Module, end: EpochEnd) -> None:
        if not main:
            return
        if end.best:
            info = _info(plan, end, splits)
            write_config(folder, backbone, info)
            write_model(folder, model.state_dict(), info)
            write_card(folder, info, backbone, train=plan.train_counts, val=plan.val_counts)
        append_metrics(folder, {k: v for k, v in vars(end).items() if k != "best"})

    try:
        run_stages(
            prepared,
            class_weights=_class_weights(recipe, plan.train_counts),
            keep=keep,
            listen=listen,
        )
        accelerator.wait_for_everyone()
    except KeyboardInterrupt:
        kept = _kept(folder, main)
        if kept is None:
            raise
        listen(Interrupted(epoch=kept.epoch, val_accuracy=kept.val_accuracy))
    except ZooError as error:
        kept = _kept(folder, main)
        if kept is None:
            raise
        where = f"kept the best so far in {folder}: {kept.stage}, {kept.val_accuracy:.2%}"
        raise type(error)(f"{error}\n{where}") from error
    finally:
        if main:
            remove_traces(folder)
    return load(folder, device=recipe.device)


def _kept(folder: Path, main: bool) -> ModelInfo | None:
    """What the main process finds kept, as the file itself says."""
    return read_info(folder / MODEL) if main and (folder / MODEL).exists() else None


def _class_weights(recipe: Recipe, counts: Sequence[int]) -> torch.Tensor | None:
    """Inverse frequency, with mean 1 over the images (scikit-learn's `balanced`)."""
    if recipe.class_weights == "none":
        return None
    return torch.tensor([sum(counts) / (len(counts) * count) for count in counts])


def _info(plan: Plan, end: EpochEnd, splits: Splits) -> ModelInfo:
    return ModelInfo(
        backbone=plan.backbone,
        class_names=plan.class_names,
        preprocess=plan.preprocess,
        recipe=plan.recipe,
        weights_source=plan.weights_source,
        epoch=end.epoch,
        val_accuracy=end.val_accuracy,
        val_sha256=names_sha256(splits.val),
        versions=versions(),
    )
