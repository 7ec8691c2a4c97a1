"""Check everything that a run folder holds, without running or changing any of it."""

from __future__ import annotations

import itertools
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import PluginError, RecipeError, RunError, ZooError
from zoo.files import expand
from zoo.model.build import build_empty
from zoo.parsing import MAX_JSON, MAX_TOML, parse_json, parse_toml, read_bounded
from zoo.recipe import checked_recipe
from zoo.run.checkpoint import CHECKPOINT, DATA, LAST, LOCK, is_unfinished, read_checkpoint
from zoo.run.metrics import check_metrics
from zoo.run.parse import read_head
from zoo.run.read import backbone_of, read_tensors
from zoo.run.strangers import MOST_FILES, about
from zoo.run.write import CARD, CONFIG, METRICS, MODEL, RECIPE, ModelInfo, config_of, versions
from zoo.text import clip
from zoo.weights.reading import is_file, leads_out

State = Literal["ok", "unchecked", "wrong"]

#: Keys of config.json by which transformers is told of code to load.
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines"})


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What came of checking a file.

    Attributes:
        file: Its place in the run folder.
        state: `ok`; `wrong`; or `unchecked`, where there is nothing to check against.
        detail: What was found.
    """

    file: str
    state: State
    detail: str


def verify(path: str | Path) -> tuple[Finding, ...]:
    """Check a run: that each file is there, whole, and agrees with the others.

    model.safetensors is checked against the SHA-256s that it holds, of its tensors and of its
    header, and the other files against what it says. Files that zoo didn't write are named; those
    that could run code, and links that lead out of the folder, are wrong.

    Args:
        path: A run folder, or a model.safetensors alone.

    Raises:
        RunError: There is neither, or it can't be looked at.
    """
    path = expand(path)
    if is_file(path):
        return (_model(path)[0],)
    try:
        if not path.is_dir():
            raise RunError(f"no run at {path}: there is no such folder or file")
        others = list(itertools.islice(path.iterdir(), MOST_FILES))
    except OSError as error:
        raise RunError(f"can't look into {path}: {error.strerror}") from error
    file = path / MODEL
    found, info = (_broken(file), None) if _odd(path, file) else _model(file)
    findings = [found, *(_own(path, name, info) for name in CHECKS)]
    if _goes_on(path):
        findings = [_not_yet(f) if not os.path.lexists(path / f.file) else f for f in findings]
    looked_at = itertools.count(1)
    for other in sorted(p for p in others if p.name not in (MODEL, *CHECKS)):
        if other.name in FOLDERS and other.is_dir() and not other.is_symlink():
            findings += FOLDERS[other.name](other, info)
        else:
            strangers = about(path, other, looked_at)
            findings += [Finding(file=f, state=s, detail=d) for f, s, d in strangers]
    if next(looked_at) > MOST_FILES:
        text = (
            f"more than {MOST_FILES} files and folders that are not zoo's; none more is looked at"
        )
        findings.append(Finding(file=".", state="wrong", detail=text))
    return tuple(findings)


def _model(file: Path) -> tuple[Finding, ModelInfo | None]:
    """The finding on model.safetensors, and what it says of itself if that can be believed."""
    try:
        header, info = read_head(file)
    except RunError as error:
        return Finding(file=file.name, state="wrong", detail=str(error)), None
    state: State = "ok"
    said = [f"{len(info.class_names)} classes, {info.stage}, {info.val_accuracy:.2%}"]
    if header.seal == "none":
        state = "unchecked"
        said.append("written by an older zoo, without a SHA-256 over its header and metadata")
    try:
        backbone = backbone_of(file, header, info)
        own = _shapes(backbone, len(info.class_names))
    except PluginError as error:
        state = "unchecked"
        said.append(f"whether it fits its backbone is not known: {clip(str(error))}")
    except ZooError as error:
        return Finding(file=file.name, state="wrong", detail=str(error)), info
    else:
        if own != header.shapes:
            different = sorted(n for n, _ in own.items() ^ header.shapes.items())
            text = f"its tensors are not those of {info.backbone}: {', '.join(different[:5])}"
            return Finding(file=file.name, state="wrong", detail=clip(text)), info
        said.append(f"{len(own)} tensors, as {info.backbone} has them")
    try:
        read_tensors(file, header)
    except RunError as error:
        return Finding(file=file.name, state="wrong", detail=str(error)), info
    return Finding(file=file.name, state=state, detail="; ".join(said)), info


def _shapes(backbone: Backbone, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Of each tensor of the backbone's network, which takes no memory for its weights."""
    try:
        with torch.device("meta"):
            model = build_empty(backbone, num_classes)
    except PluginError:
        # Some read values while they are built, which the meta device has not.
        model = build_empty(backbone, num_classes)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _own(folder: Path, name: str, info: ModelInfo | None) -> Finding:
    """The finding on one of zoo's own files."""
    file = folder / name
    if _odd(folder, file):
        return _broken(file)
    try:
        if info is None:
            content = read_bounded(file, MAX_JSON)
            return Finding(
                file=name,
                state="unchecked",
                detail=f"{len(content):,} bytes; {MODEL} says nothing to check it against",
            )
        return Finding(file=name, state="ok", detail=CHECKS[name](file, info))
    except OSError as error:
        return Finding(file=name, state="wrong", detail=f"it can't be read: {error.strerror}")
    except (ValueError, RecipeError) as error:
        return Finding(file=name, state="wrong", detail=clip(" ".join(str(error).split()), 400))


def _odd(folder: Path, file: Path) -> str:
    """Why a file that a run must have is none, or not the folder's own; empty if it is."""
    try:
        kind = file.lstat().st_mode
    except OSError:
        return "it is missing"
    if (target := leads_out(folder, file)) is not None:
        return f"it is a link that leads out of the folder, to {target}"
    if stat.S_ISREG(kind) or (stat.S_ISLNK(kind) and is_file(file)):
        return ""
    return "it is no file"


def _broken(file: Path) -> Finding:
    return Finding(file=file.name, state="wrong", detail=_odd(file.parent, file))


def _config(file: Path, info: ModelInfo) -> str:
    config = parse_json(read_bounded(file, MAX_JSON))
    if not isinstance(config, dict):
        raise ValueError("it is no JSON object")
    if code := sorted(_CODE_KEYS & config.keys()):
        raise ValueError(f"it names code for transformers to load: {', '.join(code)}")
    try:
        backbone = plugins.get(info.backbone)
    except PluginError:
        # What zoo itself says there, whatever the backbone.
        expected = {"num_classes": len(info.class_names), "label_names": list(info.class_names)}
        different = [key for key, value in expected.items() if config.get(key) != value]
    else:
        expected = json.loads(json.dumps(config_of(backbone, info)))
        different = _different(config, expected)
        # Another version of the backbone's library may describe it in other words.
        if info.versions != versions():
            decides = ("num_classes", "label_names", "architecture", "preprocess")
            nested = ("num_classes", "input_size", "interpolation", "crop_pct", "crop_mode")
            known = (*decides, *(f"pretrained_cfg.{key}" for key in (*nested, "mean", "std")))
            different = [key for key in different if key in known]
    if different:
        raise ValueError(f"it differs from what {MODEL} says in {', '.join(different[:10])}")
    return "class names and preprocessing as in the model file"


def _different(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys by which two objects differ, those of nested ones with a dot."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key, _MISSING), other.get(key, _MISSING)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _different(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found


_MISSING = object()


def _recipe(file: Path, info: ModelInfo) -> str:
    recipe = checked_recipe(parse_toml(read_bounded(file, MAX_TOML).decode()))
    different = _different(recipe.model_dump(), info.recipe.model_dump())
    if different:
        raise ValueError(f"it differs from the recipe in {MODEL}: {', '.join(different)}")
    return "as in the model file"


def _metrics(file: Path, info: ModelInfo) -> str:
    return check_metrics(read_bounded(file, MAX_JSON).decode(), info)


def _card(file: Path, info: ModelInfo) -> str:
    text = read_bounded(file, MAX_JSON).decode()
    if info.backbone not in text:
        raise ValueError(f"it says nothing of {info.backbone}: it is not this run's")
    return f"{len(text):,} characters"


def _checkpoint(folder: Path, info: ModelInfo | None) -> list[Finding]:
    findings = []
    for path in sorted(itertools.islice(folder.iterdir(), MOST_FILES)):
        name = f"{CHECKPOINT}/{path.name}"
        if path.name in (LAST, DATA):
            findings.append(_checkpoint_file(folder.parent, path))
        elif is_unfinished(path):
            text = "left by a process that was killed; going on with the run takes it away"
            findings.append(Finding(file=name, state="unchecked", detail=text))
        elif path.name != LOCK or path.is_symlink() or not path.is_file():
            findings += [
                Finding(file=f, state=s, detail=d)
                for f, s, d in about(folder.parent, path, itertools.count(1))
            ]
    return findings


def _goes_on(run: Path) -> bool:
    """Whether its checkpoint can be read and says that the run is not complete."""
    try:
        if _odd(run, run / CHECKPOINT / LAST):
            return False
        return read_checkpoint(run).about.get("complete") is False
    except RunError:
        return False


def _not_yet(finding: Finding) -> Finding:
    detail = "not there yet: the run is not complete"
    return Finding(file=finding.file, state="unchecked", detail=detail)


def _checkpoint_file(run: Path, path: Path) -> Finding:
    name = f"{CHECKPOINT}/{path.name}"
    if why := _odd(run, path):
        return Finding(file=name, state="wrong", detail=why)
    try:
        complete = read_checkpoint(run, path.name).about.get("complete")
    except RunError as error:
        return Finding(file=name, state="wrong", detail=str(error))
    detail = "the run is complete" if complete else "the run is not complete and can go on"
    if path.name == DATA:
        detail = "what the run learns from"
    return Finding(file=name, state="ok", detail=detail)


#: How each file beside model.safetensors is checked: given its path and what the model file says,
#: the check gives what is fine about it, or raises ValueError with what is not.
CHECKS: dict[str, Callable[[Path, ModelInfo], str]] = {
    CONFIG: _config,
    RECIPE: _recipe,
    METRICS: _metrics,
    CARD: _card,
}

#: How each folder that a run may hold is checked, if it is there: given its path and what the model
#: file says, if anything, the check gives a finding a file.
FOLDERS: dict[str, Callable[[Path, ModelInfo | None], list[Finding]]] = {
    CHECKPOINT: _checkpoint,
}
