"""Where training is, and what an epoch's end makes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from zoo.events import EpochEnd, epoch_metrics
from zoo.models.optim import rate_of
from zoo.recipe import Recipe
from zoo.tasks import TASKS, Metrics


class Seen(NamedTuple):
    """What training saw: the sum of losses, right answers, images."""

    loss_sum: float = 0.0
    correct: float = 0.0
    images: float = 0.0

    @property
    def loss(self) -> float:
        """The mean."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Share of images predicted correctly, 0..1."""
        return self.correct / self.images


class Look(NamedTuple):
    """What was seen of the epoch when the loss was last looked at."""

    step: int = 0
    loss_sum: float = 0.0
    images: float = 0.0


@dataclass
class TrainingState:
    """All that changes while training, besides model and optimizer; JSON-ready.

    Attributes:
        probed: Whether the probe is done.
        epoch: Epochs that are done, validation included.
        step: Steps taken in all.
        epoch_step: Steps taken of the epoch under way.
        seen: Of those.
        seconds: The time that they took.
        data_seconds: Of that the time in which they waited for images.
        best_epoch: The epoch whose model is kept, 0 for the probe; None before the first.
        best_value: Its value of the deciding metric, more being better.
        best_score: Its main val metric, 0..1.
        best_loss: Its val loss.
        never_predicted: Labels that it gives to no val image, of classes that have some.
        stale_epochs: Epochs since then.
        lr_scale: What the learning rates are multiplied with, besides the schedule.
        rewinds: How often training went back to a checkpoint since the loss was not finite.
        restarts: How often fine-tuning began again because it diverged.
        start_loss: The loss of fine-tuning's first step; None before it.
        at_chance: Epochs in a row whose main val metric was that of guessing.
        decided: Fields of the recipe that were left open, as decided after the plan.
        looked: When the loss was last looked at.
        history: What changed the run on its way, a line each.
        micro_batch: Images whose gradients are computed at a time; None: a whole batch's. Of this
            process, and in a checkpoint of the main one.
        micro_batches: Of each of several processes, when it was last saved.
    """

    probed: bool = False
    epoch: int = 0
    step: int = 0
    epoch_step: int = 0
    seen: Seen = field(default_factory=Seen)
    seconds: float = 0.0
    data_seconds: float = 0.0
    best_epoch: int | None = None
    best_value: float = 0.0
    best_score: float = 0.0
    best_loss: float = 0.0
    never_predicted: list[int] = field(default_factory=list)
    stale_epochs: int = 0
    lr_scale: float = 1.0
    rewinds: int = 0
    restarts: int = 0
    at_chance: int = 0
    decided: dict[str, bool | int | float] = field(default_factory=dict)
    start_loss: float | None = None
    looked: Look = field(default_factory=Look)
    history: list[str] = field(default_factory=list)
    micro_batch: int | None = None
    micro_batches: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        """JSON gives lists for the tuples of a checkpoint."""
        self.seen, self.looked = Seen(*self.seen), Look(*self.looked)

    def keep_best(self, epoch: int, val: Metrics, metric: str, main: str) -> bool:
        """Note the epoch as the best if it is: by the metric, between equals by loss.

        Args:
            epoch: Its number.
            val: Its val metrics.
            metric: The deciding one.
            main: The task's main one.

        Returns:
            Whether it is. `stale_epochs` counts epochs without a better value of the metric.
        """
        value = val.value(metric)
        if self.best_epoch is None or value > self.best_value:
            self.stale_epochs = 0
        else:
            self.stale_epochs += 1
            if (value, -val.loss) <= (self.best_value, -self.best_loss):
                return False
        self.best_epoch, self.best_value = epoch, value
        self.best_score, self.best_loss = val.values[main], val.loss
        self.never_predicted = list(val.never_predicted)
        return True


def seen_so_far(state: TrainingState, accelerator: Accelerator) -> Tensor:
    """What was seen of the epoch; what all processes saw before a run was resumed counts once."""
    seen = state.seen if accelerator.is_main_process else Seen()
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    return torch.tensor(seen, dtype=dtype).to(accelerator.device)


def count_steps_again(
    state: TrainingState, steps: int, recipe: Recipe, accelerator: Accelerator
) -> None:
    """Where training is, in steps of another size, if batches or images are others than before."""
    if state.step == state.epoch * steps + state.epoch_step:
        return
    step_images = (recipe.batch_size or 1) * accelerator.num_processes
    state.epoch_step = min(steps, round(state.seen.images / step_images))
    state.step = state.epoch * steps + state.epoch_step


def out_of_patience(state: TrainingState, recipe: Recipe, val: Metrics | None = None) -> bool:
    """Whether too many epochs in a row were no better, by the recipe.

    Args:
        state: Of the epochs that are closed.
        recipe: Says how many are too many, and by which metric.
        val: Of one more epoch, which is not closed yet.
    """
    most = recipe.most_stale_epochs
    if most is None:
        return False
    stale = state.stale_epochs
    if val is not None:
        best = state.best_epoch is None or val.value(recipe.metric) > state.best_value
        stale = 0 if best else stale + 1
    return stale >= most


def close_epoch(
    state: TrainingState,
    val: Metrics,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    *,
    interpolation: float,
    seconds: float,
) -> EpochEnd:
    """Close the epoch in the state, and say how it ended."""
    seen = state.seen
    state.epoch += 1
    end = EpochEnd(
        epoch=state.epoch,
        metrics=epoch_metrics({"loss": seen.loss, "accuracy": seen.accuracy}, val.values),
        interpolation=interpolation,
        lr_backbone=rate_of(optimizer, "backbone"),
        lr_head=rate_of(optimizer, "head"),
        seconds=seconds,
        images_per_second=seen.images / state.seconds,
        data_seconds=state.data_seconds,
        best=state.keep_best(state.epoch, val, recipe.metric, TASKS[recipe.task].main),
    )
    begin_epoch(state)
    return end


def begin_epoch(state: TrainingState) -> None:
    """Nothing of the epoch is done yet."""
    state.epoch_step, state.seen, state.looked = 0, Seen(), Look()
    state.seconds = state.data_seconds = 0.0
