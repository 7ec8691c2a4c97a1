"""Preparation of a run: from a recipe to the data, the weights, the model and the plan."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from zoo import allocator, plugins
from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import derive_seed
from zoo.data.split import Splits
from zoo.errors import TrainingError
from zoo.events import Listener, Note, ignore
from zoo.io.files import exists, expand
from zoo.machine.device import choose_device, choose_precision, place
from zoo.machine.processes import (
    decide_on_main,
    make_accelerator,
    overruled_settings,
    together,
)
from zoo.models.build import build_from
from zoo.models.depth import Depths, depths
from zoo.models.freeze import Freezing, plan_freezing
from zoo.models.group_plan import GroupPlan
from zoo.models.groups import Setting
from zoo.models.optim import MOMENTS
from zoo.models.replay import Boundary
from zoo.models.variant import check_options
from zoo.planning.auto import AUTO, choose_backbone
from zoo.planning.caching import plan_activations, plan_probe
from zoo.planning.checks import check_forward, plan_what_trains
from zoo.planning.config import Config, Resolver
from zoo.planning.decisions import (
    choose_batch_size,
    choose_micro_batch,
    choose_workers,
    decide_adapters,
    decide_epochs,
    decide_for_demo,
    decide_metric,
    decide_rates,
    decide_stages,
    decide_task,
    decide_unmeasured,
    warn_of_slow_precision,
)
from zoo.planning.inputs import as_asked, load_weights, read_data
from zoo.planning.same_data import check_same_data
from zoo.recipe import Recipe
from zoo.runs.folder import check_run_space, choose_folder
from zoo.tasks import TASKS, Baseline
from zoo.training.adapters import Adapters, make_adapters
from zoo.training.budget import Speed, measure_speed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run, known before training.

    Attributes:
        config: All settings, and where each came from.
        groups: The parameter groups, from the stem to the head.
        class_names: In label order.
        train_images: Number of train images.
        val_images: Number of val images.
        train_counts: Number of train images of each class.
        val_counts: Number of val images of each class.
        weights_source: Where the initial weights came from.
        preprocess: How images are preprocessed.
        device: The device to train on, with its index.
        micro_batch: Images of a batch that are computed at a time; None: all.
        processes: Number of training processes.
        allocator: Description of the memory allocator's settings.
        out: The run folder.
        default_out: Whether zoo chose `out`, and may use another folder instead.
    """

    config: Config
    groups: tuple[GroupPlan, ...]
    class_names: tuple[str, ...]
    train_images: int
    val_images: int
    train_counts: tuple[int, ...]
    val_counts: tuple[int, ...]
    weights_source: str
    preprocess: Preprocess
    device: str
    micro_batch: int | None
    processes: int
    allocator: str
    out: Path
    default_out: bool

    @property
    def recipe(self) -> Recipe:
        """All settings, as resolved."""
        return self.config.recipe

    @property
    def baseline(self) -> Baseline:
        """Performance of ignoring the val images; of ignoring those of train if there are none."""
        task = TASKS[self.recipe.task]
        if self.val_images:
            return task.baseline(self.val_counts, self.val_images)
        return task.baseline(self.train_counts, self.train_images)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that training needs; nothing has been written yet.

    Attributes:
        started: When planning began, by `time.perf_counter`.
        speed: The measured speed, if the recipe limits the time of the run; else None.
        depths: Depths of the model, also by the names it has with adapters.
        settings: Training settings of each parameter, as planned.
        adapters: Adapters for fine-tuning, not yet in the model; None: not used.
    """

    started: float
    speed: Speed | None
    plan: Plan
    backbone: Backbone
    splits: Splits
    model: nn.Module
    depths: Depths
    freezing: Freezing
    settings: list[Setting]
    accelerator: Accelerator
    probe: Boundary | None
    activations: Boundary | None
    adapters: Adapters | None


def prepare(
    recipe: Recipe,
    *,
    given: Collection[str] = (),
    out: str | Path | None = None,
    resumed: Mapping[str, str] | None = None,
    listen: Listener = ignore,
) -> Prepared:
    """Prepare a run up to the first step, as a dry run does, without writing anything.

    Args:
        recipe: As given by the user; of a resumed run: as resolved at its start, with changes.
        given: Fields that were given as options or arguments.
        out: The run folder; None for a new one below `runs/`.
        resumed: Origins of the values of a resumed run, by field; None for a new run.
        listen: Called with a `Note` on each decision, and with the plan.

    Raises:
        ZooError: As in `finetune`.
    """
    started = time.perf_counter()
    accelerator, precision = _set_up_machine(recipe, listen)
    device = accelerator.device
    listen = listen if accelerator.is_main_process else ignore
    resolver = Resolver(recipe, given, resumed, listen=listen)
    backbone = _backbone(resolver, accelerator, started, listen)
    recipe = resolver.recipe
    resolver.spell_out(
        backbone=backbone.name,
        backbone_options=check_options(backbone, recipe.backbone_options),
    )
    decide_adapters(resolver)
    # Chosen by one process: a slower one would find the folder that a faster one has created.
    folder = decide_on_main(
        accelerator, lambda: choose_folder(out, resolver.recipe, resuming=resumed is not None)
    )
    decide_for_demo(resolver, backbone, listen)
    backbone, preprocess = as_asked(backbone, resolver.recipe, listen)
    splits = together(partial(read_data, resolver.recipe, listen, channels=preprocess.channels))
    check_same_data(accelerator, splits)
    loaded = together(partial(load_weights, resolver, backbone, listen))
    decide_rates(resolver)
    decide_task(resolver, splits, listen)
    train_counts = tuple(splits.counts(splits.train))
    val_counts = tuple(splits.counts(splits.val))
    decide_metric(resolver, train_counts, listen)
    decide_unmeasured(resolver, splits.class_names, val_counts, listen)
    batch_size = recipe.batch_size or choose_batch_size(len(splits.train), device)
    resolver.replace("for the machine and the number of images", batch_size=batch_size)
    torch.manual_seed(derive_seed(recipe.seed, "model"))
    model = build_from(backbone, len(splits.class_names), loaded, head_init=recipe.head_init)
    layers = depths(model, backbone)
    preprocess = _fitting(model, backbone, preprocess, recipe, len(splits.class_names), listen)
    preprocess = replace(preprocess, value_range=splits.value_range)
    # What follows runs the model, so it needs its final device and memory format.
    place(model, accelerator.device)
    probe = plan_probe(model, backbone, resolver, layers, preprocess, listen)
    micro_batch = choose_micro_batch(resolver.recipe, device)
    speed = None
    if recipe.time is not None:
        at_a_time = min(batch_size, micro_batch or batch_size)
        shape = (preprocess.channels, *preprocess.height_width)
        speed = measure_speed(model, shape, at_a_time, accelerator.device)
        _fit_time(resolver, speed, splits, started, accelerator, listen)
    decide_stages(resolver, len(splits.train), listen)
    recipe = resolver.recipe
    freezing = plan_freezing(
        model, layers, backbone, freeze=recipe.freeze, unfreeze_epochs=recipe.unfreeze_epochs
    )
    adapters = make_adapters(
        model,
        backbone,
        recipe,
        layers,
        frozen=freezing.always,
        image_size=preprocess.height_width,
    )
    groups, settings = plan_what_trains(model, backbone, recipe, layers, freezing, adapters, listen)
    activations = plan_activations(
        model,
        backbone,
        recipe,
        layers,
        freezing,
        preprocess,
        accelerator.num_processes,
        listen,
    )
    resolver.spell_out(
        data=_absolute(recipe.data),
        val=_absolute(recipe.val),
        test=_absolute(recipe.test),
        image_size=preprocess.size if isinstance(preprocess.size, int) else None,
    )
    resolver.replace(
        "for the machine",
        device=device.type,
        precision=precision,
        workers=choose_workers(device) if recipe.workers is None else recipe.workers,
    )
    plan = Plan(
        config=resolver.config(),
        groups=groups,
        class_names=splits.class_names,
        train_images=len(splits.train),
        val_images=len(splits.val),
        train_counts=train_counts,
        val_counts=val_counts,
        weights_source=loaded.source,
        preprocess=preprocess,
        device=str(accelerator.device),
        micro_batch=micro_batch,
        processes=accelerator.num_processes,
        allocator=allocator.state(),
        out=folder,
        default_out=out is None,
    )
    moments = 0 if recipe.train == "probe" else MOMENTS[recipe.optimizer] + bool(recipe.ema_decay)
    decide_on_main(accelerator, lambda: check_run_space(folder, model, moments))
    listen(plan)
    return Prepared(
        started=started,
        speed=speed,
        plan=plan,
        backbone=backbone,
        splits=splits,
        model=model,
        depths=layers if adapters is None else adapters.depths,
        freezing=freezing,
        settings=settings,
        accelerator=accelerator,
        probe=probe,
        activations=activations,
        adapters=adapters,
    )


def _set_up_machine(recipe: Recipe, listen: Listener) -> tuple[Accelerator, str]:
    """Create the accelerator, and return it with the precision it computes in."""
    device = choose_device(recipe.device)
    precision = choose_precision(recipe.precision, device)
    accelerator = make_accelerator(device, precision, deterministic=recipe.deterministic)
    if accelerator.is_main_process:
        warn_of_slow_precision(precision, device, listen)
        if overruled := overruled_settings(device, precision):
            text = f"{', '.join(overruled)} in the environment has no effect: the recipe decides"
            listen(Note(text=text, warning=True))
    return accelerator, precision


def _backbone(
    resolver: Resolver, accelerator: Accelerator, started: float, listen: Listener
) -> Backbone:
    """Return the recipe's backbone, which is chosen first if it is `auto`."""
    if resolver.recipe.backbone == AUTO:
        choose_backbone(resolver, accelerator, started, listen)
    name = resolver.recipe.backbone
    backbone = plugins.get(name)
    if name != backbone.name:
        listen(Note(text=f"backbone {name} is {backbone.name}"))
    return backbone


def _absolute(data: str | None) -> str | None:
    """Return the absolute path of the data, or `data` itself if there is no such file or folder."""
    if data is None or not exists(expand(data)):
        return data
    return os.path.realpath(expand(data))


def _fit_time(
    resolver: Resolver,
    speed: Speed,
    splits: Splits,
    started: float,
    accelerator: Accelerator,
    listen: Listener,
) -> None:
    """Skip fine-tuning if the recipe's `time` is too short for an epoch."""
    epochs = decide_epochs(
        resolver.recipe,
        speed,
        train_images=len(splits.train),
        val_images=len(splits.val),
        spent=time.perf_counter() - started,
        listen=listen,
    )
    if decide_on_main(accelerator, lambda: epochs) or resolver.recipe.train != "probe+finetune":
        return
    listen(Note(text="no time for fine-tuning: train = probe"))
    resolver.replace("no time for fine-tuning", train="probe")


def _fitting(
    model: nn.Module,
    backbone: Backbone,
    preprocess: Preprocess,
    given: Recipe,
    num_classes: int,
    listen: Listener,
) -> Preprocess:
    """Return the preprocessing, or the backbone's own if the image size that zoo chose fails.

    Raises:
        TrainingError: The model does not support the requested image size.
    """
    try:
        check_forward(model, backbone, preprocess, num_classes)
    except TrainingError:
        own = backbone.preprocess
        if given.image_size is not None or preprocess == own:
            raise
        size = "{} x {}".format(*own.height_width)
        listen(Note(text=f"{backbone.name} can't take {preprocess.size} pixels: {size} instead"))
        check_forward(model, backbone, own, num_classes)
        return own
    return preprocess
