"""Where training is, and what an epoch's end makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from zoo.engine.events import EpochEnd
from zoo.model.optim import rate_of
from zoo.recipe import Recipe


@dataclass
class TrainingState:
    """All that changes while training, besides model and optimizer; JSON-ready.

    Attributes:
        probed: Whether the probe is done.
        epoch: Epochs that are done, validation included.
        step: Steps taken in all.
        epoch_step: Steps taken of the epoch under way.
        seen: Of those the sum of losses, of right answers, of images.
        seconds: The time that they took.
        data_seconds: Of that the time in which they waited for images.
        best_accuracy: The best val accuracy so far, -1 before the first.
        best_loss: The val loss with it; None before the first.
        stale_epochs: Epochs since then.
        lr_scale: What the learning rates are multiplied with, besides the schedule.
        rewinds: How often training went back to a checkpoint since the loss was not finite.
        history: What changed the run on its way, a line each.
        micro_batch: Images whose gradients are computed at a time; None: a whole batch's. Of this
            process, and in a checkpoint of the main one.
        micro_batches: Of each of several processes, when it was last saved.
    """

    probed: bool = False
    epoch: int = 0
    step: int = 0
    epoch_step: int = 0
    seen: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    data_seconds: float = 0.0
    best_accuracy: float = -1.0
    best_loss: float | None = None
    stale_epochs: int = 0
    lr_scale: float = 1.0
    rewinds: int = 0
    history: list[str] = field(default_factory=list)
    micro_batch: int | None = None
    micro_batches: list[int | None] = field(default_factory=list)

    def improves(self, accuracy: float, loss: float) -> bool:
        """Whether this is the best epoch so far: by accuracy, between equals by loss."""
        best_loss = math.inf if self.best_loss is None else self.best_loss
        return (accuracy, -loss) > (self.best_accuracy, -best_loss)


def seen_so_far(state: TrainingState, accelerator: Accelerator) -> Tensor:
    """What was seen of the epoch; what all processes saw before a run was resumed counts once."""
    seen = state.seen if accelerator.is_main_process else [0.0, 0.0, 0.0]
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    return torch.tensor(seen, dtype=dtype).to(accelerator.device)


def count_steps_again(
    state: TrainingState, steps: int, recipe: Recipe, accelerator: Accelerator
) -> None:
    """Where training is, in steps of another size, if batches or images are others than before."""
    if state.step == state.epoch * steps + state.epoch_step:
        return
    step_images = (recipe.batch_size or 1) * accelerator.num_processes
    state.epoch_step = min(steps, round(state.seen[2] / step_images))
    state.step = state.epoch * steps + state.epoch_step


def out_of_patience(state: TrainingState, recipe: Recipe) -> bool:
    """Whether too many epochs in a row were no better, by the recipe."""
    return bool(recipe.patience) and state.stale_epochs >= recipe.patience


def close_epoch(
    state: TrainingState,
    val_loss: float,
    val_accuracy: float,
    optimizer: torch.optim.Optimizer,
    *,
    seconds: float,
    most: float | None,
) -> EpochEnd:
    """Close the epoch in the state, and say how it ended."""
    loss_sum, correct_sum, images = state.seen
    per_second = images / state.seconds
    best = state.improves(val_accuracy, val_loss)
    state.stale_epochs = 0 if val_accuracy > state.best_accuracy else state.stale_epochs + 1
    if best:
        state.best_accuracy, state.best_loss = val_accuracy, val_loss
    end = EpochEnd(
        epoch=state.epoch + 1,
        train_loss=loss_sum / images,
        train_accuracy=correct_sum / images,
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        lr_backbone=rate_of(optimizer, "backbone"),
        lr_head=rate_of(optimizer, "head"),
        seconds=seconds,
        images_per_second=per_second,
        data_seconds=state.data_seconds,
        peak_share=None if most is None else per_second / most,
        best=best,
    )
    state.epoch += 1
    state.epoch_step, state.seen, state.seconds, state.data_seconds = 0, [0.0, 0.0, 0.0], 0.0, 0.0
    return end
