"""Suggestions for the trials of a search, and when to stop one early, by Optuna.

Both are functions of the seed and of the trials so far, so that an interrupted search goes on as it
would have without the interruption. The study is in memory, and is replayed from the record of the
search (`zoo.runs.search`).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoo.data.dataset import derive_seed
from zoo.recipe.search import Choices, Range, Value
from zoo.runs.search import Search, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: Of the trials that reach a rung, one in so many goes on; rungs are so many times apart.
REDUCTION = 3

#: Greatest difference that the loss makes; metrics on a million images differ by more.
_TIE = 1e-9

#: Maximum number of combinations of values up to which those that are left are known.
_MOST_COMBINATIONS = 10_000


def rungs(epochs: int) -> tuple[int, ...]:
    """Return after which epochs trials of so many epochs are compared: a ninth and a third."""
    first = math.ceil(epochs / REDUCTION**2)
    found = itertools.takewhile(
        lambda epoch: epoch < epochs, (first * REDUCTION**n for n in itertools.count())
    )
    return tuple(found)


class Study:
    """Suggests values for the next trial, and compares trials at each rung.

    Args:
        search: The search; its finished trials are replayed.
        epochs: Number of epochs of a trial.
    """

    def __init__(self, search: Search, epochs: int) -> None:
        import optuna

        self._search, self._epochs = search, epochs
        self._distributions = {name: _distribution(r) for name, r in search.ranges.items()}
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=rungs(epochs)[0] if rungs(epochs) else 1, reduction_factor=REDUCTION
        )
        with _quiet():
            self._study = optuna.create_study(direction="maximize", pruner=pruner)
        self._tried: set[tuple[Value, ...]] = set()
        for trial in search.trials:
            if trial.state != "running":
                self.begin(trial)
                self.end(trial)

    def suggest(self, number: int) -> dict[str, Value] | None:
        """Return the values of the next trial, which has this number; None if none are left.

        The trial has begun.
        """
        left = self._left()
        if left is not None and not left:
            return None
        seed = derive_seed(self._search.recipe.seed, "tune", number)
        if number == 0 and self._search.first:
            self._study.enqueue_trial(dict(self._search.first))
        values = self._ask(seed)
        if left is not None and tuple(values.values()) not in left:
            self._end("failed")
            again = random.Random(seed).choice(left)
            self._study.enqueue_trial(dict(zip(values, again, strict=True)))
            values = self._ask(seed)
        return values

    def begin(self, trial: Trial) -> bool:
        """Begin a trial whose values are known, and replay what it has reported.

        Returns:
            As `report`, of its last epoch.
        """
        self._study.enqueue_trial(dict(trial.params))
        self._ask(0)
        stop = False
        for epoch, (value, loss) in enumerate(zip(trial.values, trial.losses, strict=True), 1):
            stop = self.report(epoch, value, loss)
        return stop

    def report(self, epoch: int, value: float, loss: float) -> bool:
        """Report the metric and the val loss after an epoch of the current trial.

        Returns:
            Whether the trial is to be stopped, because it is worse than others at a rung.
        """
        self._trial.report(_ranked(value, loss), epoch)
        return epoch < self._epochs and self._trial.should_prune()

    def end(self, trial: Trial) -> None:
        """End the current trial."""
        value = trial.value
        self._end(trial.state, None if value is None else _ranked(value, trial.loss or 0.0))
        self._tried.add(tuple(trial.params[name] for name in self._search.ranges))

    def _end(self, state: str, value: float | None = None) -> None:
        from optuna.trial import TrialState

        if state == "complete":
            self._study.tell(self._trial, value)
        else:
            failed = state == "failed"
            self._study.tell(self._trial, state=TrialState.FAIL if failed else TrialState.PRUNED)

    def _ask(self, seed: int) -> dict[str, Value]:
        import optuna

        self._study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
        self._trial = self._study.ask(self._distributions)
        return {name: self._trial.params[name] for name in self._search.ranges}

    def _left(self) -> list[tuple[Value, ...]] | None:
        """Return the combinations that are not tried; None if they are too many to list."""
        values = [_values(each) for each in self._search.ranges.values()]
        if math.prod(math.inf if v is None else len(v) for v in values) > _MOST_COMBINATIONS:
            return None
        combinations = itertools.product(*(v for v in values if v is not None))
        return [each for each in combinations if each not in self._tried]


def _ranked(value: float, loss: float) -> float:
    """Return a number by which trials are ranked: by value, and by loss if it is the same.

    With few val images, many trials have the same accuracy.
    """
    return value - _TIE * loss / (1 + loss)


def _values(each: Range) -> tuple[Value, ...] | range | None:
    """Return all values of a range; None if it has no end of them."""
    if isinstance(each, Choices):
        return each.values
    if isinstance(each.low, int) and isinstance(each.high, int):
        return range(each.low, each.high + 1)
    return None


def _distribution(each: Range) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(each, Choices):
        return CategoricalDistribution(each.values)
    if isinstance(each.low, int) and isinstance(each.high, int):
        return IntDistribution(each.low, each.high, log=each.log)
    return FloatDistribution(each.low, each.high, log=each.log)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from printing that a study is created."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
