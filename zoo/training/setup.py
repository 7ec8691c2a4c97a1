"""What a training is made of: what stays as it is, and what moves while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.data.dataset import Batches
from zoo.events import Listener, Note
from zoo.machine.device import place
from zoo.machine.processes import of_each
from zoo.models.depth import Depths
from zoo.models.freeze import Freezing, freeze_parameters
from zoo.models.groups import parameter_groups
from zoo.models.optim import make_optimizer
from zoo.recipe import Recipe
from zoo.tasks import Baseline, Task
from zoo.training.averaging import copied, update_average
from zoo.training.batches import Loaders
from zoo.training.mixing import BatchTransform
from zoo.training.snapshot import Clock, Save, Snapshot, restore, take
from zoo.training.state import Seen, TrainingState, count_steps_again, seen_so_far
from zoo.training.stopping import StopRequest


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What training needs and does not replace.

    Attributes:
        model: With its head replaced.
        backbone: Says where the head is and what lies how deep.
        recipe: As resolved.
        depths: Of the model.
        freezing: How many of them are frozen in which epoch.
        accelerator: Places model and batches.
        loaders: Batches for training and validation.
        origin: The state dict that training begins with, on the CPU.
        task: Gives loss and metrics.
        baseline: What ignoring the val images reaches.
        class_weights: Weight of each class in the loss (C,), or None.
        batch_transform: Changes each training batch of images; None: nothing does.
        deadline: No epoch begins that would end after it, by `time.perf_counter`; None: as many
            as the recipe says.
    """

    model: nn.Module
    backbone: Backbone
    recipe: Recipe
    depths: Depths
    freezing: Freezing
    accelerator: Accelerator
    loaders: Loaders
    origin: Mapping[str, Tensor]
    task: Task
    baseline: Baseline
    class_weights: Tensor | None
    batch_transform: BatchTransform | None
    deadline: float | None


@dataclass(frozen=True, kw_only=True)
class Control:
    """Where events and snapshots go, and what stops training.

    Attributes:
        save: Keeps a snapshot: after the probe, after each epoch, and within one as the recipe
            says.
        last: The snapshot kept last.
        stop: Whether to stop; then a snapshot is kept first.
        listen: Receives the events.
    """

    save: Save
    last: Callable[[], Snapshot]
    stop: StopRequest
    listen: Listener


@dataclass(kw_only=True)
class Loop:
    """A training that runs: its setup, its state, and what accelerate made of both.

    Attributes:
        setup: What it was made of.
        state: Where it is; its best is what an epoch must surpass.
        control: Where events and snapshots go, and what stops it.
        model: As it is called in training, perhaps wrapped; `setup.model` is the model itself.
        validated: The model's forward pass in full precision.
        optimizer: Of all that will ever train.
        batches: Of (what is loaded, targets (N, ...)); an epoch.
        class_weights: Those of the setup, on the device.
        trainable: Parameters that may ever train, by name.
        average: Moving average of the model's state dict, on the device; None without one.
        totals: (3,) on the device: what this process saw of the epoch, as in `Seen`.
        clock: When the next checkpoint within an epoch is due.
        frozen: Depths that are frozen now.
        kept_at: The step of the last checkpoint.
        started: When this part of the epoch began, by `time.perf_counter`.
        before: Seconds that earlier parts of the epoch took.
    """

    setup: Setup
    state: TrainingState
    control: Control
    model: nn.Module
    validated: Callable[..., object]
    optimizer: torch.optim.Optimizer
    batches: Batches
    class_weights: Tensor | None
    trainable: Sequence[tuple[str, nn.Parameter]]
    average: dict[str, Tensor] | None
    totals: Tensor
    clock: Clock
    frozen: int
    kept_at: int
    started: float = field(default_factory=time.perf_counter)
    before: float = 0.0

    @classmethod
    def begin(
        cls, setup: Setup, state: TrainingState, control: Control, resumed: Snapshot | None
    ) -> Loop:
        """Make the optimizer, and put everything where it computes.

        Args:
            setup: Its model is placed, and frozen as its recipe says.
            state: Becomes that of the snapshot, if there is one.
            control: Keeps a first snapshot where training may have to go back to it.
            resumed: What training goes on from; None: from the model as it is.

        Raises:
            RunError: The snapshot is another model's.
        """
        model, recipe, accelerator = setup.model, setup.recipe, setup.accelerator
        place(model, accelerator.device)
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        freeze_parameters(trainable, setup.depths, setup.freezing.always)
        # All that will ever train is in the optimizer from the start. What is still frozen has no
        # gradient, so the optimizer passes it by and keeps no state of it.
        groups = parameter_groups(
            model,
            setup.backbone,
            lr=recipe.lr,
            head_lr_mult=recipe.head_lr_mult,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            wd_on_norms=recipe.wd_on_norms,
        )
        optimizer = make_optimizer(recipe.optimizer, groups, momentum=recipe.momentum)
        if resumed is not None:
            restore(resumed, model, state)
        frozen = setup.freezing.frozen(min(state.epoch + 1, recipe.epochs))
        freeze_parameters(trainable, setup.depths, frozen)
        # prepare() makes calling the model compute in mixed precision; validation is in full.
        validated = model.forward
        wrapped, optimizer, batches = accelerator.prepare(model, optimizer, setup.loaders.train)
        weights = setup.class_weights
        if resumed is not None:
            restore(resumed, model, state, optimizer, accelerator)
            count_steps_again(state, len(batches), recipe, accelerator)
        elif recipe.on_nan == "rewind" and not state.probed:
            control.save(take(model, state), None)  # There must be something to go back to.
        return cls(
            setup=setup,
            state=state,
            control=control,
            model=wrapped,
            validated=validated,
            optimizer=optimizer,
            batches=batches,
            class_weights=None if weights is None else weights.to(accelerator.device),
            trainable=trainable,
            average=_average(model, recipe, resumed),
            totals=seen_so_far(state, accelerator),
            clock=Clock.of(recipe),
            frozen=frozen,
            kept_at=state.step,
        )

    @property
    def epoch(self) -> int:
        """The number of the epoch under way, from 1."""
        return self.state.epoch + 1

    @property
    def where(self) -> str:
        """Epoch and step, for messages."""
        return f"epoch {self.epoch}, step {self.state.epoch_step} of {len(self.batches)}"

    def seconds(self) -> float:
        """What the epoch under way has taken so far."""
        return self.before + time.perf_counter() - self.started

    def add_up(self) -> None:
        """Note in the state what all processes have seen of the epoch."""
        accelerator = self.setup.accelerator
        totals = accelerator.reduce(self.totals.clone(), reduction="sum").tolist()
        self.state.seen = Seen(*totals)
        self.state.seconds = self.seconds()
        self.state.micro_batches = of_each(accelerator, self.state.micro_batch)

    def snapshot(self) -> Snapshot:
        """Of this moment; its tensors are no copies."""
        return take(
            self.setup.model, self.state, self.optimizer, self.setup.accelerator, self.average
        )

    def restart_average(self) -> None:
        """Let the average begin at the model's present weights."""
        if self.average is not None:
            self.average = copied(self.setup.model)

    def update_average(self) -> None:
        """Move the average towards the model's weights, after a step."""
        if self.average is not None:
            decay = self.setup.recipe.ema_decay
            update_average(self.average, self.setup.model, decay, self.state.step)

    def keep(self) -> None:
        """Keep a checkpoint within the epoch."""
        self.add_up()
        self.control.save(self.snapshot(), None)
        self.clock.last, self.kept_at = time.monotonic(), self.state.step

    def record(self, text: str) -> None:
        """Note in the run's history what changed its course, and warn of it."""
        self.state.history = [*self.state.history, text]
        self.control.listen(Note(text=text, warning=True))

    def freeze(self, frozen: int) -> None:
        """Freeze so many depths, from the stem on."""
        accelerator = self.setup.accelerator
        freeze_parameters(self.trainable, self.setup.depths, frozen)
        self.frozen = frozen
        if accelerator.num_processes > 1:
            # DistributedDataParallel averages the gradients of those parameters alone that train
            # when it is made. Without the mixed-precision wrapper, which would be wrapped again.
            bare = accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            self.model = accelerator.prepare_model(bare)


def _average(
    model: nn.Module, recipe: Recipe, resumed: Snapshot | None
) -> dict[str, Tensor] | None:
    """The moving average that training goes on with, if the recipe has one."""
    if not recipe.ema_decay:
        return None
    average = copied(model)
    if resumed is not None:
        for name, tensor in resumed.average.items():
            average[name].copy_(tensor)
    return average
