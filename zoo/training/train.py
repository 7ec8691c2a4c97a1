"""The training loop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from zoo.errors import DivergenceError, Stopped, TrainingError
from zoo.events import Note
from zoo.machine.memory import out_of_memory_as
from zoo.machine.processes import agree, is_disconnected
from zoo.models.freeze import train_mode
from zoo.models.head import scale_head
from zoo.tasks import Metrics, metric_label
from zoo.training.adapters import merged
from zoo.training.divergence import (
    diverged,
    diverged_loss,
    fell_to_chance,
    non_finite,
    recover,
    window_loss,
)
from zoo.training.ema import weights_of
from zoo.training.epoch import train_epoch
from zoo.training.epoch_average import is_averaged, with_epoch, with_statistics
from zoo.training.interpolation import best_interpolation
from zoo.training.setup import Control, Loop, Setup
from zoo.training.signals import deferring
from zoo.training.snapshot import Snapshot, is_finite
from zoo.training.state import Seen, TrainingState, close_epoch, out_of_patience, seen_so_far
from zoo.training.validation import validate

#: Steps between two checks of the loss, on devices where a check costs time.
_LOOKS_EVERY = 16


def train(
    setup: Setup, state: TrainingState, control: Control, resumed: Snapshot | None = None
) -> None:
    """Train for the recipe's epochs, or until patience or time runs out.

    If training diverges, it restarts with smaller learning rates, as `recipe.on_nan` specifies; if
    that does not help, it ends with the best model so far.

    Args:
        setup: The model, the data and everything else that does not change.
        state: Progress of training; updated in place.
        control: Receives `StepEnd` and `EpochEnd` events, and a `Note` when layers are unfrozen;
            saves snapshots.
        resumed: Snapshot to resume from; None: start from the model as it is.

    Raises:
        DivergenceError: Training diverged, and `on_nan` is "stop" or recovery failed (see
            `zoo.training.divergence.recover`).
        TrainingError: The device's memory is too small.
        PluginError: The model's output in train mode does not match the declared head.
        Stopped: A signal requested it.
    """
    loop = Loop.begin(setup, state, control, resumed)
    while state.epoch < setup.recipe.epochs and not out_of_patience(state, setup.recipe):
        start_epoch(loop)
        try:
            with interruptible(loop):
                with deferring(control.stop), out_of_memory(loop):
                    train_epoch(loop, _after_step)
                    loop.add_up()
                result = _validate(loop)
        except DivergenceError as error:
            if not recover(error, loop):
                return
        else:
            _end_epoch(loop, result)
            ends = state.epoch >= setup.recipe.epochs or out_of_patience(state, setup.recipe)
            if (ends or result.late) and setup.recipe.average_epochs and state.averaged < 2:
                _say_unaveraged(loop)
            if result.late and state.epoch < setup.recipe.epochs:
                epochs = setup.recipe.epochs
                loop.record(
                    f"no time is left for epoch {loop.epoch} of {epochs}: training ends here"
                )
                return


@dataclass(frozen=True)
class _Result:
    """Result of an epoch.

    Attributes:
        val: Metrics of the resulting weights.
        tuned: Deciding metric of the epoch's own weights; None without val images.
        share: Position of these weights between the initial (0) and the last ones (1).
        averaged: Number of last epochs whose average these weights are; 0: they are of this epoch.
        epochs: Number of last epochs in the average of their weights, with this one.
        average: That average; empty without one.
        late: Whether no further epoch can end in time.
    """

    val: Metrics
    tuned: float | None
    share: float
    averaged: int
    epochs: int
    average: Mapping[str, Tensor]
    late: bool


def start_epoch(loop: Loop) -> None:
    """Freeze or unfreeze what the epoch needs, and set the modes and totals for its steps."""
    setup, state = loop.setup, loop.state
    loop.last_checkpoint_step = state.step
    if state.probed and not state.step:
        scale_head(setup.model, setup.backbone, setup.recipe.probe_scale)
    if not state.step:
        loop.restart_average()
    setup.loaders.sampler.epoch = loop.epoch
    before, frozen = loop.frozen, setup.freezing.frozen(loop.epoch)
    if frozen != before:
        loop.freeze(frozen)
    if frozen < before:
        unfrozen = setup.depths.span(frozen, before - 1)
        loop.control.listen(Note(text=f"epoch {loop.epoch}: {unfrozen} trains from now on"))
    train_mode(
        setup.model,
        setup.backbone,
        setup.depths,
        frozen=frozen,
        batch_norm=setup.recipe.batch_norm,
    )
    loop.totals = seen_so_far(state, setup.accelerator)
    loop.started, loop.before = time.perf_counter(), state.seconds


def _after_step(loop: Loop) -> bool:
    """Check the loss, whether a checkpoint is due, and whether to stop.

    Reading a value from a GPU waits for the device, and so does agreement between processes, so on
    a GPU this is not done after every step.

    Returns:
        Whether it was done after this step.
    """
    state, accelerator, stop = loop.state, loop.setup.accelerator, loop.control.stop
    due = loop.clock.by_steps(state.step)
    ends = state.epoch_step == loop.steps
    # The first loss after a checkpoint shows whether its weights had already diverged.
    after_checkpoint = state.step == loop.last_checkpoint_step + 1
    looks = due or ends or after_checkpoint or not state.epoch_step % _LOOKS_EVERY
    if not looks and accelerator.device.type != "cpu":
        return False
    seen = Seen(*loop.totals.tolist())
    loss = window_loss(state, seen)
    broken, worse, stopping, late = agree(
        accelerator,
        not loop.totals.isfinite().all(),
        diverged_loss(loss, state, loop.setup.baseline),
        stop.signum is not None,
        loop.clock.by_time(),
    )
    if broken:
        raise non_finite(f"the loss is {seen.loss_sum}", loop, step=state.step - 1)
    if worse:
        raise diverged(
            f"the train loss is {loss:.3g}, up from {state.start_loss:.3g}"
            if loss is not None
            else "the train loss of another process has diverged",
            loop,
        )
    keeps = due or late or stopping
    if keeps and not is_finite(loop.setup.model):
        raise non_finite("weights are not finite", loop)
    if keeps:
        loop.keep()
    if stopping:
        raise Stopped(stop.signum or signal.SIGTERM)
    return True


def _validate(loop: Loop) -> _Result:
    """Measure the weights after an epoch; after the last one, interpolated and averaged ones too.

    Raises:
        DivergenceError: The loss or the weights are not finite, or the metric is at chance.
    """
    with weights_of(loop.setup.model, loop.average), merged(loop.setup.adapters):
        return _measure(loop)


def _measure(loop: Loop) -> _Result:
    setup, state, recipe = loop.setup, loop.state, loop.setup.recipe
    measure = partial(
        validate,
        setup.model,
        setup.loaders,
        loop.validated,
        setup.task,
        setup.accelerator,
        loop.control.listen,
    )
    val, share = measure(), 1.0
    if val.images and not math.isfinite(val.loss):
        raise non_finite(f"the val loss is {val.loss}", loop)
    if not is_finite(setup.model):
        raise non_finite("weights are not finite", loop)
    main = setup.task.main
    if val.images and fell_to_chance(val.values[main], state, setup.baseline):
        raise diverged(f"val {main} fell to {val.values[main]:.2%}, that of guessing", loop)
    (late,) = agree(
        setup.accelerator,
        setup.deadline is not None and time.perf_counter() + loop.seconds() > setup.deadline,
    )
    tuned = val.value(recipe.metric) if val.images else None
    ends = loop.epoch == recipe.epochs or late or out_of_patience(state, recipe, val)
    if ends and recipe.interpolate and state.probed:
        val, share = best_interpolation(setup.model, setup.origin, val, measure, recipe.metric)
    epochs, average = _epoch_average(loop)
    averaged = 0
    if ends and epochs > 1:
        average = with_statistics(loop, average)
        with weights_of(setup.model, average):
            found = measure()
        if _is_better(found, val, recipe.metric):
            val, share, averaged = found, 1.0, epochs
        _say_average(loop, found, epochs, chosen=bool(averaged))
    return _Result(val, tuned, share, averaged, epochs, average, late)


def _epoch_average(loop: Loop) -> tuple[int, Mapping[str, Tensor]]:
    """Return the average of the last epochs with the current one, and the number of these."""
    if not is_averaged(loop.epoch, loop.setup.recipe):
        return 0, {}
    epochs = loop.state.averaged + 1
    return epochs, with_epoch(loop.epoch_average, loop.setup.model, epochs)


def _is_better(one: Metrics, other: Metrics, metric: str) -> bool:
    """Return whether one has the better metric, or a lower loss if equal; True if unmeasured."""
    if not one.images:
        return True
    return (one.value(metric), -one.loss) > (other.value(metric), -other.loss)


def _say_average(loop: Loop, found: Metrics, epochs: int, *, chosen: bool) -> None:
    main = loop.setup.task.main
    measured = f": val {metric_label(main)} {found.values[main]:.2%}" if found.images else ""
    text = (
        f"average of the weights after epochs {loop.epoch - epochs + 1} to {loop.epoch}{measured}; "
        f"{'better than' if chosen else 'no better than'} those of epoch {loop.epoch}"
    )
    loop.control.listen(Note(text=text if found.images else text.partition(";")[0]))


def _say_unaveraged(loop: Loop) -> None:
    recipe, ended = loop.setup.recipe, loop.state.epoch
    first = max(1, recipe.epochs - recipe.average_epochs + 1)
    text = (
        f"average_epochs = {recipe.average_epochs} had no effect: training ended with epoch "
        f"{ended}, and averages begin with the weights of two epochs, from {first} on"
    )
    loop.control.listen(Note(text=text))


def _end_epoch(loop: Loop, result: _Result) -> None:
    """Close the epoch, save a snapshot and send the event."""
    loop.state.averaged, loop.epoch_average = result.epochs, result.average
    end = close_epoch(
        loop.state,
        result.val,
        loop.setup.recipe,
        loop.optimizer,
        tuned=result.tuned,
        interpolation=result.share,
        averaged=result.averaged,
        seconds=loop.seconds(),
    )
    with deferring(loop.control.stop):
        loop.control.save(loop.snapshot(), end)
        loop.clock.last = time.monotonic()
        loop.control.listen(end)


@contextmanager
def interruptible(loop: Loop) -> Iterator[None]:
    """Save a checkpoint if a signal ends training, and translate errors of torch."""
    stop = loop.control.stop
    try:
        yield
    except RuntimeError as error:
        if "deterministic" in str(error):
            raise TrainingError(
                str(error).splitlines()[0], hint="leave out `deterministic`"
            ) from error
        if "Expected to have finished reduction" in str(error):
            raise TrainingError(
                "the network used other parameters in this step than before training: processes "
                "can't average the gradients of a part that some steps leave out",
                hint="train in one process, or `freeze` that part",
            ) from error
        if is_disconnected(error):
            raise TrainingError(
                "the connection to another process of the run was lost",
                hint="see what that process said; `resume=auto` goes on from the last checkpoint",
            ) from error
        # Workers of a data loader outlive a signal by some seconds only. The error can come between
        # any two instructions, so that only the last checkpoint is whole.
        if stop.signum is None or "DataLoader worker" not in str(error):
            raise
        raise Stopped(stop.signum) from error
    except Stopped:
        # All steps of the epoch are done; only validation is left.
        if loop.state.epoch_step == loop.steps:
            loop.control.save(loop.snapshot(), None)
        raise


def out_of_memory(loop: Loop) -> AbstractContextManager[None]:
    """Return a context that raises a `TrainingError` if the device's memory is too small."""
    return out_of_memory_as(
        f"{loop.setup.accelerator.device} has too little memory for a training step",
        hint="try a smaller `batch_size`, `image_size` or backbone",
    )
