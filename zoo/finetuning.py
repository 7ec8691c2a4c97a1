"""The whole path, from recipe to run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.data.dataset import eval_loader, train_loader
from zoo.data.transforms import eval_transform, train_transform
from zoo.engine.events import EpochEnd, Interrupted, Listener, ignore
from zoo.engine.train import train
from zoo.planning import Plan, Prepared, prepare
from zoo.recipe import Recipe, make_recipe
from zoo.run.card import write_card
from zoo.run.folder import open_folder, remove_traces
from zoo.run.inference import BATCH_SIZE
from zoo.run.read import Run, load
from zoo.run.write import (
    MODEL,
    ModelInfo,
    append_metrics,
    versions,
    write_config,
    write_model,
)


def finetune(
    data: str | Path | None = None,
    *,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    listen: Listener = ignore,
    **fields: Any,
) -> Run:
    """Fine-tune a backbone and leave a run folder.

        run = zoo.finetune("photos", backbone="resnet18", epochs=3)

    Args:
        data: Folder with `CLASS/IMAGE`, or `train/CLASS/IMAGE` and `val/CLASS/IMAGE`; None for the
            recipe's, or the demo.
        out: The run folder, which must not hold a run; default: a new one below `runs/`.
        recipe: TOML file with fields; those given here win.
        listen: Called with a `Note`, `Plan`, `StepEnd`, `EpochEnd` or `Interrupted` as it happens.
        **fields: Fields of `zoo.Recipe`.

    Returns:
        The run, as read back from its folder.

    Raises:
        ZooError: Whatever is wrong with what was given, before anything is written; or training
            that can't go on.
        KeyboardInterrupt: Interrupted before the first epoch ended. After that, an interrupt ends
            training and the best epoch so far is returned.
    """
    if data is not None:
        fields["data"] = str(data)
    made = make_recipe(Path(recipe) if recipe is not None else None, **fields)
    return execute(prepare(made, out=out, listen=listen), listen)


def execute(prepared: Prepared, listen: Listener = ignore) -> Run:
    """Train as planned and leave the run folder, read back and checked.

    Raises:
        ZooError, KeyboardInterrupt: As in `finetune`.
    """
    plan, recipe, splits = prepared.plan, prepared.plan.recipe, prepared.splits
    accelerator, folder = prepared.accelerator, prepared.plan.out
    main = accelerator.is_main_process
    best: ModelInfo | None = None

    def keep(model: nn.Module, end: EpochEnd) -> None:
        nonlocal best
        if not main:
            return
        if end.best:
            info = _info(plan, end)
            write_model(folder, model.state_dict(), info)
            write_config(folder, prepared.backbone, info)
            write_card(
                folder, info, prepared.backbone, train=plan.train_counts, val=plan.val_counts
            )
            best = info
        append_metrics(folder, {k: v for k, v in vars(end).items() if k != "best"})

    batches, sampler = train_loader(
        splits.train,
        train_transform(plan.preprocess, recipe.augment, recipe.hflip),
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        workers=recipe.workers or 0,
    )
    val_batches = eval_loader(
        splits.val,
        eval_transform(plan.preprocess),
        batch_size=BATCH_SIZE,
        workers=recipe.workers or 0,
    )
    try:
        if main:
            open_folder(folder, recipe)
        train(
            prepared.model,
            prepared.backbone,
            recipe,
            accelerator=accelerator,
            train_batches=batches,
            sampler=sampler,
            val_batches=val_batches,
            class_weights=_class_weights(recipe, plan.train_counts),
            keep=keep,
            listen=listen if main else ignore,
        )
    except KeyboardInterrupt:
        if best is None:
            raise
        listen(Interrupted(epoch=best.epoch, val_accuracy=best.val_accuracy))
    finally:
        if main and not (folder / MODEL).exists():
            remove_traces(folder)
    accelerator.wait_for_everyone()
    return load(folder, device=recipe.device)


def _class_weights(recipe: Recipe, counts: Sequence[int]) -> torch.Tensor | None:
    """Inverse frequency, with mean 1 over the images (scikit-learn's `balanced`)."""
    if recipe.class_weights == "none":
        return None
    return torch.tensor([sum(counts) / (len(counts) * count) for count in counts])


def _info(plan: Plan, end: EpochEnd) -> ModelInfo:
    return ModelInfo(
        backbone=plan.backbone,
        class_names=plan.class_names,
        preprocess=plan.preprocess,
        recipe=plan.recipe,
        weights_source=plan.weights_source,
        epoch=end.epoch,
        val_accuracy=end.val_accuracy,
        versions=versions(),
    )
