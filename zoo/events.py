"""Events of a run, passed to `zoo.finetune(..., listen=...)` in the order in which they happen.

`zoo.tune` passes the events of the run of each trial, between a `TrialStart` and a `TrialEnd`.

`zoo.Plan` is an event too: what is known before training, passed once, before `RunStart`. So is
`zoo.Transfer`, which completes it: whether pretrained features help, as a new run measures after
`RunStart` and before it trains, unless it has no probe or starts from random weights.

A listener is a function that takes one event. An exception that it raises ends the run with an
error; KeyboardInterrupt ends it as Ctrl-C does, with a checkpoint of the last epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Note:
    """Message about a decision or a finding.

    Attributes:
        text: The message.
        warning: Whether it is a warning.
        detail: Whether it is a detail, which is printed by `zoo finetune -v` only.
    """

    text: str
    warning: bool = False
    detail: bool = False


@dataclass(frozen=True, kw_only=True)
class RunStart:
    """Training starts or resumes, after the plan.

    Attributes:
        folder: The run folder.
        recipe: All resolved settings; JSON-ready.
        step: Training steps that were completed earlier.
        resumed: Whether an interrupted run is resumed.
    """

    folder: Path
    recipe: Mapping[str, object]
    step: int
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The final model has been measured on a split, after training and before `RunEnd`.

    Attributes:
        split: `val` or `test`.
        images: Number of images.
        metrics: (value, low, high) by name: the metric and its 95 % confidence interval.
        main: Name of the main metric.
        baseline: The main metric of a model that ignores its input.
        doubt: Why the model may be no better than that one; None if it is better.
    """

    split: str
    images: int
    metrics: Mapping[str, tuple[float, float, float]]
    main: str
    baseline: float
    doubt: str | None


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An image that the final model predicts wrongly.

    Attributes:
        name: Name of the image in the dataset.
        label: Its label; multi-label: its labels, joined by ` + `.
        predicted: What is predicted, in the same form.
        probability: Probability of the predicted class; multi-label: the highest of all.
        image: The network's input, as a PNG of at most 176 x 176 pixels; empty if the image can no
            longer be read.
    """

    name: str
    label: str
    predicted: str
    probability: float
    image: bytes


@dataclass(frozen=True, kw_only=True)
class Mistakes:
    """What the final model gets wrong on a split, after all `Measured` and before `RunEnd`.

    `zoo.report.mistakes.pictures` draws it for loggers that show images.

    Attributes:
        split: `val` or `test`.
        class_names: In the order of the logits.
        confusion: `confusion[i][j]` is the number of images of class i predicted as class j. Empty
            if the task is multi-label, or with more than 1,000 classes.
        total: Number of wrongly predicted images.
        shown: Those with the highest probability, at most 16.
    """

    split: str
    class_names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    total: int
    shown: tuple[Mistake, ...]


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
    """Before training, `done` of `total` images of `what` have been processed."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class StepEnd:
    """A training step has ended: `step` of `steps` in `epoch` of `epochs`, all counted from 1.

    The last epoch may have fewer steps than `steps`.

    Attributes:
        total_steps: Number of steps of the whole training.
        images: Number of images in the batch of this process.
        loss: Mean over the batch, in nats or as the caller's loss gives it. On a GPU None except in
            every 16th step, because reading it waits for the device.
        lr_backbone: Learning rate of the backbone's deepest depth; 0 while all of it is frozen.
        lr_head: Learning rate of the head.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    total_steps: int
    images: int
    loss: float | None
    lr_backbone: float
    lr_head: float


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """An epoch has ended; the fields are the columns of metrics.csv. Epoch 0 is the probe.

    `metrics` has keys such as `train_loss` and `val_accuracy`. Losses are means in nats (on train
    with label smoothing and class weights, if any; with a teacher, that of distillation); all
    others are in 0..1 (on train with augmented images, while the model changes; of unlabelled
    images, the share that is predicted as by the teacher). The task determines them:
    `val_accuracy`, `val_balanced_accuracy` and `val_f1` for single-label; `val_map`, `val_f1` and
    `val_accuracy` (all labels correct) for multi-label. `interpolation` is the position of the
    measured weights between the initial ones of fine-tuning (0) and those at the end of the epoch
    (1); if they are an average of the last epochs, `averaged` is the number of these. Learning
    rates are those of the last step (`lr_backbone` at the deepest depth, 0 while all of the
    backbone is frozen). `images_per_second` is that of training alone (for the probe, of feature
    extraction), and `data_seconds` is the time that training spent waiting for images. If other
    code has trained the model (`zoo.save_run`), there are val metrics only; times and rates are 0.
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
    averaged: int = 0


@dataclass(frozen=True, kw_only=True)
class TrialStart:
    """A trial of `zoo.tune` starts or is resumed; the events of its run follow.

    Attributes:
        number: Number of the trial, from 0 on.
        params: Values of the searched fields.
    """

    number: int
    params: Mapping[str, bool | int | float | str]


@dataclass(frozen=True, kw_only=True)
class TrialEnd:
    """A trial of `zoo.tune` has ended.

    Attributes:
        number: Number of the trial, from 0 on.
        params: Values of the searched fields.
        state: `complete`, `pruned` (stopped early, because it was worse than others), `failed`, or
            `running` (stopped because the time is up; it is resumed with the search).
        value: The deciding metric on val: of the best epoch of a complete trial, else of the last
            epoch; higher is better. None if no epoch has ended.
        epochs: Number of epochs that were trained.
        seconds: Duration.
        best: Whether it is the best complete trial so far.
        reason: Why it failed; else empty.
    """

    number: int
    params: Mapping[str, bool | int | float | str]
    state: str
    value: float | None
    epochs: int
    seconds: float
    best: bool
    reason: str = ""


def epoch_metrics(train: Mapping[str, float], val: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of both splits under names such as `val_loss`."""
    return {
        **{f"train_{name}": value for name, value in train.items()},
        **{f"val_{name}": value for name, value in val.items()},
    }


Listener = Callable[[object], None]


def ignore(event: object) -> None:
    """Ignore the event."""
