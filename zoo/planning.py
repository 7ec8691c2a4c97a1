"""From a recipe to all that training needs: data, weights, model, and a plan that says so."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn

from zoo import plugins
from zoo import weights as zoo_weights
from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import derive_seed
from zoo.data.demo import IMAGE_SIZE, demo_splits
from zoo.data.folder import Splits, read_splits
from zoo.engine.events import Listener, Note, ignore
from zoo.errors import TrainingError, WeightsUnavailableError
from zoo.model.build import build_from
from zoo.model.device import choose_device
from zoo.model.freeze import freeze_parameters
from zoo.model.groups import split_parameters
from zoo.recipe import Recipe, change
from zoo.run.folder import check_room, choose_folder

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


def prepare(
    recipe: Recipe, *, out: str | Path | None = None, listen: Listener = ignore
) -> Prepared:
    """Everything up to the first step: what a dry run does. Writes nothing.

    Raises:
        ZooError: As in `finetune`.
    """
    device = choose_device(recipe.device)
    precision = _choose_precision(recipe.precision, device)
    accelerator = _accelerator(device, precision)
    listen = listen if accelerator.is_main_process else ignore
    backbone = plugins.get(recipe.backbone)
    if recipe.backbone != backbone.name:
        listen(Note(text=f"backbone {recipe.backbone} is {backbone.name}"))
    recipe = change(recipe, backbone=backbone.name)
    # One process decides, or a slower one would find the folder made by a faster one.
    folder = choose_folder(out, recipe) if accelerator.is_main_process else None
    (folder,) = broadcast_object_list([folder])
    recipe = _for_demo(recipe, backbone, listen)
    preprocess = _preprocess(backbone, recipe)
    splits = _read_data(recipe, listen)
    recipe, loaded = _load_weights(recipe, backbone, listen)
    torch.manual_seed(derive_seed(recipe.seed, "model"))
    model = build_from(backbone, len(splits.class_names), loaded, head_init=recipe.head_init)
    freeze_parameters(model, backbone, recipe.freeze)
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
    check_room(folder, model)
    listen(plan)
    return Prepared(
        plan=plan, backbone=backbone, splits=splits, model=model, accelerator=accelerator
    )


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
