"""Divergence: training that destroys what it started from, seen by train loss or val accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.engine.checkpointing import load_state
from zoo.engine.events import Listener, Note
from zoo.engine.measure import Validation, trivial_accuracy
from zoo.engine.state import TrainingState, begin_epoch

#: Steps whose mean loss is looked at together.
WINDOW = 8

#: How often fine-tuning begins again before it is given up, and what that does to its rates.
MOST_RESTARTS, SMALLER = 3, 0.3

#: The mean loss of a window at which training has diverged, divided by that of guessing (the
#: logarithm of the number of classes) or by that of the first step, whichever is larger.
_TIMES_WORSE = 3.0


def window_loss(state: TrainingState, totals: Tensor) -> float | None:
    """The mean train loss since the last look, if that was a window ago; then this is the last.

    Args:
        state: Says when the last look was.
        totals: (3,) of the epoch so far: sum of losses, right answers, images.
    """
    loss_sum, _, images = totals.tolist()
    if state.start_loss is None:
        state.start_loss = loss_sum / images
    step, loss_before, images_before = state.looked
    if state.epoch_step - step < WINDOW:
        return None
    state.looked = [state.epoch_step, loss_sum, images]
    return float((loss_sum - loss_before) / (images - images_before))


def diverged_loss(loss: float | None, state: TrainingState, num_classes: int) -> bool:
    """Whether the mean loss of a window is far above where training began, and above guessing."""
    if loss is None:
        return False
    return loss > _TIMES_WORSE * max(math.log(num_classes), state.start_loss or 0.0)


def fell_to_chance(val: Validation, state: TrainingState, val_counts: Sequence[int]) -> bool:
    """Whether val accuracy has fallen to that of naming one class, and not for a moment only.

    It has where the best so far was far above it (three standard errors; near is one), and the
    epoch before was at chance too or the train loss is that of guessing.

    Args:
        val: Of the epoch that ends.
        state: Its `at_chance` is counted on.
        val_counts: Val images of each class.
    """
    chance = trivial_accuracy(val_counts)
    error = math.sqrt(chance * (1 - chance) / sum(val_counts))
    if val.accuracy > chance + error or state.best_accuracy <= chance + 3 * error:
        state.at_chance = 0
        return False
    state.at_chance += 1
    loss_sum, _, images = state.seen
    return state.at_chance > 1 or loss_sum / images > math.log(len(val_counts))


def restart(
    why: str,
    origin: Mapping[str, Tensor],
    model: nn.Module,
    state: TrainingState,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    listen: Listener,
) -> None:
    """Begin fine-tuning again, from the weights it began with and with smaller learning rates."""
    load_state(model, origin)
    optimizer.state.clear()
    scaler = getattr(accelerator, "scaler", None)
    if scaler is not None:
        scaler.load_state_dict({**scaler.state_dict(), "scale": scaler._init_scale})
    state.lr_scale *= SMALLER
    state.restarts += 1
    state.epoch = state.step = state.stale_epochs = state.at_chance = 0
    begin_epoch(state)
    text = f"{why}: fine-tuning begins again with learning rates times {state.lr_scale:g}"
    state.history = [*state.history, text]
    listen(Note(text=text, warning=True))
