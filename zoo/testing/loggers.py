"""Checks of a logger, with the events of a short run."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from PIL import Image

from zoo.events import (
    EpochEnd,
    Listener,
    Measured,
    Mistake,
    Mistakes,
    Note,
    Progress,
    RunEnd,
    RunStart,
    StepEnd,
)
from zoo.plugins import explain, off_stdout
from zoo.testing.subject import CheckFailed, CheckSkipped, Kind

#: Steps of an epoch.
STEPS = 2

SINGLE_LABEL = {"train_loss": 1.1, "val_loss": 1.0, "val_accuracy": 0.5, "val_f1": 0.4}
MULTI_LABEL = {"train_loss": 0.7, "val_loss": 0.6, "val_map": 0.5}


@dataclass(frozen=True)
class OtherEvent:
    """An event that no logger knows: the plan is one, and later versions of zoo may add others."""


@dataclass
class Outcome:
    """What a logger did with the events of a run."""

    error: str | None = None
    printed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


@dataclass
class LoggerSubject:
    """A logger under test."""

    kind: ClassVar[Kind] = "logger"
    shapes_only: ClassVar[bool] = False

    name: str
    make: Callable[[], Listener]
    folder: Path

    @cached_property
    def interrupted(self) -> Outcome:
        """A run that is interrupted after its first epoch."""
        (self.folder / "run").mkdir(exist_ok=True)
        events = _events(self.folder / "run", SINGLE_LABEL, epochs=(0, 1), error="interrupted")
        return self.outcome_of(events)

    @cached_property
    def resumed(self) -> Outcome:
        """The same run, resumed by another process, to its end."""
        _ = self.interrupted
        return self.outcome_of(_events(self.folder / "run", SINGLE_LABEL, epochs=(2, 3)))

    @cached_property
    def other(self) -> Outcome:
        """A run of another task, with an event of another kind after each."""
        (self.folder / "other").mkdir(exist_ok=True)
        events = _events(self.folder / "other", MULTI_LABEL, epochs=(0, 1))
        return self.outcome_of(each for event in events for each in (event, OtherEvent()))

    def outcome_of(self, events: Iterable[object]) -> Outcome:
        """Make a logger and pass it the events, until it raises."""
        outcome = Outcome()
        with off_stdout(outcome.printed):
            try:
                logger = self.make()
            except ModuleNotFoundError as error:
                raise CheckSkipped(f"it needs {error.name}, which is not installed") from error
            for event in events:
                before = copy.deepcopy(event)
                try:
                    logger(event)
                except Exception as error:  # noqa: BLE001 - whatever it raises is the finding
                    outcome.error = f"{type(event).__name__}: {explain(error)}"
                    break
                if event != before:
                    outcome.changed.append(type(event).__name__)
        return outcome


def check_logger_is_made(subject: LoggerSubject) -> None:
    """What is declared, called without arguments, gives a function that takes an event."""
    if subject.outcome_of(()).error is not None or not callable(subject.make()):
        raise CheckFailed("it gives no function: return an object with __call__(self, event)")


def check_events_are_taken(subject: LoggerSubject) -> None:
    """It takes every event of a run that is interrupted, from the notes before `RunStart` on."""
    if subject.interrupted.error:
        raise CheckFailed(
            f"it raises at {subject.interrupted.error}; zoo would go on without it. Losses may be "
            f"None, and epoch 0 has no steps"
        )


def check_a_resumed_run_is_taken(subject: LoggerSubject) -> None:
    """A new logger takes the events of the same run, resumed."""
    if subject.resumed.error:
        raise CheckFailed(
            f"when the run is resumed it raises at {subject.resumed.error}: let it add to what an "
            f"earlier process has written"
        )


def check_other_events_are_ignored(subject: LoggerSubject) -> None:
    """It takes other metrics, which depend on the task, and ignores events it does not know."""
    if subject.other.error:
        raise CheckFailed(
            f"it raises at {subject.other.error}: log whatever `metrics` holds, and ignore events "
            f"of other kinds"
        )


def check_nothing_is_printed(subject: LoggerSubject) -> None:
    """It prints nothing to stdout, which is for the output of zoo."""
    printed = [*subject.interrupted.printed, *subject.resumed.printed]
    if printed:
        raise CheckFailed(f"it prints {printed[0]!r}: print to stderr, or into a file")


def check_events_are_not_changed(subject: LoggerSubject) -> None:
    """It changes no event, not even a mapping inside one: other listeners receive the same."""
    changed = [*subject.interrupted.changed, *subject.resumed.changed]
    if changed:
        raise CheckFailed(f"it changes a {changed[0]}: copy what it changes, as by dict(...)")


def _events(
    folder: Path, metrics: Mapping[str, float], *, epochs: Iterable[int], error: str | None = None
) -> Iterator[object]:
    """Yield the events of a run, or of its continuation after epoch 1; epoch 0 is the probe."""
    first, *_ = epochs = tuple(epochs)
    yield OtherEvent()
    yield Progress(what="images", done=24, total=24)
    yield Note(text="the rate of the head is 10 times that of the backbone")
    yield RunStart(
        folder=folder,
        recipe={"data": None, "lr": 0.001, "epochs": 3, "unfreeze_epoch": [1, 2], "hflip": True},
        step=STEPS * max(first - 1, 0),
        resumed=first > 0,
    )
    for epoch in epochs:
        for step in range(1, STEPS + 1) if epoch else ():
            yield StepEnd(
                epoch=epoch,
                epochs=3,
                step=step,
                steps=STEPS,
                total_steps=3 * STEPS,
                images=8,
                loss=1.0 / epoch if step == 1 else None,
                lr_backbone=0.001,
                lr_head=0.01,
            )
        yield EpochEnd(
            epoch=epoch,
            metrics=dict(metrics),
            interpolation=1.0,
            lr_backbone=0.001,
            lr_head=0.01,
            seconds=1.5,
            images_per_second=16.0,
            data_seconds=0.1,
            best=epoch == epochs[-1],
        )
        yield Progress(what="features", done=8, total=24)
    if error is None:
        for split in ("val", "test"):
            yield Measured(
                split=split,
                images=8,
                metrics={name: (value, value / 2, value) for name, value in metrics.items()},
                main=next(iter(metrics)),
                baseline=0.5,
                doubt=f"{split} accuracy 50.00% is no better than the largest class (50.00%)",
            )
        yield Mistakes(
            split="test",
            class_names=("blue", "red"),
            confusion=((3, 1), (3, 1)) if "val_accuracy" in metrics else (),
            total=4,
            shown=(
                Mistake(
                    name="red/1.png", label="red", predicted="blue", probability=0.9, image=_png()
                ),
                Mistake(
                    name="red/2.png", label="red", predicted="blue", probability=0.8, image=b""
                ),
            ),
        )
    yield Note(text="classes that were predicted for no val image: red", warning=True)
    yield RunEnd(folder=folder, error=error)


def _png() -> bytes:
    """Return a small image."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "PNG")
    return content.getvalue()
