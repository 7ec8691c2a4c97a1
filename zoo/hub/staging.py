"""What is published of a run: its files without the paths and the images of this machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from zoo.data.remote import address_of, path_of
from zoo.errors import RunError
from zoo.export.card import with_exports_of
from zoo.integrity import verify
from zoo.io.files import is_file
from zoo.io.parse import MAX_TOML, read_bounded
from zoo.io.text import listed
from zoo.recipe import Recipe, change, read_origins
from zoo.report.measured import measured
from zoo.runs.card import Published, card_text, license_of_weights
from zoo.runs.checkpoint_file import CHECKPOINT
from zoo.runs.figures import ClassFigures
from zoo.runs.folder import FOLDS, FOLDS_MARK, FOLDS_PREDICTIONS
from zoo.runs.overview import state_of
from zoo.runs.parse import read_head
from zoo.runs.read import backbone_of, model_file, read_tensors
from zoo.runs.scores import read_columns
from zoo.runs.write import (
    CARD,
    METRICS,
    PREDICTIONS,
    RECIPE,
    REPORT,
    ModelInfo,
    files_of,
    task_of,
    write_file,
    write_model,
    write_recipe,
)
from zoo.weights.checkpoint import LOCAL

#: Why files of a run are not published, by name.
_WHY = {
    CHECKPOINT: "only for resuming, and has the names of your images",
    PREDICTIONS: "has the names of your images; `with_predictions` uploads it",
    REPORT: "shows your images, their names and paths; `with_report` uploads it",
    FOLDS: "runs on folds, with their checkpoints and predictions",
    FOLDS_MARK: "the settings of the runs on folds; their figures are in the model file",
    FOLDS_PREDICTIONS: "has the names of your images",
}

#: A note in a run's history that names images: all that follows is left out.
_NAMES = re.compile(r"(images (?:gone|new|changed)): .*", re.DOTALL)


def check_run(path: Path) -> None:
    """Check that a run is finished, undamaged and harmless.

    Raises:
        RunError: If it is not.
    """
    if not path.is_dir():
        raise RunError(f"no run at {path}: there is no such folder", hint="give a run folder")
    wrong = [found for found in verify(path) if found.state == "wrong"]
    if wrong:
        lines = "".join(f"\n  {found.file}: {found.detail}" for found in wrong)
        raise RunError(
            f"the run {path} is not uploaded, because files are wrong:{lines}",
            hint="repair it, or remove the files that don't belong to it",
        )
    if state_of(path) != "finished":
        raise RunError(f"the run {path} is not finished", hint="resume it first")


def stage(
    run: Path, folder: Path, published: Published, *, predictions: bool, report: bool
) -> tuple[str | None, dict[str, str]]:
    """Write what is published of a run into an empty folder.

    Absolute paths in the recipe, the metadata and the card become names, the model card names the
    repository and lists the run's exports, and weights and figures stay as they are.

    Returns:
        The licence that the card states, and why files of the run are left out, by name.

    Raises:
        RunError: If a file can't be read or written, or the result would not be a valid run.
    """
    file = model_file(run)
    header, info = read_head(file)
    names = _paths_of(info)
    public = _without_paths(info, names)
    backbone = backbone_of(file, header, public)
    write_model(folder, read_tensors(file, header), public)
    kept = [name for name in files_of(backbone, public) if is_file(run / name)]
    kept += [METRICS, *([PREDICTIONS] if predictions else []), *([REPORT] if report else [])]
    for name in kept:
        if is_file(run / name):
            _copy(run / name, folder / name)
    origins = read_origins(_text(run / RECIPE), info.recipe)
    shown = {name: _shortened(origin, names) for name, origin in origins.items()}
    write_recipe(folder, public.recipe, shown, public.custom)
    val = public.figures.get("val")
    classes = _classes(run, public)
    text = card_text(
        public, backbone, published, val_images=0 if val is None else val.images, classes=classes
    )
    write_file(folder / CARD, with_exports_of(run, text).encode())
    if wrong := [found.file for found in verify(folder) if found.state == "wrong"]:
        raise RunError(
            f"the run {run} can't be published without the paths of this machine: "
            f"{listed(wrong)} would not be valid"
        )
    return published.license or license_of_weights(public, backbone), _left_out(run, folder)


def _copy(file: Path, to: Path) -> None:
    try:
        shutil.copyfile(file, to)
    except OSError as error:
        raise RunError(f"can't copy {file} to {to}: {error.strerror}") from error


def _text(file: Path) -> str:
    try:
        return read_bounded(file, MAX_TOML).decode()
    except (OSError, ValueError) as error:
        raise RunError(f"can't read {file}: {error}") from error


def _left_out(run: Path, folder: Path) -> dict[str, str]:
    there = sorted(path.name for path in run.iterdir())
    return {n: _WHY.get(n, "not zoo's") for n in there if not (folder / n).exists()}


def _classes(run: Path, info: ModelInfo) -> dict[str, tuple[ClassFigures, ...]]:
    """Return the figures by class, by split, from a run's predictions; empty without them."""
    if not is_file(run / PREDICTIONS):
        return {}
    columns = read_columns(run / PREDICTIONS)
    if not len(columns["name"]):
        return {}
    parts = measured(columns, info.class_names, task_of(info), None)
    return {part.split: part.figures.classes for part in parts}


def _paths_of(info: ModelInfo) -> dict[str, str]:
    """Return the paths of this machine that a run names, and what they become, the longest first.

    The path of a folder or file becomes its name, that of the home folder `~`. So does an address,
    whose query may hold a signature.
    """
    recipe = info.recipe
    given = [recipe.data, recipe.val, recipe.test, recipe.weights]
    given += [recipe.teacher, recipe.unlabelled]
    if info.backbone.startswith(LOCAL):
        given.append(info.backbone)
    found = {str(Path.home()): "~"}
    for value in filter(None, given):
        if (address := address_of(value)) is not None:
            found[value] = path_of(address).rstrip("/").rpartition("/")[2]
            continue
        # Sources and checkpoints may have a scheme, as in tar:/data/photos.tar.
        for path in (value, value.partition(":")[2]):
            if PurePath(path).is_absolute():
                found[path] = PurePath(path).name
    absolute = {path: name for path, name in found.items() if len(PurePath(path).parts) > 1}
    return dict(sorted(absolute.items(), key=lambda each: -len(each[0])))


def _without_paths(info: ModelInfo, names: Mapping[str, str]) -> ModelInfo:
    recipe = info.recipe
    texts = {name: value for name, value in recipe if isinstance(value, str)}
    shown = {name: _shortened(value, names) for name, value in texts.items()}
    history = [_shortened(_NAMES.sub(r"\1", line), names) for line in info.history]
    return replace(
        info,
        backbone=_shortened(info.backbone, names),
        recipe=_changed(recipe, {k: v for k, v in shown.items() if v != texts[k]}),
        weights_source=_shortened(info.weights_source, names),
        history=tuple(history),
        definition=_within(dict(info.definition), names),
    )


def _changed(recipe: Recipe, values: Mapping[str, str]) -> Recipe:
    return change(recipe, **values) if values else recipe


def _within(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _shortened(value, names)
    if isinstance(value, dict):
        return {key: _within(each, names) for key, each in value.items()}
    return [_within(each, names) for each in value] if isinstance(value, list) else value


def _shortened(text: str, names: Mapping[str, str]) -> str:
    for path, name in names.items():
        # Not the beginning of another name.
        text = re.sub(rf"{re.escape(path)}(?![\w.-])", name.replace("\\", r"\\"), text)
    return text
