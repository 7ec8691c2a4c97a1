"""Divergence: training that destroys what it started from, seen by train loss or val accuracy."""

from __future__ import annotations

from zoo.errors import DivergenceError, NonFiniteError
from zoo.models.optim import describe_rates
from zoo.tasks import Baseline
from zoo.training.setup import Loop
from zoo.training.snapshot import Snapshot, load_state, restore
from zoo.training.state import Look, Seen, TrainingState, begin_epoch

#: Steps whose mean loss is looked at together.
WINDOW = 8

#: How often fine-tuning begins again before it is given up, and what that does to its rates.
_MOST_RESTARTS, _SMALLER = 3, 0.3

#: How often training goes back to a checkpoint before it gives up.
_MOST_REWINDS = 10

#: The mean loss of a window at which training has diverged, divided by that of guessing or by that
#: of the first step, whichever is larger.
_TIMES_WORSE = 3.0

_SMALLER_RATES = "try a smaller `lr` or `head_lr_mult`"


def window_loss(state: TrainingState, seen: Seen) -> float | None:
    """The mean train loss since the last look, if that was a window ago; then this is the last.

    Args:
        state: Says when the last look was.
        seen: Of the epoch so far.
    """
    if state.start_loss is None:
        state.start_loss = seen.loss
    last = state.looked
    if state.epoch_step - last.step < WINDOW:
        return None
    state.looked = Look(state.epoch_step, seen.loss_sum, seen.images)
    return (seen.loss_sum - last.loss_sum) / (seen.images - last.images)


def diverged_loss(loss: float | None, state: TrainingState, baseline: Baseline) -> bool:
    """Whether the mean loss of a window is far above where training began, and above guessing."""
    if loss is None:
        return False
    return loss > _TIMES_WORSE * max(baseline.loss, state.start_loss or 0.0)


def fell_to_chance(score: float, state: TrainingState, baseline: Baseline) -> bool:
    """Whether the main val metric has fallen to that of the baseline, and not for a moment only.

    It has where the best so far was far above it (three standard errors; near is one), and the
    epoch before was at chance too or the train loss is that of guessing.

    Args:
        score: The main metric of the epoch that ends.
        state: Its `at_chance` is counted on.
        baseline: What ignoring the images reaches.
    """
    chance, error = baseline.value, baseline.error
    if score > chance + error or state.best_score <= chance + 3 * error:
        state.at_chance = 0
        return False
    state.at_chance += 1
    return state.at_chance > 1 or state.seen.loss > baseline.loss


def diverged(what: str, loop: Loop) -> DivergenceError:
    """The error that says so, and where."""
    return DivergenceError(_where(what, loop), loop.state.step, hint=_SMALLER_RATES)


def non_finite(what: str, loop: Loop, *, step: int | None = None) -> NonFiniteError:
    """The error that says so, and where; of this step, or of the one given."""
    step = loop.state.step if step is None else step
    return NonFiniteError(_where(what, loop), step, hint=f"{_SMALLER_RATES}, or `on_nan=rewind`")


def recover(error: DivergenceError, loop: Loop) -> bool:
    """Begin again, or go back to the last checkpoint, with smaller learning rates.

    Returns:
        Whether training goes on; else the best so far is what remains.

    Raises:
        DivergenceError: The recipe says to stop then, nothing better can be hoped for and nothing
            was kept, or the checkpoint's own weights give such a loss.
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
        # No smaller rate changes what those weights give.
        raise NonFiniteError(
            f"{what}, with the very weights of the last checkpoint: they have run away before it, "
            f"and going back to it does not help",
            error.step,
            hint="start a new run with a smaller `lr` or `head_lr_mult`",
        ) from error
    _rewind(kept, what, loop)
    return True


def _where(what: str, loop: Loop) -> str:
    return f"{what} in {loop.where}; {describe_rates(loop.optimizer)}"


def _restart(why: str, loop: Loop) -> None:
    """Begin fine-tuning again, from the weights it began with and with smaller learning rates."""
    state = loop.state
    load_state(loop.setup.model, loop.setup.origin)
    loop.optimizer.state.clear()
    scaler = getattr(loop.setup.accelerator, "scaler", None)
    if scaler is not None:
        scaler.load_state_dict({**scaler.state_dict(), "scale": scaler._init_scale})
    state.lr_scale *= _SMALLER
    state.restarts += 1
    state.epoch = state.step = state.stale_epochs = state.at_chance = 0
    begin_epoch(state)
    loop.record(f"{why}: fine-tuning begins again with learning rates times {state.lr_scale:g}")


def _rewind(snapshot: Snapshot, why: str, loop: Loop) -> None:
    """Go back to a snapshot, with half the learning rates from there on."""
    state = loop.state
    scale, rewinds, micro_batch = state.lr_scale / 2, state.rewinds + 1, state.micro_batch
    restore(snapshot, loop.setup.model, state, loop.optimizer, loop.setup.accelerator)
    if loop.average is not None:
        for name, tensor in snapshot.average.items():
            loop.average[name].copy_(tensor)
    state.lr_scale, state.rewinds, state.micro_batch = scale, rewinds, micro_batch
    place = f"epoch {loop.epoch}, step {state.epoch_step}"
    loop.record(
        f"{why}: back to the checkpoint of {place}, learning rates times {scale:g} from there"
    )
