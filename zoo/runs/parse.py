"""Parse and validate the metadata of a model.safetensors from an untrusted source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zoo.backbone import Preprocess
from zoo.errors import PluginError, RecipeError, RunError
from zoo.io.files import is_file
from zoo.io.parse import parse_json, parse_toml
from zoo.io.text import clip
from zoo.recipe import checked_recipe
from zoo.runs.write import FORMAT, FORMATS, ModelInfo
from zoo.weights.header import METADATA_SHA256, Header, metadata_sha256, read_header

#: Fields of the metadata that are text as they are; others are encoded as JSON.
_TEXT = frozenset({"backbone", "recipe", "task", "val_sha256", "weights_source"})

_INFO = TypeAdapter(ModelInfo)


def read_head(file: Path) -> tuple[Header, ModelInfo]:
    """Read the header and metadata of a run's model.safetensors; the tensors are not read.

    Raises:
        RunError: If there is no such file, zoo didn't write it, or it is damaged.
    """
    if not is_file(file):
        raise RunError(f"no run at {file.parent}: there is no {file.name} that can be read")
    try:
        header = read_header(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is not a readable safetensors file: {clip(str(error))}") from error
    details = header.metadata
    if "zoo_format" not in details:
        raise RunError(f"{file} was not written by zoo: its metadata names no classes or backbone")
    if details["zoo_format"] not in FORMATS:
        raise RunError(
            f"{file} has format {clip(details['zoo_format'])}, this zoo reads "
            f"{', '.join(FORMATS[:-1])} and {FORMATS[-1]}; update zoo"
        )
    older = details["zoo_format"] != FORMAT
    if not older and details.get(METADATA_SHA256) != metadata_sha256(details):
        raise RunError(f"{file} is damaged: its metadata is not what was written")
    return header, _info(file, details)


def _info(file: Path, details: Mapping[str, str]) -> ModelInfo:
    try:
        values: dict[str, Any] = {
            key: text if key in _TEXT else parse_json(text)
            for key, text in details.items()
            if key in ModelInfo.__dataclass_fields__
        }
        if "val_metrics" not in details:  # before format 3
            values["val_metrics"] = {"accuracy": parse_json(details["val_accuracy"])}
        values["preprocess"] = Preprocess.from_dict(values["preprocess"])
        values["recipe"] = checked_recipe(parse_toml(values["recipe"]))
        info = _INFO.validate_python(values)
        if len(set(info.class_names)) < len(info.class_names):
            raise ValueError("class_names has duplicates")
        measured = info.val_metrics or info.recipe.val_split
        if measured and (missing := {"accuracy", info.score_name} - info.val_metrics.keys()):
            raise ValueError(f"val_metrics has no {' and '.join(sorted(missing))}")
        if any(found.main not in found.metrics for found in info.figures.values()):
            raise ValueError("figures lack their main metric")
        by_class: dict[str, Sequence[float]] = {f"counts.{s}": n for s, n in info.counts.items()}
        if info.thresholds:
            by_class["thresholds"] = info.thresholds
        for name, found in by_class.items():
            if len(found) != len(info.class_names):
                classes = f"{len(info.class_names):,} classes"
                raise ValueError(f"{name} has {len(found)} values for {classes}")
    except KeyError as error:
        raise RunError(f"the metadata of {file} lacks {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        reason = clip(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
        raise RunError(f"the metadata of {file} can't be understood: {reason}") from error
    except (ValueError, TypeError, AttributeError, PluginError, RecipeError) as error:
        reason = clip(str(error))
        raise RunError(f"the metadata of {file} can't be understood: {reason}") from error
    return info
