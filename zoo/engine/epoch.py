"""One epoch of training: a step a batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from zoo import plugins
from zoo.backbone import Backbone
from zoo.data.dataset import Batches, derive_seed
from zoo.engine.events import Listener, StepEnd
from zoo.engine.feed import Forward
from zoo.errors import PluginError, TrainingError
from zoo.model.optim import lr_factor, set_learning_rates
from zoo.recipe import Recipe

#: Steps between two looks at the loss where looking costs time.
_LOOKS_EVERY = 16


@dataclass
class TrainingState:
    """All that changes while training, besides model and optimizer."""

    step: int = 0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    stale_epochs: int = 0

    def improves(self, accuracy: float, loss: float) -> bool:
        """Whether this is the best epoch so far: by accuracy, between equals by loss."""
        return (accuracy, -loss) > (self.best_accuracy, -self.best_loss)


@dataclass(frozen=True)
class Seen:
    """What an epoch saw: the sums of loss and of right answers, images, seconds waited for data."""

    loss: float
    correct: float
    images: float
    data_seconds: float


def train_epoch(
    model: nn.Module,
    backbone: Backbone,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    outputs_of: Callable[[Forward, Tensor], Any],
    loss_weights: Tensor | None,
    recipe: Recipe,
    accelerator: Accelerator,
    state: TrainingState,
    epoch: int,
    listen: Listener,
) -> Seen:
    """Take a step on each batch.

    Args:
        model: In the mode in which it trains; perhaps wrapped.
        backbone: Says how its auxiliary heads count.
        optimizer: Of what trains.
        batches: Of (what is fed, labels).
        outputs_of: As in `Feed`.
        loss_weights: (classes,) on the device, or None.
        recipe: As resolved.
        accelerator: Averages gradients and sums what was seen over processes.
        state: Its step is counted on.
        epoch: From 1.
        listen: Hears `StepEnd`.

    Raises:
        TrainingError: The loss is not finite.
        PluginError: The model's output in train mode is not what the head declares.
    """
    steps = len(batches)
    device = accelerator.device
    totals = torch.zeros(3, dtype=torch.float32 if device.type == "mps" else torch.float64)
    totals = totals.to(device)
    waiting = _Waiting(batches)
    for step, (batch, labels) in enumerate(waiting, start=1):
        # Dropout and stochastic depth become a function of (seed, step), whatever ran before.
        torch.manual_seed(derive_seed(recipe.seed, "step", state.step, accelerator.process_index))
        factor = lr_factor(
            state.step,
            total_steps=steps * recipe.epochs,
            warmup_steps=round(steps * recipe.warmup_epochs),
            schedule=recipe.schedule,
        )
        set_learning_rates(optimizer, factor)
        logits, loss = _loss(outputs_of(model, batch), labels, backbone, recipe, loss_weights)
        accelerator.backward(loss)
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        totals += torch.stack(
            [loss.detach() * len(labels), correct, labels.new_tensor(len(labels))]
        )
        # To look at a number on a GPU is to wait for it.
        looks = device.type == "cpu" or step == steps or step % _LOOKS_EVERY == 0
        if looks and not torch.isfinite(totals[0]):
            raise TrainingError(
                f"the loss is {loss.item()} in epoch {epoch}, step {step} of {steps}; "
                f"{smaller_rates(optimizer)}"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        listen(
            StepEnd(epoch=epoch, epochs=recipe.epochs, step=step, steps=steps, images=len(labels))
        )
    loss_sum, correct_sum, images = accelerator.reduce(totals.float(), reduction="sum").tolist()
    return Seen(loss_sum, correct_sum, images, waiting.seconds)


def _loss(
    outputs: Any,
    labels: Tensor,
    backbone: Backbone,
    recipe: Recipe,
    loss_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(logits of the main head, loss of all heads)."""
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    # A frozen network is in eval mode, in which it gives no auxiliary logits.
    if not isinstance(logits, Tensor) or len(auxiliary) not in (0, len(backbone.aux)):
        raise PluginError(
            f"{plugins.describe(backbone)} gives a {type(outputs).__name__} of "
            f"{1 + len(auxiliary)} in train mode, zoo needs logits (N, classes) "
            f"and as many auxiliary ones as the head declares: {len(backbone.aux)}"
        )
    shares = (1.0, *backbone.aux)
    losses = [
        share
        * cross_entropy(
            each.float(), labels, weight=loss_weights, label_smoothing=recipe.label_smoothing
        )
        for share, each in zip(shares, (logits, *auxiliary), strict=bool(auxiliary))
    ]
    return logits, torch.stack(losses).sum()


class _Waiting:
    """Batches, and the seconds that it took to get them."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = iter(self.batches)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch


def rate_of(optimizer: torch.optim.Optimizer, part: str) -> float:
    """The learning rate of a part, where it trains; the backbone's is its deepest depth's."""
    rates = [
        group["lr"]
        for group in optimizer.param_groups
        if group["part"] == part and any(p.requires_grad for p in group["params"])
    ]
    return rates[-1] if rates else 0.0


def smaller_rates(optimizer: torch.optim.Optimizer) -> str:
    """The learning rates that a loss that isn't finite was reached with, and what to do."""
    rates = ", ".join(f"{part} {rate_of(optimizer, part):g}" for part in ("backbone", "head"))
    return f"learning rates: {rates}; try a smaller --lr or --head-lr-mult"
