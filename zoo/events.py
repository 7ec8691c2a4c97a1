"""Events of a run, passed to `zoo.finetune(..., listen=...)` in the order in which they happen.

A listener is a function of one event. What it raises ends the run as an error; KeyboardInterrupt
ends it as Ctrl-C does, with a checkpoint of the last epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Note:
    """A decision or a finding.

    Attributes:
        text: It, in words.
        warning: It must not be missed.
        detail: It is of interest to those who look closely; `zoo finetune -v` prints it.
    """

    text: str
    warning: bool = False
    detail: bool = False


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """Training begins, or goes on; the plan came before.

    Attributes:
        folder: The run folder.
        recipe: All settings, as resolved; JSON-ready.
        step: Training steps that are done already.
        resumed: Whether an interrupted run goes on.
    """

    folder: Path
    recipe: Mapping[str, object]
    step: int
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """Training has ended.

    Attributes:
        folder: The run folder.
        error: Why it ended early; None if it is complete.
    """

    folder: Path
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`done` of `total` images of `what` are computed, before training."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class StepEnd:
    """A training step is done: `step` of `steps` in `epoch` of `epochs`, all from 1.

    Attributes:
        images: Of this process's batch.
        loss: Mean over the batch, in nats. None on a GPU but for every 16th step, since reading it
            waits for the device.
        lr_backbone: Learning rate of the step, of the deepest depth; 0 while all of it is frozen.
        lr_head: Of the head.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images: int
    loss: float | None
    lr_backbone: float
    lr_head: float


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """An epoch is done; the fields are metrics.csv's columns. Epoch 0 is the probe.

    `metrics` are by name and split, such as `train_loss` and `val_accuracy`: losses are means in
    nats (train's with label smoothing and class weights, if any), all else is in 0..1 (train's on
    augmented images, while the model changed). Which there are is the task's: `val_accuracy`,
    `val_balanced_accuracy` and `val_f1` of one label an image; `val_map`, `val_f1` and
    `val_accuracy` (all labels right) of several. `interpolation` is where the measured weights lie
    between those that fine-tuning began with (0) and those at the epoch's end (1), learning rates
    those of the epoch's last step (the backbone's is its deepest depth's, 0 while all of it is
    frozen), `images_per_second` of training alone (the probe's: of computing features),
    `data_seconds` the time in which training waited for images.
    """

    epoch: int
    metrics: Mapping[str, float]
    interpolation: float
    lr_backbone: float
    lr_head: float
    seconds: float
    images_per_second: float
    data_seconds: float
    best: bool


def epoch_metrics(train: Mapping[str, float], val: Mapping[str, float]) -> dict[str, float]:
    """The metrics of both splits, by names such as `val_loss`."""
    return {
        **{f"train_{name}": value for name, value in train.items()},
        **{f"val_{name}": value for name, value in val.items()},
    }


Listener = Callable[[object], None]


def ignore(event: object) -> None:
    """Listen to nothing."""
