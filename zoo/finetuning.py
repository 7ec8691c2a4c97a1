"""The whole path, from recipe to run folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from zoo import plugins
from zoo import weights as zoo_weights
from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import derive_seed, eval_loader, train_loader
from zoo.data.demo import IMAGE_SIZE, demo_splits
from zoo.data.folder import Splits, read_splits
from zoo.data.transforms import eval_transform, train_transform
from zoo.engine.events import EpochEnd, Listener, Note, ignore
from zoo.engine.train import train
from zoo.errors import RunError, TrainingError, WeightsUnavailableError
from zoo.model.build import build_from
from zoo.model.device import choose_device
from zoo.model.freeze import freeze_parameters
from zoo.model.groups import split_parameters
from zoo.recipe import Recipe, change, make_recipe
from zoo.run.card import write_card
from zoo.run.inference import BATCH_SIZE
from zoo.run.read import Run, load
from zoo.run.write import (
    METRICS,
    MODEL,
    RECIPE,
    ModelInfo,
    append_metrics,
    versions,
    write_config,
    write_model,
    write_recipe,
)

#: What the demo changes of the defaults: mirrored digits are no digits, and they are small.
DEMO = {"hflip": False, "image_size": IMAGE_SIZE}

#: What random weights change of the defaults: all has to be learnt, batch-norm statistics too.
FROM_SCRATCH = {"batch_norm": "train", "lr": 0.05, "head_lr_mult": 1.0}


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """A row of the plan: a parameter group and how it will train (learning rate at its height)."""

    name: str
    parameters: int
    lr: float
    weight_decay: float
    frozen: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will happen, before it does.

    Attributes:
        backbone: Full name.
        recipe: As resolved.
        groups: Backbone and head.
        class_names: In label order.
        train_counts: Images per class to learn from.
        val_counts: Images per class held out.
        weights_source: Where the starting weights came from.
        preprocess: How images are prepared.
        device: Where it will compute.
        precision: `fp32`, `bf16` or `fp16`.
        processes: How many train together.
        out: The run folder.
    """

    backbone: str
    recipe: Recipe
    groups: tuple[GroupPlan, ...]
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    weights_source: str
    preprocess: Preprocess
    device: str
    precision: str
    processes: int
    out: Path


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that training needs, ready to start; nothing is written yet."""

    plan: Plan
    backbone: Backbone
    splits: Splits
    model: nn.Module
    accelerator: Accelerator


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
        listen: Called with a `Note`, `Plan`, `StepEnd` or `EpochEnd` as it happens.
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


def prepare(
    recipe: Recipe, *, out: str | Path | None = None, listen: Listener = ignore
) -> Prepared:
    """Everything up to the first step: what a dry run does. Writes nothing.

    Raises:
        ZooError: As in `finetune`.
    """
    backbone = plugins.get(recipe.backbone)
    if recipe.backbone != backbone.name:
        listen(Note(text=f"backbone {recipe.backbone} is {backbone.name}"))
    folder = _choose_out(out, recipe, backbone)
    recipe = _for_demo(change(recipe, backbone=backbone.name), backbone, listen)
    preprocess = _preprocess(backbone, recipe)
    device = choose_device(recipe.device)
    precision = _choose_precision(recipe.precision, device)
    splits = _read_data(recipe, listen)
    recipe, loaded = _load_weights(recipe, backbone, listen)
    torch.manual_seed(derive_seed(recipe.seed, "model"))
    model = build_from(backbone, len(splits.class_names), loaded, head_init=recipe.head_init)
    freeze_parameters(model, backbone, recipe.freeze)
    accelerator = _accelerator(device, precision)
    recipe = change(
        recipe,
        data=None if recipe.data is None else str(Path(recipe.data).expanduser().resolve()),
        image_size=preprocess.size if isinstance(preprocess.size, int) else None,
        device=device.type,
        precision=precision,
        workers=_choose_workers(device) if recipe.workers is None else recipe.workers,
    )
    plan = Plan(
        backbone=backbone.name,
        recipe=recipe,
        groups=_group_plans(model, backbone, recipe),
        class_names=splits.class_names,
        train_counts=tuple(splits.counts(splits.train)),
        val_counts=tuple(splits.counts(splits.val)),
        weights_source=loaded.source,
        preprocess=preprocess,
        device=str(accelerator.device),
        precision=precision,
        processes=accelerator.num_processes,
        out=folder,
    )
    _check_room(folder, model)
    listen(plan)
    return Prepared(
        plan=plan, backbone=backbone, splits=splits, model=model, accelerator=accelerator
    )


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
            _open_folder(folder, recipe)
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
        listen(
            Note(
                text=f"interrupted; kept the best so far, epoch {best.epoch} "
                f"with val accuracy {best.val_accuracy:.2%}",
                warning=True,
            )
        )
    finally:
        if main and not (folder / MODEL).exists():
            _remove_traces(folder)
    accelerator.wait_for_everyone()
    return load(folder, device=recipe.device)


def _for_demo(recipe: Recipe, backbone: Backbone, listen: Listener) -> Recipe:
    if recipe.data is not None:
        return recipe
    listen(
        Note(text="no --data given: this is the demo, on scikit-learn's 1,797 handwritten digits")
    )
    changes = {k: v for k, v in DEMO.items() if k not in recipe.model_fields_set}
    if backbone.preprocess.fixed_size:
        changes.pop("image_size", None)
    return _decide(recipe, changes, "for the demo", listen)


def _decide(recipe: Recipe, changes: dict[str, Any], why: str, listen: Listener) -> Recipe:
    changes = {k: v for k, v in changes.items() if k not in recipe.model_fields_set}
    if changes:
        listed = ", ".join(f"{key} = {value}" for key, value in changes.items())
        listen(Note(text=f"{why}: {listed} (where you say nothing else)"))
    return change(recipe, **changes)


def _preprocess(backbone: Backbone, recipe: Recipe) -> Preprocess:
    own = backbone.preprocess
    if recipe.image_size is None or own.height_width == (recipe.image_size, recipe.image_size):
        return own
    if own.fixed_size:
        height, width = own.height_width
        raise TrainingError(
            f"backbone {backbone.name} takes {height} x {width} pixels only; "
            f"leave out --image-size {recipe.image_size}"
        )
    return replace(own, size=recipe.image_size)


def _read_data(recipe: Recipe, listen: Listener) -> Splits:
    if recipe.data is None:
        return demo_splits(val_split=recipe.val_split, seed=recipe.seed)
    splits = read_splits(
        Path(recipe.data).expanduser(),
        val_split=recipe.val_split,
        seed=recipe.seed,
        strict=recipe.strict,
    )
    for problem in (*splits.notes, *splits.unreadable):
        listen(Note(text=problem, warning=True))
    if splits.unreadable:
        listen(Note(text=f"{len(splits.unreadable)} unreadable images left out", warning=True))
    return splits


def _load_weights(
    recipe: Recipe, backbone: Backbone, listen: Listener
) -> tuple[Recipe, zoo_weights.LoadedWeights]:
    source_suffix = ""
    try:
        loaded = zoo_weights.load(backbone, recipe.weights)
    except WeightsUnavailableError as error:
        if recipe.data is not None:
            raise
        listen(
            Note(
                text=f"RANDOM WEIGHTS: {error}\n"
                f"The demo goes on from RANDOM weights, so it shows that everything runs, "
                f"not what fine-tuning can do.",
                warning=True,
            )
        )
        recipe = change(recipe, weights="none")
        loaded = zoo_weights.load(backbone, "none")
        source_suffix = " (pretrained ones could not be had)"
    if loaded.state_dict is None:
        recipe = _decide(recipe, FROM_SCRATCH, "from random weights", listen)
    elif recipe.weights != "pretrained":
        recipe = change(recipe, weights=str(Path(recipe.weights).expanduser().resolve()))
    return recipe, replace(loaded, source=loaded.source + source_suffix)


def _choose_precision(wanted: str, device: torch.device) -> str:
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else "fp32"
    if wanted == "fp16" and device.type == "cpu":
        raise TrainingError("precision fp16 needs a GPU; on a CPU use fp32 or bf16")
    return wanted


def _choose_workers(device: torch.device) -> int:
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    # While a CPU trains, loading is a few per cent of its time: more processes would only contend.
    return min(8, cores) if device.type != "cpu" else (2 if cores >= 8 else 0)


def _accelerator(device: torch.device, precision: str) -> Accelerator:
    if "WORLD_SIZE" not in os.environ:
        # Its state outlives it, and would refuse another device or precision in the same process.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=device.type == "cpu", mixed_precision="no" if precision == "fp32" else precision
    )


def _group_plans(model: nn.Module, backbone: Backbone, recipe: Recipe) -> tuple[GroupPlan, ...]:
    of_backbone, of_head = split_parameters(model, backbone)
    return tuple(
        GroupPlan(
            name=name,
            parameters=sum(p.numel() for p in parameters),
            lr=lr,
            weight_decay=recipe.weight_decay,
            frozen=not any(p.requires_grad for p in parameters),
        )
        for name, parameters, lr in (
            ("backbone", of_backbone, recipe.lr),
            ("head", of_head, recipe.lr * recipe.head_lr_mult),
        )
    )


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


def _choose_out(out: str | Path | None, recipe: Recipe, backbone: Backbone) -> Path:
    """The run folder; never one that holds something."""
    if out is None:
        data = "demo" if recipe.data is None else Path(recipe.data).expanduser().resolve().name
        stem = Path("runs") / f"{data or 'data'}-{backbone.name.partition('/')[2]}"
        candidates = (
            stem if n == 1 else stem.with_name(f"{stem.name}-{n}") for n in range(1, 10**6)
        )
        folder = next(c for c in candidates if not c.exists())
    else:
        folder = Path(out).expanduser()
        if folder.exists() and not folder.is_dir():
            raise RunError(f"--out {folder} is a file; give a folder that doesn't exist yet")
        if folder.is_dir() and any((folder / name).exists() for name in (MODEL, RECIPE, METRICS)):
            raise RunError(f"--out {folder} holds a run already; zoo never overwrites one")
        if folder.is_dir() and any(folder.iterdir()):
            raise RunError(f"--out {folder} is not empty; give a new or an empty folder")
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"can't write the run folder {folder}: no right to write in {existing}")
    return folder


def _check_room(folder: Path, model: nn.Module) -> None:
    """Two whole models fit while a better one replaces the last."""
    needed = 2 * sum(t.numel() * t.element_size() for t in model.state_dict().values()) + 2**20
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise RunError(
            f"no space for the run folder {folder}: it needs {needed / 1e6:.0f} MB, "
            f"{existing} has {free / 1e6:.0f} MB free"
        )


def _open_folder(folder: Path, recipe: Recipe) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"can't make the run folder {folder}: {error.strerror}") from error
    write_recipe(folder, recipe)


def _remove_traces(folder: Path) -> None:
    """Take away a folder in which no model came to be."""
    for name in (RECIPE, METRICS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
