"""Write the files of a run folder: model.safetensors, config.json, recipe.toml, metrics.csv."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import FailFast, Field
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from zoo import plugins
from zoo.backbone import Backbone, Preprocess
from zoo.errors import DataError, RunError
from zoo.hookspecs import DISTRIBUTION
from zoo.io.files import replacing
from zoo.io.text import count, printable
from zoo.recipe import Recipe, dump_recipe
from zoo.runs.confidence import Confidence
from zoo.runs.familiarity import Familiarity
from zoo.runs.figures import Figures
from zoo.runs.shift import Shift
from zoo.runs.temperature import Temperature, Thresholds
from zoo.runs.transfer import Transfer
from zoo.tasks import SINGLE_LABEL, TASKS, Task, metric_label
from zoo.tasks.thresholds import THRESHOLD
from zoo.weights import tensors_sha256
from zoo.weights.header import METADATA_SHA256, metadata_sha256

#: Version of the metadata layout: 3 added the task, 4 a SHA-256 of the metadata.
FORMAT = "4"

#: Versions of the metadata layout that can be read.
FORMATS = ("1", "2", "3", FORMAT)

MODEL = "model.safetensors"
CONFIG = "config.json"
RECIPE = "recipe.toml"
METRICS = "metrics.csv"
CARD = "README.md"
PREDICTIONS = "predictions.parquet"
REPORT = "report.html"

#: Reason, in the config, for the values of fields that are decided after the plan.
AFTER_PLAN = "by the probe's cross-validation, or the time that was left"

#: Name of a task, as a regular expression.
_TASKS = f"^({'|'.join(TASKS)})$"

#: Name of a class or a backbone.
Name = Annotated[str, Field(min_length=1, max_length=1000)]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Metadata of model.safetensors. The annotations are validated when a file is read.

    Attributes:
        backbone: Full name of the backbone.
        class_names: Class names, in the order of the logits.
        preprocess: Preprocessing of images, with the image size used in training.
        recipe: The resolved recipe.
        weights_source: Description of where the initial weights came from.
        epoch: Epoch of these weights, from 1; 0 for the linear probe.
        averaged: Number of epochs, the last of which is `epoch`, whose average these weights are;
            0: they are of one epoch.
        val_metrics: Metrics on the validation images, by name as in metrics.csv without `val_`;
            empty without any.
        test_metrics: Metrics on the test images, measured once, by name; empty without any.
        val_sha256: SHA-256 over the names of the validation images.
        versions: Versions of Python, zoo, torch and other libraries, by name.
        task: `single-label` or `multi-label`.
        history: Changes to the run during training, one line each; usually empty.
        definition: `Backbone.definition`, for a backbone that no plugin declares by name.
        transfer: Whether pretrained features help on its images; None if not measured.
        figures: Figures of the complete run with their confidence intervals, by split and without
            those by class: on `val`, on `test`, and on `folds`, all images, each predicted by a run
            that has not learnt from it.
        temperature: Divides the logits before softmax or sigmoid.
        calibrated: The held-out predictions that temperature and confidence are fitted on: `val`,
            those of the val images; `folds`, those of runs on folds; `probe`, those of the probe's
            cross-validation, and of val images if there are any. Empty: none, or not known.
        confidence: How sure and how right the model is on held-out images; None if unknown.
        thresholds: Multi-label: the probability from which on each label is predicted, in the order
            of the logits, chosen on the held-out predictions that `calibrated` names; empty: 0.5.
        familiarity: What is needed to flag images unlike the training images; None if unknown.
        teacher: Of a run with distillation, its teacher's `backbone`, the `sha256` of its tensors,
            and its `score` as text; else empty.
        shift: Whether the test images are from another source; None if not measured.
        counts: Number of images of each class, in the order of the logits, by split; empty if not
            known.
        custom: Names, with their modules, of the `loss` and the `transform` of the caller, and what
            did the `training` if zoo did not; usually empty.
    """

    backbone: Name
    class_names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=1_000_000), FailFast()]
    preprocess: Preprocess
    recipe: Recipe
    weights_source: str
    epoch: Annotated[int, Field(ge=0)]
    val_metrics: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    val_sha256: str
    versions: Mapping[str, str]
    task: Annotated[str, Field(pattern=_TASKS)] = SINGLE_LABEL.name
    history: Sequence[str] = ()
    test_metrics: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = field(
        default_factory=dict
    )
    definition: Mapping[str, Any] = field(default_factory=dict)
    transfer: Transfer | None = None
    figures: Mapping[Annotated[str, Field(pattern="^(val|test|folds)$")], Figures] = field(
        default_factory=dict
    )
    temperature: Temperature = 1.0
    calibrated: Annotated[str, Field(pattern="^(val|folds|probe|)$")] = ""
    confidence: Confidence | None = None
    thresholds: Thresholds = ()
    familiarity: Familiarity | None = None
    shift: Shift | None = None
    teacher: Mapping[str, str] = field(default_factory=dict)
    averaged: Annotated[int, Field(ge=0)] = 0
    counts: Mapping[
        Annotated[str, Field(pattern="^(train|val|test)$")],
        Annotated[tuple[Annotated[int, Field(ge=0)], ...], FailFast()],
    ] = field(default_factory=dict)
    custom: Mapping[
        Annotated[str, Field(pattern="^(loss|transform|training)$")],
        Annotated[str, Field(max_length=1000)],
    ] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """Training stage of these weights: `epoch N`, an average of epochs, or `the probe`."""
        if self.averaged:
            return f"the average of epochs {self.epoch - self.averaged + 1} to {self.epoch}"
        return stage(self.epoch)

    @property
    def score_name(self) -> str:
        """Name of the task's main metric, a key of `val_metrics`."""
        return TASKS[self.task].main

    @property
    def score(self) -> float | None:
        """Value of the main metric on the validation images, 0..1; None without any."""
        return self.val_metrics.get(self.score_name)

    @property
    def score_text(self) -> str:
        """The score as text, such as `val accuracy 91.25%`."""
        if self.score is None and "folds" in self.figures:
            found = self.figures["folds"]
            return f"{metric_label(found.main)} out of fold {found.metrics[found.main].value:.2%}"
        if self.score is None:
            return "not measured on held-out images"
        return f"val {metric_label(self.score_name)} {self.score:.2%}"

    @property
    def val_accuracy(self) -> float | None:
        """Accuracy on the validation images, 0..1; None without any."""
        return self.val_metrics.get("accuracy")

    def to_metadata(self) -> dict[str, str]:
        """Convert to safetensors metadata: structured values as JSON, the recipe as TOML."""
        optional = {
            "history": list(self.history),
            "definition": dict(self.definition),
            "test_metrics": dict(self.test_metrics),
            "transfer": {} if self.transfer is None else asdict(self.transfer),
            "figures": {split: asdict(found) for split, found in self.figures.items()},
            "calibrated": self.calibrated,
            "confidence": None if self.confidence is None else asdict(self.confidence),
            "thresholds": list(self.thresholds),
            "familiarity": None if self.familiarity is None else asdict(self.familiarity),
            "shift": None if self.shift is None else asdict(self.shift),
            "teacher": dict(self.teacher),
            "averaged": self.averaged,
            "custom": dict(self.custom),
            "counts": {split: list(of_class) for split, of_class in self.counts.items()},
        }
        return {
            **{key: json.dumps(value) for key, value in optional.items() if value},
            # transformers rejects a file whose metadata does not name the framework.
            "format": "pt",
            "zoo_format": FORMAT,
            "backbone": self.backbone,
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "preprocess": json.dumps(self.preprocess.to_dict()),
            "recipe": dump_recipe(self.recipe),
            "weights_source": self.weights_source,
            "epoch": json.dumps(self.epoch),
            "task": self.task,
            "temperature": json.dumps(self.temperature),
            "val_metrics": json.dumps(dict(self.val_metrics)),
            "val_sha256": self.val_sha256,
            "versions": json.dumps(dict(self.versions)),
        }


def task_of(info: ModelInfo) -> Task:
    """Return the task of a run, with the run's thresholds."""
    return TASKS[info.task].with_thresholds(info.thresholds)


#: What temperature and thresholds are fitted on, by `ModelInfo.calibrated`.
HELD_OUT = {
    "val": "the val images",
    "folds": "the predictions of the runs on folds for images that they had not learnt from",
    "probe": "predictions of the probe's cross-validation for images that it had not learnt from",
}


def describe_thresholds(info: ModelInfo) -> str:
    """Describe the thresholds of a run's labels, which it must have, in a sentence."""
    own = [each for each in info.thresholds if each != THRESHOLD]
    kept = len(info.thresholds) - len(own)
    few = f"; {THRESHOLD:g} for {count(kept, 'label')} with too few images" if kept else ""
    span = f"{min(own):.2g} to {max(own):.2g}" if own else f"{THRESHOLD:g}"
    return (
        f"labels are predicted from a probability of {span} on, chosen for the best F1 of each on "
        f"{HELD_OUT.get(info.calibrated, 'held-out images')}{few}"
    )


def at_threshold(info: ModelInfo, threshold: float | None) -> ModelInfo:
    """Return a run's metadata with one threshold for all labels; None: with its own.

    Raises:
        DataError: It is not 0 to 1, or the run is not multi-label.
    """
    if threshold is None:
        return info
    if not 0 <= threshold <= 1:
        raise DataError(f"threshold must be 0 to 1, got {threshold}")
    if TASKS[info.task].exclusive:
        raise DataError(f"threshold is for multi-label runs; this one is {info.task}")
    return replace(info, thresholds=(threshold,) * len(info.class_names))


def stage(epoch: int) -> str:
    """Return the name of a training stage: `epoch N`, or `the probe` for 0."""
    return f"epoch {epoch}" if epoch else "the probe"


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of Python and of the distributions that affect a run's results."""
    found = {"python": platform.python_version()}
    libraries = ("torchvision", "timm", "transformers", "accelerate", "pillow", "safetensors")
    for name in ("zoo", "torch", *libraries):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(DISTRIBUTION if name == "zoo" else name)
    return found


def write_model(folder: Path, state_dict: Mapping[str, Tensor], info: ModelInfo) -> None:
    """Write model.safetensors atomically.

    Raises:
        RunError: If writing fails (disk full, no permission). An existing file is left intact.
    """
    # Copies, because safetensors refuses tensors that share memory (tied weights).
    tensors = {
        name: t.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, t in state_dict.items()
    }
    details = {**info.to_metadata(), "sha256": tensors_sha256(tensors)}
    details[METADATA_SHA256] = metadata_sha256(details)
    write_file(folder / MODEL, *_in_order(safetensors_bytes(tensors, metadata=details)))


def _in_order(content: bytes) -> tuple[bytes, memoryview]:
    """Return the header of a safetensors file, with its metadata sorted, and the tensor data.

    safetensors writes metadata in random order, but the same run should give the same file.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, memoryview(content)[end:]


def write_files(folder: Path, backbone: Backbone, info: ModelInfo) -> None:
    """Write the JSON files of a run, which other libraries read."""
    for name, content in files_of(backbone, info).items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        write_file(folder / name, text.encode())


def files_of(backbone: Backbone, info: ModelInfo) -> dict[str, dict[str, Any]]:
    """Return the contents of a run's JSON files by name, config.json always among them.

    Raises:
        PluginError: If the backbone's `files` fails.
    """
    own = {
        "num_classes": len(info.class_names),
        "label_names": list(info.class_names),
        "preprocess": info.preprocess.to_config(),
    }
    found = {CONFIG: own, **plugins.files(backbone, info.class_names, info.preprocess)}
    if (problem_type := TASKS[info.task].problem_type) is not None:
        # Decides which loss transformers computes.
        found[CONFIG]["problem_type"] = problem_type
    return found


def write_recipe(
    folder: Path, recipe: Recipe, origins: Mapping[str, str], custom: Mapping[str, str]
) -> None:
    """Write recipe.toml; training with it again gives the same weights on the same machine.

    Origins of values, by field, are comments after them. Code that took part, as in
    `ModelInfo.custom`, is named above them.
    """
    heading = "All settings of this run. Run it again with:\n  zoo finetune --recipe recipe.toml"
    if custom:
        heading = "All settings of this run that are zoo's. They don't repeat it, because of its:"
        heading += "".join(f"\n  {what}: {printable(name)}" for what, name in custom.items())
    write_file(folder / RECIPE, dump_recipe(recipe, heading, origins).encode())


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.csv, one row for each epoch.

    Raises:
        RunError: If writing fails (disk full, no permission). An existing file is left intact.
    """
    write_file(folder / METRICS, metrics_text(rows).encode())


def metrics_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the content of metrics.csv: the column names, then one line for each epoch.

    The rows' `best` (whether the epoch was the best so far) is not written.
    """
    flat = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, object]:
    rest = {name: value for name, value in row.items() if name not in ("metrics", "best", "epoch")}
    return {"epoch": row["epoch"], **row["metrics"], **rest}


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write the concatenated parts to a file atomically, synced to disk.

    Raises:
        RunError: If it can't be written. An existing file of that name is left intact.
    """
    try:
        with replacing(path) as beside, beside.open("wb") as file:
            file.writelines(parts)
    except OSError as error:
        raise RunError(f"can't write {path}: {error.strerror}") from error
