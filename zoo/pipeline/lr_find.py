"""Finding a learning rate: a range test of what a recipe would train."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.errors import RecipeError
from zoo.events import Listener, Note, ignore
from zoo.machine.processes import together
from zoo.pipeline.compatibility import keys_of
from zoo.pipeline.finetune import warn
from zoo.pipeline.phases import run_stages
from zoo.planning import Prepared, prepare
from zoo.recipe import Recipe, change, make_recipe
from zoo.runs.write import write_file
from zoo.training.lr_range import considered, range_test, smoothed, steepest, valley
from zoo.training.setup import Control, Setup
from zoo.training.signals import StopRequest
from zoo.training.snapshot import Snapshot, take
from zoo.training.state import TrainingState

#: Limits of the number of steps: with fewer, there is nothing to suggest.
FEWEST_STEPS, MOST_STEPS = 20, 10_000


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """The result of a learning-rate range test.

    Learning rates are values of the recipe's `lr`, the rate of the backbone's deepest depth.

    Attributes:
        backbone: Full name of the backbone.
        images: Number of train images.
        recipe_lr: `lr` of the recipe.
        head_lr_mult: Learning rate of the head as a multiple of these rates.
        lr: Learning rate of each step that was taken, increasing.
        losses: Mean train loss of each step.
        smoothed: Exponential moving averages of the losses.
        diverged: Whether the test ended before its last step, because the loss diverged.
        valley: Suggestion halfway down the longest valley of the smoothed loss; None if there is
            none, or too few steps were taken.
        steep: Suggestion where the smoothed loss falls fastest; None as for `valley`.
    """

    backbone: str
    images: int
    recipe_lr: float
    head_lr_mult: float
    lr: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    diverged: bool
    valley: float | None
    steep: float | None

    def rows(self) -> Iterator[dict[str, float]]:
        """Yield the step (from 1), learning rates and losses of each step."""
        for n, (lr, loss, smooth) in enumerate(
            zip(self.lr, self.losses, self.smoothed, strict=True), start=1
        ):
            yield {
                "step": n,
                "lr": lr,
                "lr_head": lr * self.head_lr_mult,
                "loss": loss,
                "smoothed": smooth,
            }


def lr_find(
    data: str | Path | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    min_lr: float = 1e-7,
    max_lr: float = 1.0,
    steps: int = 100,
    listen: Listener | None = None,
    **fields: Any,
) -> RangeTest:
    """Find learning rates for a recipe by a range test (Smith, 2017).

        zoo.lr_find("photos", backbone="resnet18").valley

    Fine-tuning starts as `finetune` would start it, after a probe if there is one. At each step the
    learning rates of all parameter groups are multiplied by the same factor, so that `lr` goes from
    `min_lr` to `max_lr`. The test ends early if the loss diverges. Only train images are used, and
    no weights are kept.

    Args:
        data: As in `finetune`.
        recipe: As in `finetune`. Its schedule, warm-up, `epochs`, `time` and early stopping have no
            effect.
        min_lr: `lr` of the first step, above 0.
        max_lr: `lr` of the last step.
        steps: Number of steps, 20 to 10,000.
        listen: Called with `Progress`, `StepEnd` and `Note` events. By default, warnings are passed
            to `warnings.warn`.
        **fields: Fields of `zoo.Recipe`.

    Raises:
        RecipeError: The range is empty, or the recipe has no learning rate to find.
        ZooError: As in `finetune`.
    """
    listen = listen or warn
    if not 0 < min_lr < max_lr < math.inf:
        raise RecipeError(f"learning rates from {min_lr:g} to {max_lr:g} are not a range above 0")
    if not FEWEST_STEPS <= steps <= MOST_STEPS:
        raise RecipeError(f"{steps} steps: give {FEWEST_STEPS} to {MOST_STEPS}")
    if data is not None:
        fields["data"] = data
    made = change(make_recipe(recipe, **fields), time=None, steps=None, samples=None)
    made = change(made, fold=1) if made.needs_folds else made
    prepared = prepare(made, given=fields, listen=listen)
    if prepared.plan.recipe.train == "probe":
        raise RecipeError(
            "a probe is fitted without a learning rate",
            hint="set `train=probe+finetune` or `train=finetune`",
        )
    listen = listen if prepared.accelerator.is_main_process else ignore
    rates = [min_lr * (max_lr / min_lr) ** (n / (steps - 1)) for n in range(steps)]
    return _result(prepared, rates, _losses(prepared, rates, listen), listen)


def _losses(prepared: Prepared, rates: list[float], listen: Listener) -> list[float]:
    """Return the loss of each step of the test."""
    # Without val images, the probe is not measured either. Activations would be cached for all
    # epochs of the recipe.
    splits = replace(prepared.splits, val=(), test=())
    prepared = replace(prepared, splits=splits, activations=None)
    state, losses = TrainingState(), list[float]()

    def fit(setup: Setup, state: TrainingState, control: Control, resumed: Snapshot | None) -> None:
        losses.extend(range_test(setup, state, control, rates))

    run_stages(
        prepared,
        together(lambda: keys_of(splits)),
        state,
        Control(
            save=lambda snapshot, end: None,
            last=lambda: take(prepared.model, state),
            stop=StopRequest(),
            listen=listen,
        ),
        origin={},
        resumed=None,
        fit=fit,
    )
    return losses


def _result(
    prepared: Prepared, rates: list[float], losses: list[float], listen: Listener
) -> RangeTest:
    recipe, smooth = prepared.plan.recipe, smoothed(losses)
    kept = considered(losses, len(rates))
    some_rates, some_losses = rates[kept.start : kept.stop], smooth[kept.start : kept.stop]
    positions = valley(some_losses), steepest(some_rates, some_losses)
    found = [None if each is None else some_rates[each] for each in positions]
    if found[0] is None:
        text = "no suggestion: the loss does not fall"
        if not kept:
            text = f"no suggestion: the loss diverged after {len(losses)} of {len(rates)} steps"
        listen(Note(text=text, warning=True))
    return RangeTest(
        backbone=recipe.backbone,
        images=len(prepared.splits.train),
        recipe_lr=recipe.lr,
        head_lr_mult=recipe.head_lr_mult,
        lr=tuple(rates[: len(losses)]),
        losses=tuple(losses),
        smoothed=tuple(smooth),
        diverged=len(losses) < len(rates),
        valley=found[0],
        steep=found[1],
    )


def write_steps(test: RangeTest, file: Path) -> None:
    """Write the steps of a range test as CSV.

    Raises:
        RunError: The file can't be written.
    """
    rows = list(test.rows())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(file, text.getvalue().encode())
