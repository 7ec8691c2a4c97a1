"""Divergence: training that destroys its initial weights, detected by train loss or val metric."""

from __future__ import annotations

from zoo.errors import DivergenceError, NonFiniteError
from zoo.models.optim import describe_rates
from zoo.tasks import Baseline
from zoo.training.ema import restore_average
from zoo.training.setup import Loop
from zoo.training.snapshot import Snapshot, forget, load_state, restore
from zoo.training.state import LossCheck, Seen, TrainingState, begin_epoch

#: Number of steps over which the loss is averaged.
WINDOW = 8

#: Maximum number of restarts of fine-tuning, and the factor of the learning rates at each.
_MOST_RESTARTS, _SMALLER = 3, 0.3

#: Maximum number of times that training returns to a checkpoint.
_MOST_REWINDS = 10

#: Training has diverged if the mean loss of a window exceeds this multiple of the baseline's loss
#: or of the first step's, whichever is larger.
_TIMES_WORSE = 3.0

_SMALLER_RATES = "try a smaller `lr` or `head_lr_mult`"


def window_loss(state: TrainingState, seen: Seen) -> float | None:
    """Return the mean train loss of the window if it is complete, and start the next; else None.

    Args:
        state: Its `looked` is where the window starts; updated in place.
        seen: Totals of the epoch so far.
    """
    if state.start_loss is None:
        state.start_loss = seen.loss
    last = state.looked
    if state.epoch_step - last.step < WINDOW:
        return None
    state.looked = LossCheck(state.epoch_step, seen.loss_sum, seen.images)
    return (seen.loss_sum - last.loss_sum) / (seen.images - last.images)


def diverged_loss(loss: float | None, state: TrainingState, baseline: Baseline) -> bool:
    """Return whether a window's mean loss is far above the initial and the baseline's loss."""
    if loss is None:
        return False
    return loss > _TIMES_WORSE * max(baseline.loss, state.start_loss or 0.0)


def fell_to_chance(score: float, state: TrainingState, baseline: Baseline) -> bool:
    """Return whether the main val metric has fallen to the baseline, and not only temporarily.

    The best so far must have been more than three standard errors above it (within one is chance),
    and the previous epoch was at chance too or the train loss is above that of the baseline.

    Args:
        score: Main metric of the epoch that ends.
        state: Its `at_chance` is updated.
        baseline: Performance of a model that ignores the images.
    """
    chance, error = baseline.value, baseline.error
    if score > chance + error or state.best_score <= chance + 3 * error:
        state.at_chance = 0
        return False
    state.at_chance += 1
    return state.at_chance > 1 or state.seen.loss > baseline.loss


def diverged(what: str, loop: Loop) -> DivergenceError:
    """Create the error for diverged training, with its epoch and step."""
    return DivergenceError(_where(what, loop), loop.state.step, hint=_SMALLER_RATES)


def non_finite(what: str, loop: Loop, *, step: int | None = None) -> NonFiniteError:
    """Create the error for a non-finite value; `step` defaults to the current one."""
    step = loop.state.step if step is None else step
    return NonFiniteError(_where(what, loop), step, hint=f"{_SMALLER_RATES}, or `on_nan=rewind`")


def recover(error: DivergenceError, loop: Loop) -> bool:
    """Restart fine-tuning, or return to the last checkpoint, with smaller learning rates.

    Returns:
        Whether training continues; if not, the best model so far is the result.

    Raises:
        DivergenceError: `on_nan` is "stop", the limit of restarts is reached without a best model,
            the limit of rewinds is reached, or the checkpoint's own weights cause the error.
    """
    recipe, state = loop.setup.recipe, loop.state
    if recipe.on_nan == "stop":
        raise error
    what = error.text.partition(";")[0]
    if recipe.on_nan == "restart" or not isinstance(error, NonFiniteError):
        if state.best_epoch or state.restarts >= _MOST_RESTARTS:
            if state.best_epoch is None:
                raise error
            loop.record(f"{what}: fine-tuning ends here, the best so far is kept")
            return False
        _restart(what, loop)
        loop.control.save(loop.snapshot(), None)
        return True
    if state.rewinds >= _MOST_REWINDS:
        raise error
    kept = loop.control.last()
    if error.step <= kept.state.step:
        # Smaller learning rates don't change the loss of those weights.
        raise NonFiniteError(
            f"{what}, also with the weights of the last checkpoint: training diverged before it, "
            f"and going back to it does not help",
            error.step,
            hint="start a new run with a smaller `lr` or `head_lr_mult`",
        ) from error
    _rewind(kept, what, loop)
    return True


def _where(what: str, loop: Loop) -> str:
    return f"{what} in {loop.where}; {describe_rates(loop.optimizer)}"


def _restart(why: str, loop: Loop) -> None:
    """Restart fine-tuning from its initial weights, with smaller learning rates."""
    state = loop.state
    load_state(loop.setup.model, loop.setup.origin)
    forget(loop.optimizer)
    scaler = getattr(loop.setup.accelerator, "scaler", None)
    if scaler is not None:
        scaler.load_state_dict({**scaler.state_dict(), "scale": scaler._init_scale})
    state.lr_scale *= _SMALLER
    state.restarts += 1
    state.epoch = state.step = state.stale_epochs = state.at_chance = state.averaged = 0
    state.best_tuned = None
    loop.epoch_average = {}
    begin_epoch(state)
    loop.record(f"{why}: fine-tuning restarts with learning rates multiplied by {state.lr_scale:g}")


def _rewind(snapshot: Snapshot, why: str, loop: Loop) -> None:
    """Restore a snapshot, and halve the learning rates from there on."""
    state = loop.state
    scale, rewinds, micro_batch = state.lr_scale / 2, state.rewinds + 1, state.micro_batch
    restore(snapshot, loop.setup.model, state, loop.optimizer, loop.setup.accelerator)
    if loop.average is not None:
        restore_average(loop.average, snapshot.average)
    loop.epoch_average = snapshot.epoch_average
    state.lr_scale, state.rewinds, state.micro_batch = scale, rewinds, micro_batch
    place = f"epoch {loop.epoch}, step {state.epoch_step}"
    loop.record(
        f"{why}: back to the checkpoint of {place}, learning rates times {scale:g} from there"
    )
