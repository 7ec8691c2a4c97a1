"""List the runs below a folder with their figures, without reading their weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from zoo.errors import RunError
from zoo.io.files import expand, is_file
from zoo.io.parse import parse_json
from zoo.io.text import clip
from zoo.recipe import checked_recipe
from zoo.runs.checkpoint_file import CHECKPOINT, LAST
from zoo.runs.figures import Figure
from zoo.runs.parse import read_head
from zoo.runs.write import MODEL, RECIPE, ModelInfo
from zoo.weights.files import leads_out
from zoo.weights.header import read_header

State = Literal["finished", "resumable", "damaged"]

#: Maximum depth of folders in which runs are looked for.
_DEEPEST = 4


@dataclass(frozen=True, kw_only=True)
class Measure:
    """The main metric of a run on one split.

    Attributes:
        value: 0..1.
        low: Lower end of its 95 % interval; None if the run is not finished.
        high: Upper end.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, figure: Figure) -> Measure:
        """Return the value and the interval of a figure."""
        return cls(value=figure.value, low=figure.low, high=figure.high)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run in a list.

    Attributes:
        path: The run folder.
        name: Its path relative to the folder that was listed.
        state: `finished`; `resumable`, also while it is training; `damaged`, if its metadata or
            checkpoint can't be read.
        detail: Why it is damaged; else empty.
        date: When its model was last written or, before there is one, its checkpoint; ISO 8601,
            in UTC.
        size: Bytes of all files in it.
        backbone: Full name of the backbone; None if not known.
        data: What it was trained on, as in its recipe; None for the demo, or if not known.
        classes: Number of classes; None if not known.
        metric: Name of the main metric, with underscores; None if not known.
        figures: The main metric by split: `val`, `test`, `folds`.
    """

    path: Path
    name: str
    state: State
    detail: str = ""
    date: str
    size: int
    backbone: str | None = None
    data: str | None = None
    classes: int | None = None
    metric: str | None = None
    figures: Mapping[str, Measure] = field(default_factory=dict)


def list_runs(folder: str | Path = "runs") -> list[Listed]:
    """Return the runs below a folder, or the folder itself if it is one, sorted by name.

    Only metadata are read; `zoo.verify` checks everything. Runs on folds inside a run, hidden
    folders and links are left out.

    Args:
        folder: The folder; at most four levels below it are searched.

    Raises:
        RunError: There is no such folder, or it can't be read.
    """
    folder = expand(folder)
    try:
        if not folder.is_dir():
            raise RunError(
                f"no runs at {folder}: there is no such folder",
                hint="name the folder that holds them",
            )
        next(folder.iterdir(), None)
    except OSError as error:
        raise RunError(f"can't open {folder}: {error.strerror}") from error
    return [_listed(path, folder) for path in _runs_below(folder, _DEEPEST)]


def state_of(path: Path) -> State:
    """Return whether a run is finished or resumable, by the metadata of its checkpoint.

    Raises:
        RunError: If the checkpoint can't be read.
    """
    if not is_file(path / CHECKPOINT / LAST):
        return "finished"
    return "finished" if _about(path).get("complete") else "resumable"


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    if _is_run(folder):
        yield folder
        return
    try:
        below = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return
    for path in below if depth else ():
        if not path.is_symlink() and path.is_dir():
            yield from _runs_below(path, depth - 1)


def _is_run(folder: Path) -> bool:
    """Return whether it is a run: other tools write a model.safetensors too."""
    if is_file(folder / CHECKPOINT / LAST):
        return True
    if not is_file(folder / MODEL):
        return False
    if is_file(folder / RECIPE):
        return True
    try:
        return "zoo_format" in read_header(folder / MODEL).metadata
    except (OSError, ValueError):
        return False


def _listed(path: Path, folder: Path) -> Listed:
    about: dict[str, Any] = {"path": path, "name": str(path.relative_to(folder)), "size": 0}
    if path == folder:
        about["name"] = path.resolve().name
    files = [Path(parent) / name for parent, _, names in os.walk(path) for name in names]
    for file in files:
        try:
            about["size"] += file.lstat().st_size
        except OSError:
            continue  # It was removed meanwhile, as a run that is training does.
    latest = next((f for f in (path / MODEL, path / CHECKPOINT / LAST) if is_file(f)), path)
    about["date"] = _date(latest)
    try:
        state = state_of(path)
        if state == "resumable" and not is_file(path / MODEL):
            return Listed(**about, state=state, **_of_recipe(path))
        if (target := leads_out(path, path / MODEL)) is not None:
            raise RunError(f"{MODEL} is a link that leads out of the folder, to {target}")
        info = read_head(path / MODEL)[1]
    except RunError as error:
        return Listed(**about, state="damaged", detail=clip(error.text))
    return Listed(**about, state=state, **_of_info(info))


def _date(file: Path) -> str:
    try:
        modified = file.stat().st_mtime
    except OSError:
        return ""
    return datetime.fromtimestamp(modified, UTC).isoformat(timespec="seconds")


def _about(path: Path) -> dict[str, Any]:
    """Read a checkpoint's metadata. Its tensors, which may be large, are neither read nor checked.

    Raises:
        RunError: It can't be read.
    """
    file = path / CHECKPOINT / LAST
    if (target := leads_out(path, file)) is not None:
        raise RunError(f"{CHECKPOINT}/{LAST} is a link that leads out of the folder, to {target}")
    try:
        about = parse_json(read_header(file).metadata["about"])
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{file} is not a readable checkpoint: {clip(str(error))}") from error
    if not isinstance(about, dict):
        raise RunError(f"{file} is not a readable checkpoint: it holds no JSON object")
    return about


def _of_recipe(path: Path) -> dict[str, Any]:
    """Return what is known of a run that has no model yet."""
    try:
        recipe = checked_recipe(_about(path)["recipe"])
    except Exception as error:
        raise RunError(f"the checkpoint of {path} can't be understood: {error}") from error
    return {"backbone": recipe.backbone, "data": recipe.data}


def _of_info(info: ModelInfo) -> dict[str, Any]:
    found = {split: Measure.of(of.metrics[of.main]) for split, of in info.figures.items()}
    if not found and info.score is not None:
        found["val"] = Measure(value=info.score)
    return {
        "backbone": info.backbone,
        "data": info.recipe.data,
        "classes": len(info.class_names),
        "metric": info.score_name,
        "figures": found,
    }
