"""Loggers for MLflow and Weights & Biases through accelerate's trackers: `--logger mlflow`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo
from zoo.events import EpochEnd, Measured, Mistakes, RunEnd, RunStart, StepEnd

if TYPE_CHECKING:
    from PIL import Image

#: File in the run folder with the tracker's run id, with which a resumed run continues that run.
ID = "{library}.id"


@zoo.hookimpl
def zoo_loggers() -> Mapping[str, Callable[[], Tracker]]:
    """Declare a logger for each tracker."""
    return {library: partial(Tracker, library) for library in ("mlflow", "wandb")}


class Tracker:
    """Logs the recipe as configuration, and metrics by the number of training steps.

    The figures of the final model are logged under `final_val/` and `final_test/`, with the bounds
    of their 95 % intervals (`_low`, `_high`), and there its confusion matrix and its most confident
    mistakes, as images; those of MLflow are artifacts.

    The destination is set by the tracker's own environment variables (`MLFLOW_TRACKING_URI`,
    `WANDB_MODE` ...); the experiment or project is called `zoo`. A resumed run continues the
    tracker's run: steps after its checkpoint are logged again by MLflow, and ignored by W&B.

    Raises:
        ModuleNotFoundError: If the library is not installed.
    """

    def __init__(self, library: str) -> None:
        importlib.import_module(library)
        self._library = library
        self._tracker: Any = None
        self._step = 0

    def __call__(self, event: object) -> None:
        """Log an event."""
        match event:
            case RunStart():
                self._step = event.step
                self._begin(event)
            case StepEnd():
                self._step = (event.epoch - 1) * event.steps + event.step
                values = {"step/lr_backbone": event.lr_backbone, "step/lr_head": event.lr_head}
                if event.loss is not None:
                    values["step/loss"] = event.loss
                self._tracker.log(values, step=self._step)
            case EpochEnd():
                split_names = (name.split("_", 1) for name in event.metrics)
                tags = [f"{metric}/{split}" for split, metric in split_names]
                values = dict(zip(tags, event.metrics.values(), strict=True))
                self._tracker.log({**values, "epoch": event.epoch}, step=self._step)
            case Measured():
                values = {
                    f"final_{event.split}/{name}{suffix}": value
                    for name, figure in event.metrics.items()
                    for suffix, value in zip(("", "_low", "_high"), figure, strict=True)
                }
                self._tracker.log(values, step=self._step)
            case Mistakes():
                from zoo.report.mistakes import pictures

                for name, image in pictures(event).items():
                    self._log_image(f"final_{event.split}/{name}", image)
            case RunEnd() if self._tracker is not None:  # A run may fail before it starts.
                if self._library == "mlflow" and event.error is not None:
                    status = "KILLED" if event.error == "interrupted" else "FAILED"
                    importlib.import_module("mlflow").end_run(status)
                self._tracker.finish()

    def _log_image(self, tag: str, image: Image.Image) -> None:
        if self._library == "mlflow":
            importlib.import_module("mlflow").log_image(image, f"{tag}.png")
        else:
            self._tracker.log_images({tag: [image]}, step=self._step)

    def _begin(self, event: RunStart) -> None:
        from accelerate import PartialState
        from accelerate.tracking import MLflowTracker, WandBTracker

        PartialState()  # which accelerate's trackers need; a run has made it before
        file = event.folder / ID.format(library=self._library)
        known = _read(file) if event.resumed else None
        name = event.folder.resolve().name
        if self._library == "mlflow":
            self._tracker = MLflowTracker("zoo", run_id=known, run_name=name)
        else:
            # A run whose logger was disabled is still open in this process.
            self._tracker = WandBTracker(
                "zoo", name=name, id=known, resume="allow", reinit="finish_previous"
            )
        self._tracker.start()
        run = self._tracker.tracker
        file.write_text(run.info.run_id if self._library == "mlflow" else run.id)
        if known is None:
            self._tracker.store_init_configuration(dict(event.recipe))


def _read(file: Path) -> str | None:
    return file.read_text().strip() if file.is_file() else None
