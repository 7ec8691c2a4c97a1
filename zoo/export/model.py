"""The exported model of a run, and its metadata."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata

from zoo.backbone import CHANNELS, Preprocess
from zoo.engines.model import ExportableModel
from zoo.errors import DataError
from zoo.export.options import ExportOptions
from zoo.exporter import Exporter
from zoo.hookspecs import DISTRIBUTION
from zoo.runs.card import license_of_weights
from zoo.runs.read import Run
from zoo.tasks.thresholds import THRESHOLD
from zoo.weights import tensors_sha256

#: Metadata of model.safetensors that are useful for prediction, and copied to the export.
_KEPT = (
    "backbone",
    "class_names",
    "preprocess",
    "task",
    "temperature",
    "val_metrics",
    "weights_source",
)

#: Error rates whose thresholds are stored.
_MAX_ERRORS = (0.01, 0.02, 0.05, 0.1)


def exportable(run: Run, options: ExportOptions) -> ExportableModel:
    """Return the model of a run as the options ask for it."""
    return ExportableModel(
        run.model,
        run.info.preprocess,
        run.info.temperature,
        with_resize=options.with_resize,
        probabilities=run.task.activation if options.probabilities else None,
    )


def metadata_of(run: Run, options: ExportOptions, exporter: Exporter) -> Mapping[str, str]:
    """Return the metadata of the exported file, with structured values as JSON.

    `sha256` is that of the run's weights, as in its model.safetensors.
    """
    known = run.info.to_metadata()
    licence = license_of_weights(run.info, run.backbone)
    return {
        **{name: known[name] for name in _KEPT},
        **_input(run.info.preprocess, options),
        **_output(run, options),
        "thresholds": json.dumps(_thresholds(run)),
        "versions": json.dumps({**_versions(exporter), "run": dict(run.info.versions)}),
        **({} if licence is None else {"license": licence}),
        "sha256": tensors_sha256(run.model.state_dict()),
        "zoo_version": metadata.version(DISTRIBUTION),
    }


def _input(preprocess: Preprocess, options: ExportOptions) -> dict[str, str]:
    channels, (height, width) = preprocess.channels, preprocess.height_width
    colours = CHANNELS[channels]
    if options.with_resize:
        layout = "NHWC"
        text = f"(N, H, W, {channels}) uint8, {colours}, of any height and width, upright; resized "
        text += "and cropped by the model, which also applies mean and std"
    else:
        layout = "NCHW"
        text = f"(N, {channels}, {height}, {width}) uint8, {colours}, resized and cropped as "
        text += "preprocess says; mean and std are applied by the model"
    return {
        "input_name": "images",
        "input_layout": layout,
        "input": f"images: {text}",
        "mean": json.dumps(preprocess.mean),
        "std": json.dumps(preprocess.std),
    }


def _output(run: Run, options: ExportOptions) -> dict[str, str]:
    shape = f"(N, {len(run.class_names)}) float32"
    if options.probabilities:
        name = "probabilities"
        text = (
            f"{shape}, calibrated: {run.task.activation} of the logits divided by the temperature"
        )
    else:
        name = "logits"
        text = f"{shape}, already divided by the temperature: their {run.task.activation} is the "
        text += "calibrated probability"
    return {"output_name": name, "output": f"{name}: {text}"}


def _thresholds(run: Run) -> dict[str, object]:
    """Return the thresholds of probabilities that the run knows."""
    if not run.task.exclusive:
        by_class = run.info.thresholds
        return {"by_class": list(by_class)} if by_class else {"label": THRESHOLD}
    found = {}
    for rate in _MAX_ERRORS:
        with suppress(DataError):
            found[f"{rate:g}"] = run.error_threshold(rate).probability
    return {"max_error": found} if found else {}


def _versions(exporter: Exporter) -> dict[str, str]:
    """Return the versions of Python and of the libraries that write and run the file."""
    found = {"python": sys.version.partition(" ")[0], "zoo": metadata.version(DISTRIBUTION)}
    for name in ("torch", *exporter.requires, *exporter.libraries):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
