"""The small files of a run, against what its model.safetensors says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo import plugins
from zoo.errors import PluginError, RecipeError
from zoo.integrity.finding import Finding, broken, odd
from zoo.integrity.metrics import check_metrics
from zoo.io.parsing import MAX_JSON, MAX_TOML, parse_json, parse_toml, read_bounded
from zoo.io.text import clip
from zoo.recipe import checked_recipe
from zoo.runs.write import CARD, CONFIG, METRICS, MODEL, RECIPE, ModelInfo, config_of, versions

#: Keys of config.json by which transformers is told of code to load.
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines"})


def check_file(folder: Path, name: str, info: ModelInfo | None) -> Finding:
    """The finding on one of zoo's own files."""
    file = folder / name
    if odd(folder, file):
        return broken(file)
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


#: How each file beside model.safetensors is checked: given its path and what the model file says,
#: the check gives what is fine about it, or raises ValueError with what is not.
CHECKS: dict[str, Callable[[Path, ModelInfo], str]] = {
    CONFIG: _config,
    RECIPE: _recipe,
    METRICS: _metrics,
    CARD: _card,
}
