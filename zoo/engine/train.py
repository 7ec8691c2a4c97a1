"""The training loop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.backbone import Backbone
from zoo.engine.checkpointing import Clock, Save, Snapshot, is_finite, restore, rewind, take
from zoo.engine.divergence import (
    MOST_RESTARTS,
    diverged_loss,
    fell_to_chance,
    restart,
    window_loss,
)
from zoo.engine.epoch import train_epoch
from zoo.engine.events import Listener, Note
from zoo.engine.feed import Feed
from zoo.engine.interpolation import best_interpolation
from zoo.engine.measure import most_images_per_second, validate
from zoo.engine.processes import agree, of_each
from zoo.engine.state import (
    TrainingState,
    close_epoch,
    count_steps_again,
    out_of_patience,
    seen_so_far,
)
from zoo.engine.stopping import StopRequest, deferring
from zoo.errors import DivergenceError, NonFiniteError, Stopped, TrainingError
from zoo.model.depth import Depths
from zoo.model.device import place
from zoo.model.freeze import Freezing, freeze_parameters, train_mode
from zoo.model.groups import parameter_groups
from zoo.model.head import scale_head
from zoo.model.memory import out_of_memory_as
from zoo.model.optim import make_optimizer, smaller_rates
from zoo.recipe import Recipe

#: Steps between two looks at the loss where looking costs time.
_LOOKS_EVERY = 16

#: How often training goes back to a checkpoint before it gives up.
_MOST_REWINDS = 10


def train(
    model: nn.Module,
    backbone: Backbone,
    recipe: Recipe,
    *,
    depths: Depths,
    freezing: Freezing,
    accelerator: Accelerator,
    feed: Feed,
    deadline: float | None,
    state: TrainingState,
    origin: Mapping[str, Tensor],
    resumed: Snapshot | None,
    val_counts: Sequence[int],
    class_weights: Tensor | None,
    save: Save,
    last: Callable[[], Snapshot],
    stop: StopRequest,
    listen: Listener,
) -> None:
    """Train for the recipe's epochs, or until patience ends.

    Training that diverges begins again with smaller learning rates, as `recipe.on_nan` says; where
    that has not helped, it ends with the best so far.

    Args:
        model: With its head replaced; what the recipe freezes is frozen here.
        backbone: Says where the head is and what lies how deep.
        recipe: As resolved.
        depths: Of the model.
        freezing: How many of them stand still in which epoch.
        accelerator: Places model and batches.
        feed: Batches for training and validation.
        deadline: No epoch begins that would end after it, by `time.perf_counter`; None: as many as
            the recipe says.
        state: Where training is; its best is what an epoch must surpass.
        origin: The state dict that training begins with.
        resumed: What training goes on from; None: from the model as it is.
        val_counts: Val images of each class.
        class_weights: Weight of each class in the loss (C,), or None.
        save: Keeps a snapshot: after each epoch, and within one as the recipe says.
        last: The snapshot kept last.
        stop: Whether to stop; then a snapshot is kept first.
        listen: Hears `StepEnd` and `EpochEnd`, and a `Note` when something unfreezes.

    Raises:
        DivergenceError: Training diverged, and the recipe says to stop then, or going back has
            helped too rarely and nothing was kept.
        TrainingError: The device's memory is too small.
        PluginError: The model's output in train mode is not what the head declares.
        Stopped: A signal said so.
    """
    place(model, accelerator.device)
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    freeze_parameters(trainable, depths, freezing.always)
    # All that will ever train is in the optimizer from the start. What is still frozen has no
    # gradient, so the optimizer passes it by and keeps no state of it.
    groups = parameter_groups(
        model,
        backbone,
        lr=recipe.lr,
        head_lr_mult=recipe.head_lr_mult,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        wd_on_norms=recipe.wd_on_norms,
    )
    optimizer = make_optimizer(recipe.optimizer, groups, momentum=recipe.momentum)
    if resumed is not None:
        restore(resumed, model, state)
    frozen = freezing.frozen(min(state.epoch + 1, recipe.epochs))
    freeze_parameters(trainable, depths, frozen)
    # prepare() makes calling the model compute in mixed precision; validation is in full.
    full_precision = model.forward
    wrapped, optimizer, batches = accelerator.prepare(model, optimizer, feed.train)
    bare = accelerator.unwrap_model(wrapped)
    if resumed is not None:
        restore(resumed, bare, state, optimizer, accelerator)
        count_steps_again(state, len(batches), recipe, accelerator)
    elif recipe.on_nan == "rewind" and not state.probed:
        save(take(bare, state), None)  # There must be something to go back to.
    loss_weights = None if class_weights is None else class_weights.to(accelerator.device)
    clock = Clock.of(recipe)
    most: float | None = None
    kept_at = state.step

    def add_up() -> None:
        state.seen = accelerator.reduce(totals.clone(), reduction="sum").tolist()
        state.seconds = seconds + time.perf_counter() - started
        state.micro_batches = of_each(accelerator, state.micro_batch)

    def keep() -> None:
        nonlocal kept_at
        add_up()
        save(take(bare, state, optimizer, accelerator), None)
        clock.last, kept_at = time.monotonic(), state.step

    def after_step() -> None:
        due = clock.by_steps(state.step)
        # To look at a number on a GPU is to wait for it, and processes to agree to wait too.
        regularly = due or state.epoch_step == len(batches) or not state.epoch_step % _LOOKS_EVERY
        # The first loss after a checkpoint tells whether its own weights have run away.
        looks = regularly or state.step == kept_at + 1
        if not looks and accelerator.device.type != "cpu":
            return
        loss = window_loss(state, totals)
        broken, diverged, stopping, late = agree(
            accelerator,
            not totals[0].isfinite(),
            diverged_loss(loss, state, len(val_counts)),
            stop.signum is not None,
            clock.by_time(),
        )
        if broken:
            what = f"the loss is {totals[0].item()}"
            raise _non_finite(what, state, len(batches), optimizer, step=state.step - 1)
        if diverged:
            began = f"{state.start_loss:.3g}"
            raise _diverged(
                f"the train loss is {loss:.3g}, where it began at {began}"
                if loss is not None
                else "the train loss of another process has diverged",
                state,
                len(batches),
                optimizer,
            )
        if (due or late or stopping) and not is_finite(bare):
            raise _non_finite("weights are not finite", state, len(batches), optimizer)
        if due or late or stopping:
            keep()
        if stopping:
            raise Stopped(stop.signum or signal.SIGTERM)

    while state.epoch < recipe.epochs and not out_of_patience(state, recipe):
        epoch, kept_at = state.epoch + 1, state.step
        if state.probed and not state.step:
            scale_head(bare, backbone, recipe.probe_scale)
        feed.sampler.epoch = epoch
        before, frozen = frozen, freezing.frozen(epoch)
        if frozen != before:
            freeze_parameters(trainable, depths, frozen)
            wrapped = _wrap_again(accelerator, wrapped)
        if frozen < before:
            most = None
            unfrozen = depths.span(frozen, before - 1)
            listen(Note(text=f"epoch {epoch}: {unfrozen} trains from now on"))
        train_mode(bare, backbone, depths, frozen=frozen, batch_norm=recipe.batch_norm)
        totals = seen_so_far(state, accelerator)
        started, seconds = time.perf_counter(), state.seconds
        try:
            with deferring(stop), out_of_memory_as(_too_small(accelerator)):
                train_epoch(
                    wrapped,
                    backbone,
                    optimizer,
                    batches,
                    feed.on_device,
                    feed.outputs,
                    loss_weights,
                    recipe,
                    accelerator,
                    state,
                    epoch,
                    totals,
                    after_step,
                    listen,
                )
                add_up()
            if most is None:
                most = most_images_per_second(bare, feed, accelerator)
            measure = partial(validate, bare, feed, full_precision, listen)
            val, share = measure(), 1.0
            if not (math.isfinite(val.loss) and is_finite(bare)):
                raise _non_finite(f"the val loss is {val.loss}", state, len(batches), optimizer)
            if fell_to_chance(val, state, val_counts):
                raise _diverged(
                    f"val accuracy fell to {val.accuracy:.2%}, that of guessing",
                    state,
                    len(batches),
                    optimizer,
                )
            spent = seconds + time.perf_counter() - started
            (late,) = agree(
                accelerator, deadline is not None and time.perf_counter() + spent > deadline
            )
            ends = epoch == recipe.epochs or late or out_of_patience(state, recipe, val)
            if ends and recipe.interpolate and state.probed:
                val, share = best_interpolation(bare, origin, val, measure, recipe.metric)
        except DivergenceError as error:
            if recipe.on_nan == "stop":
                raise
            if recipe.on_nan == "restart" or not isinstance(error, NonFiniteError):
                what = str(error).partition(";")[0]
                if state.best_epoch or state.restarts >= MOST_RESTARTS:
                    if state.best_epoch is None:
                        raise
                    ended = f"{what}: fine-tuning ends here, the best so far is kept"
                    state.history = [*state.history, ended]
                    listen(Note(text=ended, warning=True))
                    return
                restart(what, origin, bare, state, optimizer, accelerator, listen)
                save(take(bare, state, optimizer, accelerator), None)
                continue
            if state.rewinds >= _MOST_REWINDS:
                raise
            kept = last()
            if error.step <= kept.state.step:
                # No smaller rate changes what those weights give.
                raise _run_away(error) from error
            rewind(kept, str(error).partition(";")[0], bare, state, optimizer, accelerator, listen)
            continue
        except RuntimeError as error:
            if "deterministic" in str(error):
                raise TrainingError(
                    f"{str(error).splitlines()[0]}; leave out --deterministic"
                ) from error
            # A signal for all of the run's processes ends those that load images right away.
            if stop.signum is None or "DataLoader worker" not in str(error):
                raise
            if accelerator.num_processes == 1:
                keep()
            raise Stopped(stop.signum) from error
        except Stopped:
            # Of the epoch all steps are done; what is left is validation.
            if state.epoch_step == len(batches):
                save(take(bare, state, optimizer, accelerator), None)
            raise
        end = close_epoch(
            state,
            val,
            recipe.metric,
            optimizer,
            interpolation=share,
            seconds=seconds + time.perf_counter() - started,
            most=most,
        )
        with deferring(stop):
            save(take(bare, state, optimizer, accelerator), end)
            clock.last = time.monotonic()
            listen(end)
        if late and epoch < recipe.epochs:
            text = f"no time is left for epoch {epoch + 1} of {recipe.epochs}: training ends here"
            state.history = [*state.history, text]
            listen(Note(text=text, warning=True))
            return


def _too_small(accelerator: Accelerator) -> str:
    return (
        f"{accelerator.device} has too little memory for a training step; "
        f"try a smaller --batch-size, --image-size or backbone"
    )


def _non_finite(
    what: str,
    state: TrainingState,
    steps: int,
    optimizer: torch.optim.Optimizer,
    *,
    step: int | None = None,
) -> NonFiniteError:
    return NonFiniteError(
        f"{what} in epoch {state.epoch + 1}, step {state.epoch_step} of {steps}; "
        f"{smaller_rates(optimizer)}, or --on-nan rewind",
        state.step if step is None else step,
    )


def _diverged(
    what: str, state: TrainingState, steps: int, optimizer: torch.optim.Optimizer
) -> DivergenceError:
    return DivergenceError(
        f"{what} in epoch {state.epoch + 1}, step {state.epoch_step} of {steps}; "
        f"{smaller_rates(optimizer)}",
        state.step,
    )


def _run_away(error: NonFiniteError) -> NonFiniteError:
    what = str(error).partition(";")[0]
    return NonFiniteError(
        f"{what}, with the very weights of the last checkpoint: they have run away before it, and "
        f"going back to it does not help; start a new run with a smaller --lr or --head-lr-mult",
        error.step,
    )


def _wrap_again(accelerator: Accelerator, wrapped: nn.Module) -> nn.Module:
    """Have the gradients of what was unfrozen averaged over all processes too.

    DistributedDataParallel looks after those parameters alone that train when it is made.
    """
    if accelerator.num_processes == 1:
        return wrapped
    # Without its mixed-precision wrapper, which prepare_model would put round the old one.
    bare = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    prepared: nn.Module = accelerator.prepare_model(bare)
    return prepared
