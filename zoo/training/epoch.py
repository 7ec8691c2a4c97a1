"""One epoch of training, with one step per batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from accelerate import skip_first_batches
from torch import Tensor, nn

from zoo import plugins
from zoo.backbone import Backbone
from zoo.data.dataset import Batches, Loaded, derive_seed, raising
from zoo.errors import DataError, PluginError, TrainingError
from zoo.events import StepEnd
from zoo.io.text import clip
from zoo.machine.processes import in_any, together
from zoo.models.optim import rate_of, set_learning_rates
from zoo.training.custom import Loss, name_of
from zoo.training.gradients import Objective, step_gradients
from zoo.training.setup import Loop
from zoo.training.teacher import teach


def train_epoch(loop: Loop, after_step: Callable[[Loop], bool]) -> None:
    """Take a training step for each remaining batch of the epoch.

    Args:
        loop: Its model is in the mode used for training. The step counts of its state are updated;
            its micro-batch is halved if memory runs out.
        after_step: Called after each step, when training can be resumed from the state. Returns
            whether it has waited for the device.

    Raises:
        DataError: A photo can no longer be read, or has changed.
        TrainingError: Memory is too small for the smallest micro-batch.
        PluginError: The model's output in train mode does not match the declared head.
    """
    setup, state, recipe = loop.setup, loop.state, loop.setup.recipe
    accelerator, listen = setup.accelerator, loop.control.listen
    epoch = loop.epoch
    waiting = _Waiting(_left(loop.batches, state.epoch_step), loop.steps - state.epoch_step)
    data_seconds = state.data_seconds
    objective = Objective(
        outputs_of=partial(setup.loaders.outputs, loop.model),
        loss_of=partial(
            _loss,
            backbone=setup.backbone,
            loss=_of_caller(setup.loss, accelerator.device)
            or partial(
                setup.criterion.loss,
                class_weights=loop.class_weights,
                label_smoothing=recipe.label_smoothing,
            ),
        ),
        criterion=setup.criterion,
        class_weights=loop.class_weights,
    )

    def set_rates(step: int) -> None:
        set_learning_rates(loop.optimizer, loop.schedule(step) * state.lr_scale)

    if state.epoch_step:
        set_rates(state.step - 1)  # Otherwise an epoch with no steps left would report other rates.
    whole = raising(waiting if accelerator.num_processes == 1 else _agreed(waiting))
    for step, (loaded, targets) in enumerate(whole, start=state.epoch_step + 1):
        set_rates(state.step)
        if setup.batch_transform is not None:
            seed = derive_seed(recipe.seed, "mix", state.step, accelerator.process_index)
            loaded, targets = setup.batch_transform(loaded, targets, seed)
        if setup.teacher is not None:
            targets, state.micro_batch = teach(
                setup.teacher,
                loaded,
                targets,
                micro_batch=state.micro_batch,
                accelerator=accelerator,
                listen=listen,
            )
        sums = step_gradients(
            loop.model,
            objective,
            loaded,
            targets,
            # Dropout and stochastic depth then depend on nothing else, such as earlier steps.
            seed=derive_seed(recipe.seed, "step", state.step, accelerator.process_index),
            micro_batch=state.micro_batch,
            accelerator=accelerator,
            listen=listen,
        )
        state.micro_batch = sums.micro_batch
        images = sums.correct.new_tensor(len(targets))
        loop.totals += torch.stack([sums.loss * len(targets), sums.correct, images])
        if recipe.clip_grad:
            accelerator.clip_grad_norm_(loop.model.parameters(), recipe.clip_grad)
        loop.optimizer.step()
        loop.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        loop.update_average()
        state.epoch_step = step
        state.data_seconds = data_seconds + waiting.seconds
        waited = after_step(loop)
        listen(
            StepEnd(
                epoch=epoch,
                epochs=recipe.epochs,
                step=step,
                steps=len(loop.batches),
                total_steps=loop.total_steps,
                images=len(targets),
                loss=float(sums.loss) if waited else None,
                lr_backbone=rate_of(loop.optimizer, "backbone"),
                lr_head=rate_of(loop.optimizer, "head"),
            )
        )


def _left(batches: Batches, done: int) -> Batches:
    """Return the remaining batches of an epoch, without loading those that are done."""
    if not done:
        return batches
    rest: Batches = skip_first_batches(batches, done)
    return rest


def _of_caller(loss: Loss | None, device: torch.device) -> Loss | None:
    """Return the caller's loss, placed on the device, with a check of what it returns."""
    if loss is None:
        return None
    if isinstance(loss, nn.Module):
        loss.to(device)

    def checked(logits: Tensor, targets: Tensor) -> Tensor:
        found: object = loss(logits, targets)
        if not isinstance(found, Tensor) or found.ndim or not found.requires_grad:
            what = (
                f"a tensor {tuple(found.shape)}, requires_grad={found.requires_grad}"
                if isinstance(found, Tensor)
                else clip(repr(found))
            )
            raise TrainingError(
                f"the loss {name_of(loss)} gave {what}",
                hint="return the mean over the images, a tensor () that depends on the logits",
            )
        return found

    return checked


def _loss(outputs: Any, targets: Tensor, backbone: Backbone, loss: Loss) -> tuple[Tensor, Tensor]:
    """Return (logits of the main head, loss of all heads)."""
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    # A frozen network is in eval mode, in which it returns no auxiliary logits.
    if not isinstance(logits, Tensor) or len(auxiliary) not in (0, len(backbone.aux)):
        raise PluginError(
            f"{plugins.describe(backbone)} gives a {type(outputs).__name__} of "
            f"{1 + len(auxiliary)} in train mode, zoo needs logits (N, classes) "
            f"and as many auxiliary ones as the head declares: {len(backbone.aux)}"
        )
    shares = (1.0, *backbone.aux)
    losses = [
        share * loss(each.float(), targets)
        for share, each in zip(shares, (logits, *auxiliary), strict=bool(auxiliary))
    ]
    return logits, torch.stack(losses).sum()


def _agreed(batches: Iterable[Loaded]) -> Iterator[Loaded]:
    """Yield batches while every process has one; raise an error of any process in all of them."""
    for batch in batches:
        if in_any(isinstance(batch, DataError)):
            together(partial(list, raising([batch])))
        yield batch


class _Waiting:
    """Iterable of the first batches that measures the seconds spent waiting for them."""

    def __init__(self, batches: Batches, most: int) -> None:
        self.batches, self.most = batches, most
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Loaded]:
        batches = iter(self.batches)
        for _ in range(self.most):
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch
            del batch  # A reference to an error would keep the loader's workers alive.
