"""A logger for TensorBoard: `zoo finetune --logger tensorboard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import zoo
from zoo.events import EpochEnd, Measured, Mistakes, RunEnd, RunStart, StepEnd


@zoo.hookimpl
def zoo_loggers() -> Mapping[str, Callable[[], TensorBoard]]:
    """Declare the logger of this plugin."""
    return {"tensorboard": TensorBoard}


class TensorBoard:
    """Writes scalars to `tensorboard/` in the run folder, by the number of training steps.

    Tags under `step/` are the loss and learning rates of each step, those under `final_val/` and
    `final_test/` the figures of the final model with the bounds of their 95 % intervals (`_low`,
    `_high`) and, as images, its confusion matrix and most confident mistakes; other tags are the
    metrics of each epoch, at its last step. A resumed run replaces what was logged after its
    checkpoint.

    Raises:
        ModuleNotFoundError: If tensorboard is not installed.
    """

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make_writer = SummaryWriter
        self._writer: Any = None
        self._step = 0

    def __call__(self, event: object) -> None:
        """Log an event."""
        match event:
            case RunStart():
                self._step = event.step
                purge = event.step + 1 if event.resumed else None
                self._writer = self._make_writer(
                    str(event.folder / "tensorboard"), purge_step=purge
                )
            case StepEnd():
                self._step = (event.epoch - 1) * event.steps + event.step
                if event.loss is not None:
                    self._add("step/loss", event.loss)
                self._add("step/lr_backbone", event.lr_backbone)
                self._add("step/lr_head", event.lr_head)
            case EpochEnd():
                for name, value in event.metrics.items():
                    split, _, metric = name.partition("_")
                    self._add(f"{metric}/{split}", value)
                self._writer.flush()
            case Measured():
                for name, figure in event.metrics.items():
                    for suffix, value in zip(("", "_low", "_high"), figure, strict=True):
                        self._add(f"final_{event.split}/{name}{suffix}", value)
            case Mistakes():
                import numpy as np

                from zoo.report.mistakes import pictures

                for name, image in pictures(event).items():
                    tag = f"final_{event.split}/{name}"
                    self._writer.add_image(tag, np.asarray(image), self._step, dataformats="HWC")
            case RunEnd():
                self._writer.close()

    def _add(self, tag: str, value: float) -> None:
        self._writer.add_scalar(tag, value, self._step)
