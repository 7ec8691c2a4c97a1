"""Preparation of a run: from a recipe to the data, the weights, the model and the plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from zoo import allocator
from zoo.backbone import Backbone, Preprocess
from zoo.data.split import Splits
from zoo.events import Listener, Note, ignore
from zoo.io.html import facts_html, table_html
from zoo.io.text import count, listed
from zoo.machine.processes import decide_on_main
from zoo.models.depth import Depths
from zoo.models.freeze import Freezing, plan_freezing
from zoo.models.group_plan import GroupPlan
from zoo.models.groups import Setting
from zoo.models.optim import moments
from zoo.models.replay import Boundary
from zoo.planning.caches import plan_activations
from zoo.planning.checks import plan_what_trains
from zoo.planning.config import Config, Resolver
from zoo.planning.resolver import resolve, set_up_machine
from zoo.recipe import Recipe
from zoo.runs.folder import check_run_space
from zoo.runs.transfer import Transfer
from zoo.tasks import TASKS, Baseline
from zoo.training.adapters import Adapters, make_adapters
from zoo.training.budget import Speed
from zoo.training.custom import NO_CUSTOM, Custom
from zoo.training.teacher import Teacher


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
        transfer: Whether pretrained features help, if it is known: that of a resumed run. A new run
            measures it first, and passes it to listeners as an event that completes the plan.
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
    transfer: Transfer | None = None

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

    def _repr_html_(self) -> str:
        """Return the HTML tables that a notebook shows: the plan, and its parameter groups."""
        recipe, (height, width) = self.recipe, self.preprocess.height_width
        facts = {
            "backbone": recipe.backbone,
            "weights": self.weights_source,
            "data": recipe.data or "demo (scikit-learn's digits)",
            "classes": f"{len(self.class_names)}: {listed(self.class_names)}",
            "images": f"{self.train_images:,} train, {self.val_images:,} val",
            "input": f"{height} x {width}",
            "training": f"{recipe.train}, {count(recipe.epochs, 'epoch')}, "
            f"batch {recipe.batch_size}, {recipe.optimizer}",
            "device": f"{self.device}, {recipe.precision}",
            "run folder": self.out,
        }
        groups = [
            (
                group.name,
                f"{group.parameters:,}",
                "frozen" if group.frozen else f"{group.lr:.3g}",
                "" if group.frozen else f"{group.weight_decay:g}",
                group.trains_from or "",
            )
            for group in self.groups
        ]
        columns = ("group", "parameters", "learning rate", "weight decay", "from epoch")
        return facts_html(facts) + table_html(columns, groups)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that training needs; nothing has been written yet.

    Attributes:
        started: When planning began, by `time.perf_counter`.
        speed: The measured speed, if the recipe limits the time of the run; else None.
        depths: Depths of the model, also by the names it has with adapters.
        settings: Training settings of each parameter, as planned.
        adapters: Adapters for fine-tuning, not yet in the model; None: not used.
        teacher: The teacher of distillation; None without one.
        custom: Code of the caller that takes part.
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
    teacher: Teacher | None
    custom: Custom = NO_CUSTOM


def prepare(
    recipe: Recipe,
    *,
    given: Collection[str] = (),
    out: str | Path | None = None,
    resumed: Mapping[str, str] | None = None,
    transfer: Transfer | None = None,
    with_test: bool = True,
    custom: Custom = NO_CUSTOM,
    listen: Listener = ignore,
) -> Prepared:
    """Prepare a run up to the first step, as a dry run does, without writing anything.

    Args:
        recipe: As given by the user; of a resumed run: as resolved at its start, with changes.
        given: Fields that were given as options or arguments.
        out: The run folder; None for a new one below `runs/`.
        resumed: Origins of the values of a resumed run, by field; None for a new run.
        transfer: What a resumed run has measured of pretrained features, for the plan.
        with_test: Whether to read the test images, if there are any; without them, the final model
            is not measured on them.
        custom: Code of the caller that takes part.
        listen: Called with a `Note` on each decision, and with the plan.

    Raises:
        ZooError: As in `finetune`.
    """
    custom = custom.with_declared(recipe)
    custom.check(recipe)
    machine = set_up_machine(recipe, listen)
    accelerator = machine.accelerator
    listen = listen if accelerator.is_main_process else ignore
    for what, name in custom.declared.items():
        listen(Note(text=f"{what} {name}"))
    resolver = Resolver(recipe, given, resumed, listen=listen)
    if custom.loss is not None:
        resolver.replace("the loss is custom", class_weights="none")
    config, inputs, network = resolve(
        resolver,
        machine,
        out=out,
        resuming=resumed is not None,
        with_test=with_test,
        listen=listen,
    )
    recipe, backbone, model = config.recipe, inputs.backbone, network.model
    layers, preprocess, splits = network.depths, network.preprocess, inputs.splits
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
    processes = accelerator.num_processes
    groups, settings = plan_what_trains(
        model, backbone, recipe, layers, freezing, adapters, processes, listen
    )
    activations = plan_activations(
        model,
        backbone,
        recipe,
        layers,
        freezing,
        preprocess,
        processes,
        listen,
    )
    plan = Plan(
        config=config,
        groups=groups,
        class_names=splits.class_names,
        train_images=len(splits.train),
        val_images=len(splits.val),
        train_counts=tuple(splits.counts(splits.train)),
        val_counts=tuple(splits.counts(splits.val)),
        weights_source=inputs.loaded.source,
        preprocess=preprocess,
        device=str(machine.device),
        micro_batch=network.micro_batch,
        processes=processes,
        allocator=allocator.state(),
        out=inputs.folder,
        default_out=out is None,
        transfer=transfer,
    )
    kept = 0
    if recipe.train != "probe":
        averages = bool(recipe.ema_decay) + bool(recipe.average_epochs)
        kept = moments(recipe.optimizer) + averages
    decide_on_main(accelerator, lambda: check_run_space(inputs.folder, model, kept))
    listen(plan)
    return Prepared(
        started=machine.started,
        speed=network.speed,
        plan=plan,
        backbone=backbone,
        splits=splits,
        model=model,
        depths=layers if adapters is None else adapters.depths,
        freezing=freezing,
        settings=settings,
        accelerator=accelerator,
        probe=network.probe,
        activations=activations,
        adapters=adapters,
        teacher=network.teacher,
        custom=custom,
    )
