"""Writing of the run folder during a run, in an order that is safe if it is killed at any moment.

The checkpoint is authoritative and is written first. The model, the model card and the metrics are
derived from it, and are recreated from it if a run was killed in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from pathlib import Path
from typing import Any

from zoo.data.split import names_sha256
from zoo.errors import RunError
from zoo.events import EpochEnd, Listener, Note
from zoo.features.stores import backbone_sha256
from zoo.models.head import in_head
from zoo.pipeline.compatibility import (
    DataKeys,
    change_of_processes,
    changes_of_data,
    changes_of_recipe,
    environment,
    read_run,
    refuse,
    warn_of_environment,
    write_data_keys,
)
from zoo.planning import Prepared
from zoo.planning.config import Config
from zoo.runs.card import write_card
from zoo.runs.checkpoint_file import Checkpoint, remove_unfinished, write_checkpoint
from zoo.runs.folder import remove_traces
from zoo.runs.read import read_info
from zoo.runs.write import (
    AFTER_PLAN,
    MODEL,
    ModelInfo,
    stage,
    versions,
    write_files,
    write_metrics,
    write_model,
    write_recipe,
)
from zoo.training.adapters import merged_state
from zoo.training.custom import differences
from zoo.training.interpolation import interpolate
from zoo.training.snapshot import Snapshot
from zoo.training.state import TrainingState


class RunWriter:
    """Writes the run folder in the main process; in other processes, it only has the state.

    Attributes:
        state: The training state.
        resumed: The snapshot to resume from; None to start from the beginning.
        origin: State dict from which fine-tuning starts, on the CPU; a probe changes its head.
        kept: Whether a snapshot has been saved.
    """

    def __init__(self, prepared: Prepared, folder: Path, checkpoint: Checkpoint | None) -> None:
        self._prepared = prepared
        self._folder = folder
        self._checkpoint = checkpoint
        self._main = prepared.accelerator.is_main_process
        self._rows: list[dict[str, Any]] = []
        self.kept = False
        self.state = TrainingState()
        self.resumed: Snapshot | None = None
        self.origin = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in prepared.model.state_dict().items()
        }
        if prepared.adapters is not None:
            self.origin = prepared.adapters.origin(self.origin)
        self._start = {
            "recipe": prepared.plan.recipe.model_dump(mode="json"),
            "origins": dict(prepared.plan.config.origins),
            "custom": dict(prepared.custom.names),
            "weights_source": prepared.plan.weights_source,
            "weights_sha256": backbone_sha256(prepared.model, prepared.backbone),
            "teacher_sha256": "" if prepared.teacher is None else prepared.teacher.sha256,
            "processes": prepared.plan.processes,
            "environment": environment(prepared.accelerator.device),
        }
        if checkpoint is not None:
            snapshot = Snapshot.from_parts(checkpoint.tensors, checkpoint.about)
            self.state = dataclasses.replace(snapshot.state)
            # Those of earlier versions have fewer columns.
            self._rows = [dict(vars(EpochEnd(**row))) for row in checkpoint.about["rows"]]
            self.kept = bool(checkpoint.tensors)
            self.resumed = snapshot if checkpoint.tensors else None
            self.origin.update(snapshot.origin)

    def begin(self, keys: DataKeys) -> None:
        """Write what is needed to resume the run from its start.

        Raises:
            RunError: A file can't be written.
        """
        write_data_keys(self._folder, self._prepared.splits, keys)
        self._write(None)
        self._write_recipe()

    def resume(self, keys: DataKeys, allow_changed: bool, listen: Listener) -> None:
        """Check that the run can be resumed, and complete what a killed process left unfinished.

        Raises:
            RunError: Something differs that must not, or a file can't be written.
        """
        checkpoint, plan = self._checkpoint, self._prepared.plan
        if checkpoint is None:
            return
        if read_run(self._folder).about != checkpoint.about:
            raise RunError(
                f"another process has resumed {self._folder} in the meantime", hint="try again"
            )
        changes, clashes = changes_of_recipe(checkpoint, plan.recipe, plan.processes)
        before = checkpoint.about.get("custom", {})
        changes += differences(before, self._prepared.custom.names)
        changes += changes_of_data(self._folder, self._prepared.splits, keys)
        if checkpoint.about["weights_sha256"] != self._start["weights_sha256"]:
            changes.append(f"the initial weights ({plan.weights_source}) differ")
        if checkpoint.about.get("teacher_sha256", "") != self._start["teacher_sha256"]:
            changes.append(f"the teacher ({plan.recipe.teacher or 'none'}) is another one")
        refuse(self._folder, changes, clashes, allowed=allow_changed)
        warn_of_environment(checkpoint, listen)
        remove_unfinished(self._folder)
        listen(Note(text=f"resuming {self._folder} {self._where()}"))
        if not changes and (divided := change_of_processes(checkpoint, plan.processes)):
            changes = [divided]
        if changes:
            line = f"{self._where()}: {'; '.join(changes)}"
            self.state.history = [*self.state.history, line]
            if self.resumed is not None:
                self.resumed.state.history = self.state.history
            write_data_keys(self._folder, self._prepared.splits, keys)
            listen(Note(text=f"changed {line}", warning=True))
        self._write(self.resumed)
        self._write_recipe()
        if self._rows:
            end = EpochEnd(**self._rows[-1])
            if self.resumed is not None and end.best and self._model_epoch() != end.epoch:
                self._write_best(self.resumed, end)
            self._write_metrics()

    def save(self, snapshot: Snapshot, end: EpochEnd | None) -> None:
        """Save a snapshot and, at the end of an epoch, the files that are derived from it.

        Raises:
            RunError: It can't be written; the previous checkpoint is intact.
        """
        self.kept = True
        # After a restart of fine-tuning, the epochs of the abandoned attempt do not count.
        abandoned = [row for row in self._rows if row["epoch"] > snapshot.state.epoch]
        self._rows = [row for row in self._rows if row["epoch"] <= snapshot.state.epoch]
        if end is not None:
            self._rows.append(dict(vars(end)))
            if end.epoch == 0:
                for name in self._head():
                    self.origin[name].copy_(snapshot.model[name])
        if not self._main:
            return
        self._write(snapshot)
        if end is None:
            if abandoned:
                self._write_metrics()
            return
        if end.epoch == 0:
            self._write_recipe()
        if end.best:
            self._write_best(snapshot, end)
        self._write_metrics()

    def last(self) -> Snapshot:
        """Read back the last saved snapshot.

        Raises:
            RunError: The checkpoint can't be read.
        """
        checkpoint = read_run(self._folder)
        return Snapshot.from_parts(checkpoint.tensors, checkpoint.about)

    def finish(self) -> None:
        """Write a checkpoint that marks the run as complete and, to save space, has no tensors.

        Raises:
            RunError: The checkpoint can't be written.
        """
        if self._main:
            self._write(None, complete=True)

    def drop(self) -> None:
        """Delete the folder of a run that failed before it saved a snapshot."""
        if self._main and not self.kept:
            remove_traces(self._folder)

    def outcome(self) -> str:
        """Describe what was saved and how to resume; empty except in the main process."""
        if not self._main:
            return ""
        lines = []
        # The run may have ended because its folder can't be read.
        with contextlib.suppress(RunError):
            info = read_info(self._folder / MODEL)
            lines.append(f"kept the best so far in {self._folder}: {info.stage}, {info.score_text}")
        if self.kept or not lines:
            lines.append(f"resume with: zoo finetune --resume {shlex.quote(str(self._folder))}")
        return "\n".join(lines)

    @property
    def _config(self) -> Config:
        """The resolved config, with the values decided after the plan."""
        return self._prepared.plan.config.decided(AFTER_PLAN, **self.state.decided)

    def _model_epoch(self) -> int | None:
        """Return the epoch of the model in the folder; None if it is missing or unreadable."""
        try:
            return read_info(self._folder / MODEL).epoch
        except RunError:
            return None

    def _where(self) -> str:
        state, recipe = self.state, self._prepared.plan.recipe
        if not self.kept:
            return "from its start"
        if state.epoch_step:
            return f"in epoch {state.epoch + 1} of {recipe.epochs}, after step {state.epoch_step}"
        return f"after {stage(state.epoch)}" + (f" of {recipe.epochs}" if state.epoch else "")

    def _write(self, snapshot: Snapshot | None, *, complete: bool = False) -> None:
        """Write a checkpoint of a snapshot; without one, of the state only."""
        if snapshot is None:
            snapshot = Snapshot(tensors={}, state=self.state, scaler={})
        elif snapshot.state.probed:
            origin = {name: self.origin[name] for name in self._head()}
            snapshot = dataclasses.replace(snapshot, origin=origin)
        about = {**self._start, **snapshot.about(), "rows": self._rows, "complete": complete}
        write_checkpoint(self._folder, snapshot.to_tensors(), about)

    def _head(self) -> list[str]:
        """Return the names of the head's tensors, which a probe sets."""
        paths = self._prepared.backbone.head_paths
        return [name for name in self.origin if in_head(name, paths)]

    def _write_best(self, snapshot: Snapshot, end: EpochEnd) -> None:
        plan, backbone = self._prepared.plan, self._prepared.backbone
        if end.averaged:
            kept = snapshot.epoch_average
        else:
            last = merged_state(self._prepared.adapters, snapshot.validated)
            kept = interpolate(self.origin, last, end.interpolation)
        calibration = self.state.calibration if end.epoch == 0 else None
        info = ModelInfo(
            backbone=plan.recipe.backbone,
            class_names=plan.class_names,
            preprocess=plan.preprocess,
            recipe=self._config.recipe,
            weights_source=plan.weights_source,
            epoch=end.epoch,
            averaged=end.averaged,
            task=plan.recipe.task,
            val_metrics={
                name.removeprefix("val_"): value
                for name, value in end.metrics.items()
                if name.startswith("val_")
            },
            val_sha256=names_sha256(self._prepared.splits.val),
            versions=versions(),
            history=tuple(self.state.history),
            transfer=self.state.transfer,
            teacher={} if self._prepared.teacher is None else self._prepared.teacher.about,
            temperature=1.0 if calibration is None else calibration.temperature,
            calibrated="" if calibration is None else "probe",
            confidence=None if calibration is None else calibration.confidence,
            thresholds=() if calibration is None else calibration.thresholds,
            definition=backbone.definition,
            counts={
                "train": plan.train_counts,
                **({"val": plan.val_counts} if plan.val_images else {}),
            },
            custom=self._prepared.custom.names,
        )
        write_files(self._folder, backbone, info)
        write_model(self._folder, kept, info)
        write_card(
            self._folder,
            info,
            backbone,
            val_images=plan.val_images,
        )

    def _write_recipe(self) -> None:
        config, custom = self._config, self._prepared.custom.names
        write_recipe(self._folder, config.recipe, config.origins, custom)

    def _write_metrics(self) -> None:
        write_metrics(self._folder, self._rows)
