"""The learning-rate range test (Smith, 2017): training steps at ever larger learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from zoo.events import Progress
from zoo.models.freeze import Freezing
from zoo.training.epoch import train_epoch
from zoo.training.setup import Control, Loop, Setup
from zoo.training.state import TrainingState, begin_epoch
from zoo.training.train import interruptible, out_of_memory, start_epoch

#: Weight of the past in the smoothed loss, as in fastai and Lightning.
_SMOOTHING = 0.98

#: The loss has diverged if the smoothed one is so many times its minimum, as in both.
_TIMES_WORSE = 4.0

#: Part of the steps at the start, and number of steps at the end, that suggestions leave out, as in
#: fastai. So many steps must be left.
_FIRST, _LAST, _FEWEST = 0.1, 5, 10


class _Ended(Exception):
    """All steps are taken, or the loss has diverged."""


def range_test(
    setup: Setup, state: TrainingState, control: Control, rates: Sequence[float]
) -> list[float]:
    """Take a training step at each learning rate, until the loss diverges.

    These are the steps of the first epochs, with their images, views and random numbers, but for
    the learning rates. What is frozen in the first epoch is frozen throughout. The weights change.

    Args:
        setup: As for training. Its recipe's `lr` is what `rates` replace; the rates of all groups
            keep their ratios.
        state: A new state, or that of a probe; updated in place.
        control: Its listener receives `StepEnd` and `Progress`.
        rates: Learning rates, increasing.

    Returns:
        The mean loss of each step, over all processes: fewer values than `rates` if the loss
        diverged. All are finite.

    Raises:
        ZooError: As in `train`, but for divergence.
    """
    freezing = Freezing(steps=((1, setup.freezing.frozen(1)),))
    loop = Loop.begin(replace(setup, freezing=freezing), state, control, None)
    loop.schedule = lambda step: rates[step] / setup.recipe.lr
    losses: list[float] = []

    def after_step(loop: Loop) -> bool:
        before = loop.state.seen
        loop.add_up()
        seen = loop.state.seen
        loss = (seen.loss_sum - before.loss_sum) / (seen.images - before.images)
        if not math.isfinite(loss):
            raise _Ended
        losses.append(loss)
        control.listen(Progress(what="steps", done=len(losses), total=len(rates)))
        if len(losses) == len(rates) or diverged(losses, len(rates)):
            raise _Ended
        return True

    while True:
        start_epoch(loop)
        try:
            with interruptible(loop), out_of_memory(loop):
                train_epoch(loop, after_step)
        except _Ended:
            return losses
        state.epoch += 1
        begin_epoch(state)


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of losses, without the bias of its start."""
    found, average = [], 0.0
    for step, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        found.append(average / (1 - _SMOOTHING**step))
    return found


def diverged(losses: Sequence[float], steps: int) -> bool:
    """Return whether the smoothed loss is far above its minimum, after the first tenth of a test.

    Args:
        losses: Losses of the steps so far.
        steps: Number of steps of the whole test.
    """
    smooth = smoothed(losses)
    return len(smooth) > _FIRST * steps and smooth[-1] > _TIMES_WORSE * min(smooth)


def considered(losses: Sequence[float], steps: int) -> range:
    """Return the positions of losses that suggestions consider; none if these are too few.

    Args:
        losses: Losses of all steps that were taken.
        steps: Number of steps of the whole test.
    """
    kept = range(int(_FIRST * steps), len(losses) - _LAST)
    return kept if len(kept) >= _FEWEST else range(0)


def valley(losses: Sequence[float]) -> int | None:
    """Return the position halfway down the longest valley of smoothed losses, as fastai does.

    The valley is the longest decreasing subsequence. Its positions, from the number of its losses
    before its end, are divided into three parts; the middle of the second one is halfway.

    Returns:
        The position; None if no loss is below an earlier one.
    """
    lengths: list[int] = []
    for n, loss in enumerate(losses):
        before = (lengths[m] for m in range(n) if losses[m] > loss)
        lengths.append(1 + max(before, default=0))
    longest = max(lengths, default=1)
    if longest == 1:
        return None
    start = lengths.index(longest) - longest
    third = longest / 3
    return max(0, start + int(third) + int(third / 2))


def steepest(rates: Sequence[float], losses: Sequence[float]) -> int | None:
    """Return the position at which the loss falls fastest, over the logarithm of the rate.

    Returns:
        The position before the fall; None if the loss never falls.
    """
    falls = [
        (later - loss) / math.log(rate_after / rate)
        for loss, later, rate, rate_after in zip(losses, losses[1:], rates, rates[1:], strict=False)
    ]
    if not falls or min(falls) >= 0:
        return None
    return falls.index(min(falls))
