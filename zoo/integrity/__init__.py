"""Verify the integrity of all files in a run folder, without executing or changing any."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo import plugins
from zoo.errors import PluginError, RunError, ZooError
from zoo.integrity.finding import Finding, State, suspicious
from zoo.integrity.page import check_harmless
from zoo.integrity.untrusted import others
from zoo.io.files import expand, is_file
from zoo.io.parse import MAX_JSON, parse_json, read_bounded
from zoo.io.text import clip, count, listed
from zoo.pipeline.compatibility import read_data_keys, read_run
from zoo.recipe import checked_recipe, make_recipe
from zoo.runs.checkpoint_file import CHECKPOINT, DATA, LAST, LOCK
from zoo.runs.folder import FOLDS, FOLDS_MARK, FOLDS_PREDICTIONS
from zoo.runs.folds import read_folds
from zoo.runs.parse import read_head
from zoo.runs.read import load, read_tensors, variant_of
from zoo.runs.scores import read_columns
from zoo.runs.write import (
    CARD,
    CONFIG,
    FORMAT,
    METRICS,
    MODEL,
    PREDICTIONS,
    RECIPE,
    REPORT,
    ModelInfo,
    files_of,
    metrics_text,
    versions,
)
from zoo.weights.files import leads_out
from zoo.weights.header import read_header

#: Contents of a run's checkpoint besides its tensors.
About = Mapping[str, Any]

#: Keys of config.json that make transformers load code.
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines"})

#: Why a file is unchecked if the model's metadata is not known.
_NO_MODEL = f"there is no valid {MODEL} to check it against"


class _Unchecked(Exception):
    """Raised if there is nothing to check a file against."""


def verify(path: str | Path) -> tuple[Finding, ...]:
    """Verify a run: each file exists, is undamaged, and is consistent with the others.

    model.safetensors is loaded as for prediction and the checkpoint is read as for resuming, which
    verifies their SHA-256s; the other files are compared with these two. Files that zoo didn't
    write are reported; those that could run code, and links that lead out of the folder, count as
    wrong.

    Args:
        path: A run folder, or a model.safetensors alone.

    Raises:
        RunError: If the path does not exist or can't be accessed.
    """
    path = expand(path)
    if is_file(path):
        return (_model(path)[0],)
    try:
        if not path.is_dir():
            raise RunError(f"no run at {path}: there is no such folder or file")
        next(path.iterdir(), None)
    except OSError as error:
        raise RunError(f"can't open {path}: {error.strerror}") from error
    checkpoint, about = _checkpoint(path)
    model, info = _model(path / MODEL, about)
    expected = _expected(info)
    optional = _OPTIONAL
    if not os.path.lexists(path / CHECKPOINT):
        # A run that was published leaves out its checkpoint, and the names of its images.
        optional |= {PREDICTIONS}
    there = [n for n in (*expected, *CHECKS) if n not in optional or os.path.lexists(path / n)]
    beside = [_beside(path / name, info, about, expected) for name in there]
    folds = _folds(path)
    known = {found.file for found in (model, *beside, *checkpoint, *folds)}
    known |= {f"{found.file.removesuffix(MODEL)}{CHECKPOINT}/{LOCK}" for found in folds}
    return (model, *beside, *checkpoint, *folds, *others(path, known))


def _folds(run: Path) -> list[Finding]:
    """Verify the runs on folds in a run folder, if there are any."""
    if not os.path.lexists(run / FOLDS_MARK) or suspicious(run, run / FOLDS_MARK):
        return []
    try:
        count = read_folds(run).recipe.folds or 0
    except RunError:
        return []
    places = [f"{FOLDS}/{number}" for number in range(1, count + 1)]
    return [
        replace(found, file=f"{place}/{found.file}")
        for place in places
        if (run / place).is_dir() and leads_out(run, run / place) is None
        for found in verify(run / place)
    ]


def _checked(folder: Path, name: str, check: Callable[[], str]) -> Finding:
    """Run a check of one file: it returns details if the file is valid, and raises otherwise."""
    state: State = "wrong"
    if detail := suspicious(folder, folder / name):
        return Finding(file=name, state=state, detail=detail)
    try:
        state, detail = "ok", check()
    except _Unchecked as error:
        state, detail = "unchecked", str(error)
    except OSError as error:
        detail = f"it can't be read: {error.strerror}"
    except (ValueError, TypeError, ZooError) as error:
        detail = clip(str(error), 400)
    return Finding(file=name, state=state, detail=detail)


def _model(file: Path, about: About | None = None) -> tuple[Finding, ModelInfo | None]:
    """Check model.safetensors; return the finding, and the metadata if they are valid."""
    info: ModelInfo | None = None

    def check() -> str:
        nonlocal info
        header, info = read_head(file)
        text = (
            f"{count(len(info.class_names), 'class', 'classes')}, {info.stage}, {info.score_text}"
        )
        try:
            load(file, device="cpu")
        except PluginError as error:
            read_tensors(file, header)
            why = f"whether it fits its backbone is not known: {clip(str(error))}"
            raise _Unchecked(f"{text}; {why}") from error
        if header.metadata["zoo_format"] != FORMAT:
            raise _Unchecked(f"{text}; written by an older zoo, without a SHA-256 of its metadata")
        return text

    if _is_pending(file, about):
        return _pending(file), None
    return _checked(file.parent, file.name, check), info


def _checkpoint(run: Path) -> tuple[list[Finding], About | None]:
    """Check the files in `checkpoint/`, if it exists; return findings and checkpoint contents."""
    about: About | None = None

    def data() -> str:
        train, val, unlabelled = map(len, read_data_keys(run).values())
        more = f", {unlabelled} unlabelled" if unlabelled else ""
        return f"what the run learns from: {train} train images, {val} val{more}"

    def last() -> str:
        nonlocal about
        about = read_run(run).about
        return (
            f"the run is {'complete' if about['complete'] else 'not complete and can be resumed'}"
        )

    if not os.path.lexists(run / CHECKPOINT):
        return [], None
    checks = {DATA: data, LAST: last}
    return [_checked(run, f"{CHECKPOINT}/{name}", checks[name]) for name in checks], about


def _beside(
    file: Path, info: ModelInfo | None, about: About | None, expected: Mapping[str, Any]
) -> Finding:
    """Check a file whose content repeats the model file or the checkpoint."""

    def check() -> str:
        if file.name in expected:
            return _json(file, info, expected[file.name])
        return CHECKS[file.name](file, info, about)

    if _is_pending(file, about):
        return _pending(file)
    found = _checked(file.parent, file.name, check)
    # The checkpoint is written first, and resuming the run writes these again.
    rewritten = file.name in (RECIPE, METRICS) and about is not None and not about["complete"]
    if rewritten and found.state == "wrong" and not suspicious(file.parent, file):
        detail = f"resuming the run writes it again; now {found.detail}"
        return Finding(file=file.name, state="unchecked", detail=detail)
    return found


def _is_pending(file: Path, about: About | None) -> bool:
    return about is not None and not about["complete"] and not os.path.lexists(file)


def _pending(file: Path) -> Finding:
    detail = "not there yet: the run is not complete"
    return Finding(file=file.name, state="unchecked", detail=detail)


def _expected(info: ModelInfo | None) -> dict[str, Mapping[str, Any] | ZooError]:
    """Return what a run's JSON files must hold, by name; or why this is not known."""
    if info is None:
        return {CONFIG: RunError(_NO_MODEL)}
    try:
        backbone = plugins.get(info.backbone, info.definition or None)
        return dict(files_of(variant_of(backbone, info), info))
    except ZooError as error:
        return {CONFIG: error}


def _json(file: Path, info: ModelInfo | None, expected: Mapping[str, Any] | ZooError) -> str:
    content = parse_json(read_bounded(file, MAX_JSON))
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    if code := sorted(_CODE_KEYS & content.keys()):
        raise ValueError(f"it names code for transformers to load: {', '.join(code)}")
    if info is None or isinstance(expected, ZooError):
        raise _Unchecked(f"what it must hold is not known: {clip(str(expected))}")
    try:
        _compare(content, json.loads(json.dumps(expected)))
    except ValueError as error:
        # Another version of the backbone's library may write other values.
        if info.versions != versions():
            raise _Unchecked(f"{error}, for versions of libraries that are not here") from error
        raise
    return "class names and preprocessing as in the model file"


def _recipe(file: Path, info: ModelInfo | None, about: About | None) -> str:
    recipe = make_recipe(file)
    # A run may be resumed with another recipe, after the model was written.
    if about is not None and recipe == checked_recipe(about["recipe"]):
        return "as in the checkpoint"
    if info is None:
        raise _Unchecked(_NO_MODEL)
    _compare(recipe.model_dump(), info.recipe.model_dump())
    return "as in the model file"


def _metrics(file: Path, info: ModelInfo | None, about: About | None) -> str:
    text = read_bounded(file, MAX_JSON).decode()
    if about is None:
        raise _Unchecked("there is no checkpoint to check it against")
    rows = about["rows"]
    if not rows or text != metrics_text(rows):
        raise ValueError("it differs from the metrics in the checkpoint")
    if info is not None:
        of_model = {f"val_{name}": value for name, value in info.val_metrics.items()}
        of_epoch = [row["metrics"] for row in rows if row["epoch"] == info.epoch]
        if not of_epoch or not of_model.items() <= of_epoch[0].items():
            raise ValueError(f"it has other metrics of {info.stage} than {MODEL}")
    return f"{count(len(rows), 'row')}, as in the checkpoint"


def _card(file: Path, info: ModelInfo | None, _: About | None) -> str:
    text = read_bounded(file, MAX_JSON).decode()
    if info is None:
        raise _Unchecked(_NO_MODEL)
    if info.backbone not in text:
        raise ValueError(f"it doesn't name {info.backbone}: it belongs to another run")
    return f"{len(text):,} characters"


def _predictions(file: Path, info: ModelInfo | None, _: About | None) -> str:
    if info is None:
        raise _Unchecked(_NO_MODEL)
    columns = read_columns(file)
    if missing := [name for name in info.class_names if f"p_{name}" not in columns]:
        raise ValueError(f"it has no probabilities of {listed(missing)}")
    return f"{len(columns['name'])} images"


def _report(file: Path, info: ModelInfo | None, _: About | None) -> str:
    text = read_bounded(file, MAX_JSON).decode()
    model = check_harmless(text)
    if info is None:
        raise _Unchecked(_NO_MODEL)
    if model != read_header(file.with_name(MODEL)).metadata.get("sha256"):
        raise ValueError(f"it is not the report of {MODEL}: it was written for other weights")
    return f"{len(text):,} characters, without scripts"


def _compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the keys, if two objects differ."""
    keys = sorted(one.keys() | other.keys())
    different = [k for k in keys if (k in one, one.get(k)) != (k in other, other.get(k))]
    if different:
        raise ValueError(f"it differs from what {MODEL} says in {', '.join(different[:10])}")


def _folds_mark(file: Path, _: ModelInfo | None, __: About | None) -> str:
    found = read_folds(file.parent)
    return f"{found.recipe.folds} folds{'' if found.figures is None else ', with their figures'}"


#: Checks of the other files whose content repeats the model file or the checkpoint, by name.
CHECKS: dict[str, Callable[[Path, ModelInfo | None, About | None], str]] = {
    RECIPE: _recipe,
    METRICS: _metrics,
    CARD: _card,
    PREDICTIONS: _predictions,
    REPORT: _report,
    FOLDS_MARK: _folds_mark,
    FOLDS_PREDICTIONS: _predictions,
}

#: Of these, the ones that a complete run need not have.
_OPTIONAL = frozenset({REPORT, FOLDS_MARK, FOLDS_PREDICTIONS})
