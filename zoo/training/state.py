"""Progress of training, and how the end of an epoch updates it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from accelerate import Accelerator
from pydantic import TypeAdapter
from torch import Tensor

from zoo.events import EpochEnd, epoch_metrics
from zoo.models.optim import rate_of
from zoo.recipe import Recipe
from zoo.runs.growth import Growth
from zoo.runs.temperature import Calibration
from zoo.runs.transfer import Transfer
from zoo.tasks import TASKS, Metrics

_CALIBRATION = TypeAdapter(Calibration)


class Seen(NamedTuple):
    """Totals over training images: sum of losses, correct predictions, images."""

    loss_sum: float = 0.0
    correct: float = 0.0
    images: float = 0.0

    @property
    def loss(self) -> float:
        """Mean loss."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Share of images predicted correctly, 0..1."""
        return self.correct / self.images


class LossCheck(NamedTuple):
    """Totals of the epoch when the loss was last checked."""

    step: int = 0
    loss_sum: float = 0.0
    images: float = 0.0


@dataclass
class TrainingState:
    """Everything that changes during training, besides model and optimizer; JSON-ready.

    Attributes:
        probed: Whether the probe is done.
        epoch: Completed epochs, including validation.
        step: Steps taken in total.
        epoch_step: Steps taken in the current epoch.
        seen: Totals of those steps.
        seconds: Duration of those steps, in seconds.
        data_seconds: The part of it that was spent waiting for images.
        best_epoch: Epoch of the best model so far, 0 for the probe; None before the first.
        best_value: Its value of the deciding metric; higher is better.
        best_score: Its main val metric, 0..1.
        best_loss: Its val loss.
        never_predicted: Indices of classes that have val images, but that it never predicts.
        averaged: Number of last epochs that are in the average of their weights.
        best_tuned: Highest value of the deciding metric after an epoch of fine-tuning, of weights
            that are not interpolated; None before the first.
        stale_epochs: Epochs since that or `best_value` last improved.
        lr_scale: Factor of the learning rates, in addition to the schedule.
        rewinds: How often training returned to a checkpoint because a value was not finite.
        restarts: How often fine-tuning was restarted because it diverged.
        start_loss: Loss of the first step of fine-tuning; None before it.
        at_chance: Consecutive epochs whose main val metric was that of the baseline.
        decided: Fields that the recipe left open, with the values decided after the plan.
        transfer: Whether pretrained features help, as the probe found; None if not measured.
        looked: Totals when the loss was last checked.
        history: Events that changed the run, one line each.
        micro_batch: Images whose gradients are computed at a time; None: the whole batch. It is
            that of this process, and in a checkpoint that of the main one.
        micro_batches: Those of all processes, if there are several, when last saved.
        growth: How the probe's accuracy grows with the number of images; None if not measured.
        suspects: Train labels that are probably wrong: name of the image, given label, suggested
            label and its probability; the most suspicious first. None if not looked for.
        copies: Names (of val, of train) of images of which one is an edited copy of the other, as
            hashes do not find them. None if not looked for.
        calibration: What out-of-fold predictions say of the probe's probabilities, if val images
            are too few for that.
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
    averaged: int = 0
    best_tuned: float | None = None
    stale_epochs: int = 0
    lr_scale: float = 1.0
    rewinds: int = 0
    restarts: int = 0
    at_chance: int = 0
    decided: dict[str, bool | int | float | str] = field(default_factory=dict)
    transfer: Transfer | None = None
    start_loss: float | None = None
    looked: LossCheck = field(default_factory=LossCheck)
    history: list[str] = field(default_factory=list)
    micro_batch: int | None = None
    micro_batches: list[int | None] = field(default_factory=list)
    growth: Growth | None = None
    suspects: list[tuple[str, str, str, float]] | None = None
    copies: list[tuple[str, str]] | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        """Convert what JSON has in place of named tuples and data classes."""
        self.seen, self.looked = Seen(*self.seen), LossCheck(*self.looked)
        transfer: object = self.transfer
        if isinstance(transfer, dict):
            self.transfer = Transfer(**transfer)
        growth: object = self.growth
        if isinstance(growth, dict):
            self.growth = Growth.checked(growth)
        calibration: object = self.calibration
        if isinstance(calibration, dict):
            self.calibration = _CALIBRATION.validate_python(calibration)

    def keep_best(
        self, epoch: int, val: Metrics, metric: str, main: str, tuned: float | None = None
    ) -> bool:
        """Record the epoch if it is the best so far by the metric, or by loss if that is equal.

        Without val images, the last epoch counts as the best.

        Args:
            epoch: Number of the epoch.
            val: Its val metrics.
            metric: The deciding metric.
            main: The task's main metric.
            tuned: The deciding metric before weights were interpolated or averaged; None: this is
                no epoch of fine-tuning, and `stale_epochs` does not count it.

        Returns:
            Whether it is the best.
        """
        if not val.images:
            self.best_epoch = epoch
            return True
        value = val.value(metric)
        better = self.best_epoch is None or value > self.best_value
        if tuned is not None:
            # Fine-tuning begins below the probe, so its epochs are compared with each other.
            progress = better or self.best_tuned is None or tuned > self.best_tuned
            self.stale_epochs = 0 if progress else self.stale_epochs + 1
            self.best_tuned = tuned if self.best_tuned is None else max(tuned, self.best_tuned)
        if not better and (value, -val.loss) <= (self.best_value, -self.best_loss):
            return False
        self.best_epoch, self.best_value = epoch, value
        self.best_score, self.best_loss = val.values[main], val.loss
        self.never_predicted = list(val.never_predicted)
        return True


def seen_so_far(state: TrainingState, accelerator: Accelerator) -> Tensor:
    """Return the totals (3,) of the epoch so far; those of a resumed run count in one process."""
    seen = state.seen if accelerator.is_main_process else Seen()
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    return torch.tensor(seen, dtype=dtype).to(accelerator.device)


def count_steps_again(
    state: TrainingState, steps: int, recipe: Recipe, accelerator: Accelerator
) -> None:
    """Convert the progress to the current step size, if the batches or images have changed."""
    if state.step == state.epoch * steps + state.epoch_step:
        return
    processes = accelerator.num_processes
    step_images = recipe.step_images(processes) * processes
    state.epoch_step = min(steps, round(state.seen.images / step_images))
    state.step = state.epoch * steps + state.epoch_step


def out_of_patience(state: TrainingState, recipe: Recipe, val: Metrics | None = None) -> bool:
    """Return whether to stop early, after the recipe's number of epochs without improvement.

    Args:
        state: State after the epochs that are closed.
        recipe: Specifies the number of epochs and the metric.
        val: Metrics of one more epoch, which is not closed yet, before interpolation.
    """
    most = recipe.most_stale_epochs
    if most is None:
        return False
    stale = state.stale_epochs
    if val is not None:
        progress = state.best_tuned is None or val.value(recipe.metric) > state.best_tuned
        stale = 0 if progress else stale + 1
    return stale >= most


def close_epoch(
    state: TrainingState,
    val: Metrics,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    *,
    tuned: float | None,
    interpolation: float,
    averaged: int,
    seconds: float,
) -> EpochEnd:
    """Close the epoch in the state, and return its event.

    Arguments are as in `EpochEnd` and `TrainingState.keep_best`.
    """
    seen = state.seen
    state.epoch += 1
    end = EpochEnd(
        epoch=state.epoch,
        metrics=epoch_metrics({"loss": seen.loss, "accuracy": seen.accuracy}, val.values),
        interpolation=interpolation,
        averaged=averaged,
        lr_backbone=rate_of(optimizer, "backbone"),
        lr_head=rate_of(optimizer, "head"),
        seconds=seconds,
        images_per_second=seen.images / state.seconds,
        data_seconds=state.data_seconds,
        best=state.keep_best(state.epoch, val, recipe.metric, TASKS[recipe.task].main, tuned),
    )
    begin_epoch(state)
    return end


def begin_epoch(state: TrainingState) -> None:
    """Reset the progress within the epoch."""
    state.epoch_step, state.seen, state.looked = 0, Seen(), LossCheck()
    state.seconds = state.data_seconds = 0.0
