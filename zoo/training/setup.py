"""Components of training: what remains unchanged, and what changes while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.data.dataset import Batches
from zoo.events import Listener, Note
from zoo.io.text import listed
from zoo.machine.device import place, place_images
from zoo.machine.processes import find_unused_parameters, of_each
from zoo.models.depth import Depths
from zoo.models.freeze import Freezing, freeze_parameters, train_mode
from zoo.models.groups import Setting, grouped
from zoo.models.optim import lr_factor, make_optimizer
from zoo.models.replay import forward_as, keep_modes
from zoo.recipe import Recipe
from zoo.tasks import Baseline, Criterion, Task
from zoo.training.adapters import Adapters
from zoo.training.batch_transform import BatchTransform
from zoo.training.batches import Loaders
from zoo.training.custom import Loss
from zoo.training.ema import copied, restore_average, update_average
from zoo.training.signals import StopRequest
from zoo.training.snapshot import Clock, Save, Snapshot, restore, take
from zoo.training.state import Seen, TrainingState, count_steps_again, seen_so_far
from zoo.training.teacher import Teacher
from zoo.training.unused import without_gradient


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that training needs and does not replace.

    Attributes:
        model: The model with its new head.
        backbone: Declares where the head is, and the depth of each layer.
        recipe: The resolved recipe.
        depths: Depths of the model, also by the names it has with adapters.
        freezing: How many depths are frozen in each epoch.
        settings: Training settings of each parameter, as planned.
        accelerator: Places model and batches.
        loaders: Batches for training and validation.
        origin: Initial state dict of training, on the CPU; also by the names it has with adapters.
        task: Defines loss and metrics.
        baseline: Performance on val of a model that ignores the images.
        class_weights: Weight of each class in the loss (C,), or None.
        loss: Loss in place of the task's; None: the task's.
        batch_transform: Applied to each training batch of images; None: not used.
        teacher: Its logits become a part of the targets of each batch of images, as the last step
            before the loss; None: not used.
        adapters: Adapters, which are in the model while it trains; None: not used.
        deadline: No epoch starts that would end later, by `time.perf_counter`; None: the recipe's
            number of epochs is the only limit.
    """

    model: nn.Module
    backbone: Backbone
    recipe: Recipe
    depths: Depths
    freezing: Freezing
    settings: Sequence[Setting]
    accelerator: Accelerator
    loaders: Loaders
    origin: Mapping[str, Tensor]
    task: Task
    baseline: Baseline
    class_weights: Tensor | None
    loss: Loss | None
    batch_transform: BatchTransform | None
    teacher: Teacher | None
    adapters: Adapters | None
    deadline: float | None

    @property
    def criterion(self) -> Criterion:
        """What a training step minimises and counts."""
        return self.task if self.teacher is None else self.teacher.criterion


@dataclass(frozen=True, kw_only=True)
class Control:
    """Receivers of events and snapshots, and the request to stop.

    Attributes:
        save: Saves a snapshot: after the probe, after each epoch, and within epochs as the recipe
            specifies.
        last: Returns the snapshot that was saved last.
        stop: Whether to stop; a snapshot is saved first.
        listen: Receives the events.
    """

    save: Save
    last: Callable[[], Snapshot]
    stop: StopRequest
    listen: Listener


@dataclass(kw_only=True)
class Loop:
    """Training in progress: its setup, its state, and the objects that accelerate has prepared.

    Attributes:
        setup: The setup it was created from.
        state: Progress of training, with the best result so far.
        control: Receivers of events and snapshots, and the request to stop.
        model: The model as called in training, possibly wrapped; `setup.model` is the bare one.
        validated: The model's forward pass in full precision.
        optimizer: Contains all parameters that will ever be trained.
        batches: Batches (inputs, targets (N, ...)) of one epoch.
        schedule: Returns the factor of the learning rates at a step, counted from 0.
        total_steps: Number of steps of all epochs.
        class_weights: Those of the setup, on the device.
        trainable: (name, parameter) of all parameters that will ever be trained.
        average: Moving average of the model's state dict, on the device; None without one.
        epoch_average: Average of the last epochs' state dicts, of the network without adapters;
            empty without one.
        totals: (3,) on the device: totals of the epoch in this process, as in `Seen`.
        clock: When the next checkpoint within an epoch is due.
        frozen: Number of depths that are frozen now.
        last_checkpoint_step: Step of the last checkpoint.
        started: When this part of the epoch started, by `time.perf_counter`.
        before: Duration of the earlier parts of the epoch, in seconds.
    """

    setup: Setup
    state: TrainingState
    control: Control
    model: nn.Module
    validated: Callable[..., object]
    optimizer: torch.optim.Optimizer
    batches: Batches
    schedule: Callable[[int], float]
    total_steps: int
    class_weights: Tensor | None
    trainable: Sequence[tuple[str, nn.Parameter]]
    average: dict[str, Tensor] | None
    epoch_average: Mapping[str, Tensor]
    totals: Tensor
    clock: Clock
    frozen: int
    last_checkpoint_step: int
    started: float = field(default_factory=time.perf_counter)
    before: float = 0.0

    @classmethod
    def begin(
        cls, setup: Setup, state: TrainingState, control: Control, resumed: Snapshot | None
    ) -> Loop:
        """Create the optimizer, and place everything on the device.

        Args:
            setup: Its model is placed, and frozen as its recipe specifies.
            state: Overwritten with that of the snapshot, if there is one.
            control: Saves a first snapshot if training may have to return to it.
            resumed: Snapshot to resume from; None: start from the model as it is.

        Raises:
            RunError: The snapshot belongs to another model.
        """
        model, recipe, accelerator = setup.model, setup.recipe, setup.accelerator
        place(model, accelerator.device)
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        freeze_parameters(trainable, setup.depths, setup.freezing.always)
        if accelerator.num_processes > 1:
            _find_unused(setup, [each for each in trainable if each[1].requires_grad], control)
        # The optimizer contains all parameters that will ever be trained. Those still frozen have
        # no gradient, so it skips them and stores no state for them.
        groups = grouped(
            setup.settings, weight_decay=recipe.weight_decay, by_depth=recipe.layer_decay != 1
        )
        optimizer = make_optimizer(
            recipe.optimizer, groups, momentum=recipe.momentum, options=recipe.optimizer_options
        )
        if resumed is not None:
            restore(resumed, model, state)
        frozen = setup.freezing.frozen(min(state.epoch + 1, recipe.epochs))
        freeze_parameters(trainable, setup.depths, frozen)
        # prepare() makes the model compute in mixed precision; validation uses full precision.
        validated = partial(_call, model, model.forward)
        wrapped, optimizer, batches = accelerator.prepare(model, optimizer, setup.loaders.train)
        weights = setup.class_weights
        if resumed is not None:
            restore(resumed, model, state, optimizer, accelerator)
            count_steps_again(state, len(batches), recipe, accelerator)
        elif recipe.on_nan == "rewind" and not state.probed:
            control.save(take(model, state), None)  # A rewind needs a checkpoint.
        return cls(
            setup=setup,
            state=state,
            control=control,
            model=wrapped,
            validated=validated,
            optimizer=optimizer,
            batches=batches,
            schedule=_schedule(recipe, len(batches), accelerator.num_processes),
            total_steps=_total_steps(recipe, len(batches), accelerator.num_processes),
            class_weights=None if weights is None else weights.to(accelerator.device),
            trainable=trainable,
            average=_average(model, recipe, resumed),
            epoch_average={} if resumed is None else resumed.epoch_average,
            totals=seen_so_far(state, accelerator),
            clock=Clock.of(recipe),
            frozen=frozen,
            last_checkpoint_step=state.step,
        )

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 1."""
        return self.state.epoch + 1

    @property
    def where(self) -> str:
        """Epoch and step, for messages."""
        return f"epoch {self.epoch}, step {self.state.epoch_step} of {self.steps}"

    @property
    def steps(self) -> int:
        """Number of steps of the current epoch; the last one may have fewer than others."""
        whole = len(self.batches)
        left = self.total_steps - self.state.epoch * whole
        # A range test goes on after the last epoch.
        return left if 0 < left < whole else whole

    def seconds(self) -> float:
        """Return the duration of the current epoch so far, in seconds."""
        return self.before + time.perf_counter() - self.started

    def add_up(self) -> None:
        """Store the totals of the epoch over all processes in the state."""
        accelerator = self.setup.accelerator
        totals = accelerator.reduce(self.totals.clone(), reduction="sum").tolist()
        self.state.seen = Seen(*totals)
        self.state.seconds = self.seconds()
        self.state.micro_batches = of_each(accelerator, self.state.micro_batch)

    def snapshot(self) -> Snapshot:
        """Create a snapshot of the current state; its tensors are not copied."""
        return take(
            self.setup.model,
            self.state,
            self.optimizer,
            self.setup.accelerator,
            self.average,
            self.epoch_average,
        )

    def restart_average(self) -> None:
        """Reset the average to the model's current weights."""
        if self.average is not None:
            self.average = copied(self.setup.model)

    def update_average(self) -> None:
        """Move the average towards the model's weights, after a step."""
        if self.average is not None:
            decay = self.setup.recipe.ema_decay
            update_average(self.average, self.setup.model, decay, self.state.step)

    def keep(self) -> None:
        """Save a checkpoint within the epoch."""
        self.add_up()
        self.control.save(self.snapshot(), None)
        self.clock.last, self.last_checkpoint_step = time.monotonic(), self.state.step

    def record(self, text: str) -> None:
        """Add an event that changed the run to its history, and send a warning."""
        self.state.history = [*self.state.history, text]
        self.control.listen(Note(text=text, warning=True))

    def freeze(self, frozen: int) -> None:
        """Freeze the first `frozen` depths, starting with the stem."""
        accelerator = self.setup.accelerator
        freeze_parameters(self.trainable, self.setup.depths, frozen)
        self.frozen = frozen
        if accelerator.num_processes > 1:
            # DistributedDataParallel only averages gradients of parameters that are trainable when
            # it is created. The mixed-precision wrapper is removed, or it would be wrapped again.
            bare = accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.model = accelerator.prepare_model(bare)


def _total_steps(recipe: Recipe, steps: int, processes: int) -> int:
    """Return the steps of training in epochs of so many steps."""
    total, length = steps * recipe.epochs, recipe.length(processes)
    return total if length is None else min(total, length)


def _schedule(recipe: Recipe, steps: int, processes: int) -> Callable[[int], float]:
    """Return the recipe's schedule for epochs of so many steps."""
    warmup = recipe.warmup_steps
    return partial(
        lr_factor,
        total_steps=_total_steps(recipe, steps, processes),
        warmup_steps=round(steps * recipe.warmup_epochs) if warmup is None else warmup,
        schedule=recipe.schedule,
        power=recipe.schedule_power,
        warmup_start=recipe.warmup_start,
        warmup_prefix=recipe.warmup_prefix,
    )


def _find_unused(
    setup: Setup, trainable: Sequence[tuple[str, nn.Parameter]], control: Control
) -> None:
    """Have processes not wait for gradients of parameters that the network does not use.

    torch's search for them costs time in each step, so it is done only if there are some.
    """
    backbone, accelerator = setup.backbone, setup.accelerator
    if setup.loaders.image_size is None:
        return
    with keep_modes(setup.model):
        train_mode(
            setup.model,
            backbone,
            setup.depths,
            frozen=setup.freezing.always,
            batch_norm=setup.recipe.batch_norm,
        )
        shape = (2, backbone.preprocess.channels, *setup.loaders.image_size)
        images = place_images(torch.zeros(shape), accelerator.device)
        with accelerator.autocast():
            unused = without_gradient(setup.model, trainable, images)
    if unused:
        find_unused_parameters(accelerator)
        text = (
            f"the forward pass of {backbone.name} does not use {listed(unused, 3)}: torch looks "
            f"for parameters without a gradient in each step, which costs time"
        )
        control.listen(Note(text=text))


def _call(model: nn.Module, forward: Callable[..., object], *inputs: Tensor) -> object:
    """Call the model, and the hooks on it, with another forward pass than its present one."""
    with forward_as(model, forward):
        return model(*inputs)


def _average(
    model: nn.Module, recipe: Recipe, resumed: Snapshot | None
) -> dict[str, Tensor] | None:
    """Return the initial or the resumed moving average; None if the recipe uses none."""
    if not recipe.ema_decay:
        return None
    average = copied(model)
    if resumed is not None:
        restore_average(average, resumed.average)
    return average
