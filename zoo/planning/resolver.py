"""Resolve a recipe: every decision before the first step, and what decisions are made from."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from zoo import plugins
from zoo.backbone import Backbone, Preprocess
from zoo.data.dataset import derive_seed
from zoo.data.sources import located
from zoo.data.split import Splits
from zoo.errors import TrainingError
from zoo.events import Listener, Note
from zoo.features.engine import check_engine
from zoo.machine.device import choose_device, choose_precision, place
from zoo.machine.processes import (
    decide_on_main,
    local_main_first,
    make_accelerator,
    overruled_settings,
    together,
)
from zoo.models.build import build_from
from zoo.models.depth import Depths, depths
from zoo.models.replay import Boundary
from zoo.models.variant import check_options
from zoo.planning.auto import AUTO, choose_backbone
from zoo.planning.caches import plan_probe
from zoo.planning.checks import check_forward
from zoo.planning.config import Config, Resolver
from zoo.planning.decisions import (
    choose_micro_batch,
    choose_workers,
    decide_adapters,
    decide_augmentation,
    decide_batch,
    decide_distillation,
    decide_epochs,
    decide_for_demo,
    decide_length,
    decide_metric,
    decide_optimizer,
    decide_rates,
    decide_stages,
    decide_task,
    decide_unmeasured,
    note_unused,
    warn_of_slow_precision,
)
from zoo.planning.inputs import as_asked, load_weights, read_data
from zoo.planning.same_data import check_same_data
from zoo.planning.teacher import load_teacher
from zoo.recipe import Recipe
from zoo.recipe.fields import seconds_of
from zoo.runs.folder import choose_folder
from zoo.training.budget import Speed, forward_seconds, measure_speed
from zoo.training.teacher import Teacher
from zoo.weights import LoadedWeights


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run computes with."""

    started: float
    accelerator: Accelerator
    precision: str

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        device: torch.device = self.accelerator.device
        return device


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run starts from."""

    folder: Path
    backbone: Backbone
    preprocess: Preprocess
    size_given: bool
    splits: Splits
    loaded: LoadedWeights


@dataclass(frozen=True, kw_only=True)
class Network:
    """The model with its new head, and what decisions depend on.

    Attributes:
        model: On its final device.
        depths: Its depths.
        preprocess: Preprocessing that it supports.
        teacher: The teacher of distillation; None without one.
        probe: The boundary that gives the probe's features; None without a probe.
        micro_batch: Images of a batch that are computed at a time; None: all.
        speed: The measured speed, if the recipe limits the time of the run; else None.
    """

    model: nn.Module
    depths: Depths
    preprocess: Preprocess
    teacher: Teacher | None = None
    probe: Boundary | None = None
    micro_batch: int | None = None
    speed: Speed | None = None


def set_up_machine(recipe: Recipe, listen: Listener) -> Machine:
    """Create the accelerator for the recipe's device and precision, and check the engine."""
    started = time.perf_counter()
    device = choose_device(recipe.device)
    precision = choose_precision(recipe.precision, device)
    accelerator = make_accelerator(
        device,
        precision,
        deterministic=recipe.deterministic,
        patience=timedelta(seconds=seconds_of(recipe.collective_timeout)),
    )
    check_engine(recipe.engine, accelerator.device, accelerator.num_processes)
    if accelerator.is_main_process:
        warn_of_slow_precision(precision, device, listen)
        if overruled := overruled_settings(device, precision):
            text = f"{', '.join(overruled)} in the environment has no effect: the recipe decides"
            listen(Note(text=text, warning=True))
    return Machine(started=started, accelerator=accelerator, precision=precision)


def resolve(
    resolver: Resolver,
    machine: Machine,
    *,
    out: str | Path | None,
    resuming: bool,
    with_test: bool,
    listen: Listener,
) -> tuple[Config, Inputs, Network]:
    """Decide everything that the recipe leaves open.

    Later decisions depend on what earlier ones give: which images and weights are read on the
    backbone, the task on the images, the network on both, and whether there is a probe, and time to
    fine-tune, on the network.
    """
    inputs = _gather(
        resolver, machine, out=out, resuming=resuming, with_test=with_test, listen=listen
    )
    _decide_by_images(resolver, inputs.splits, machine, listen)
    decide_length(
        resolver,
        len(inputs.splits.train) + len(inputs.splits.unlabelled),
        machine.accelerator.num_processes,
    )
    network = _build(resolver.recipe, inputs, machine, listen)
    teacher = load_teacher(resolver, inputs.splits, network.preprocess, machine.accelerator, listen)
    network = replace(network, teacher=teacher)
    network = _decide_by_network(resolver, network, inputs, machine, listen)
    decide_stages(resolver, len(inputs.splits.train), listen)
    note_unused(resolver, listen)
    recipe, size = resolver.recipe, network.preprocess.size
    resolver.spell_out(
        data=_located(recipe.data),
        val=_located(recipe.val),
        test=_located(recipe.test),
        unlabelled=_located(recipe.unlabelled),
        image_size=size if isinstance(size, int) else None,
    )
    resolver.replace(
        "for the machine",
        device=machine.device.type,
        precision=machine.precision,
        workers=choose_workers(machine.device) if recipe.workers is None else recipe.workers,
    )
    return resolver.config(), inputs, network


def _gather(
    resolver: Resolver,
    machine: Machine,
    *,
    out: str | Path | None,
    resuming: bool,
    with_test: bool,
    listen: Listener,
) -> Inputs:
    """Decide on the backbone and its size, and read images and weights."""
    accelerator = machine.accelerator
    if resolver.recipe.backbone == AUTO:
        choose_backbone(resolver, accelerator, machine.started, listen)
    recipe = resolver.recipe
    backbone = plugins.get(recipe.backbone)
    if recipe.backbone != backbone.name:
        listen(Note(text=f"backbone {recipe.backbone} is {backbone.name}"))
    resolver.spell_out(
        backbone=backbone.name,
        backbone_options=check_options(backbone, recipe.backbone_options),
    )
    decide_adapters(resolver)
    decide_distillation(resolver)
    decide_optimizer(resolver)
    decide_augmentation(resolver)
    # Chosen by one process: a slower one would find the folder that a faster one has created.
    folder = decide_on_main(
        accelerator, lambda: choose_folder(out, resolver.recipe, resuming=resuming)
    )
    decide_for_demo(resolver, backbone, listen)
    backbone, preprocess = as_asked(backbone, resolver.recipe, listen)
    read = partial(
        read_data, resolver.recipe, listen, channels=preprocess.channels, with_test=with_test
    )
    splits = local_main_first(read)
    check_same_data(accelerator, splits)
    resolver.replace("the images are remote", scan=splits.scan)
    return Inputs(
        folder=folder,
        backbone=backbone,
        preprocess=preprocess,
        size_given=recipe.image_size is not None,
        splits=splits,
        loaded=together(partial(load_weights, resolver, backbone, listen)),
    )


def _decide_by_images(
    resolver: Resolver, splits: Splits, machine: Machine, listen: Listener
) -> None:
    """Decide learning rates, task, metric and batch size."""
    decide_rates(resolver, listen)
    decide_task(resolver, splits, listen)
    decide_metric(resolver, splits.counts(splits.train), listen)
    decide_unmeasured(resolver, splits.class_names, splits.counts(splits.val), listen)
    decide_batch(resolver, len(splits.train), machine.device, machine.accelerator.num_processes)


def _build(recipe: Recipe, inputs: Inputs, machine: Machine, listen: Listener) -> Network:
    """Build the network on its device, and check that it supports the image size."""
    backbone, classes = inputs.backbone, len(inputs.splits.class_names)
    torch.manual_seed(derive_seed(recipe.seed, "model"))
    model = build_from(backbone, classes, inputs.loaded, head_init=recipe.head_init)
    layers = depths(model, backbone)
    preprocess = _fitting(model, inputs, classes, listen)
    # What follows runs the model, so it needs its final device and memory format.
    place(model, machine.device)
    return Network(
        model=model,
        depths=layers,
        preprocess=replace(preprocess, value_range=inputs.splits.value_range),
    )


def _fitting(model: nn.Module, inputs: Inputs, classes: int, listen: Listener) -> Preprocess:
    """Return the preprocessing, or the backbone's own if the image size that zoo chose fails.

    Raises:
        TrainingError: The model does not support the requested image size.
    """
    backbone, preprocess, own = inputs.backbone, inputs.preprocess, inputs.backbone.preprocess
    try:
        check_forward(model, backbone, preprocess, classes)
    except TrainingError:
        if inputs.size_given or preprocess == own:
            raise
        size = "{} x {}".format(*own.height_width)
        listen(Note(text=f"{backbone.name} can't take {preprocess.size} pixels: {size} instead"))
        check_forward(model, backbone, own, classes)
        return own
    return preprocess


def _decide_by_network(
    resolver: Resolver, network: Network, inputs: Inputs, machine: Machine, listen: Listener
) -> Network:
    """Decide what is trained, by what the head allows and what there is time for."""
    preprocess, splits = network.preprocess, inputs.splits
    probe = plan_probe(network.model, inputs.backbone, resolver, network.depths, preprocess, listen)
    recipe = resolver.recipe
    processes = machine.accelerator.num_processes
    micro_batch, speed = choose_micro_batch(recipe, machine.device, processes), None
    if recipe.time is not None:
        batch_size = recipe.step_images(processes)
        speed = measure_speed(
            network.model,
            (preprocess.channels, *preprocess.height_width),
            min(batch_size, micro_batch or batch_size),
            machine.device,
        )
        speed = _with_teacher(speed, network.teacher, micro_batch or batch_size, machine.device)
        epochs = decide_epochs(
            recipe,
            speed,
            train_images=len(splits.train),
            val_images=len(splits.val),
            unlabelled=len(splits.unlabelled),
            spent=time.perf_counter() - machine.started,
            listen=listen,
        )
        epochs = decide_on_main(machine.accelerator, lambda: epochs)
        if not epochs and recipe.train == "probe+finetune":
            listen(Note(text="no time for fine-tuning: train = probe"))
            resolver.replace("no time for fine-tuning", train="probe")
    teacher = None if resolver.recipe.train == "probe" else network.teacher
    return replace(network, teacher=teacher, probe=probe, micro_batch=micro_batch, speed=speed)


def _with_teacher(
    speed: Speed, teacher: Teacher | None, batch_size: int, device: torch.device
) -> Speed:
    """Add the time of the teacher's forward pass to that of a training step."""
    if teacher is None:
        return speed
    preprocess = teacher.preprocess
    shape = (preprocess.channels, *preprocess.height_width)
    seconds = forward_seconds(teacher.model, shape, batch_size, device)
    return replace(speed, train=speed.train + seconds)


def _located(data: str | None) -> str | None:
    return None if data is None else located(data)
