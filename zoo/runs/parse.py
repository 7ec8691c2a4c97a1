"""What a model.safetensors says about itself, taken as data from who knows whom."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.backbone import Preprocess
from zoo.errors import PluginError, RecipeError, RunError
from zoo.io.files import is_file
from zoo.io.parsing import parse_json, parse_toml
from zoo.io.text import clip
from zoo.recipe import checked_recipe
from zoo.runs.write import FORMAT, FORMATS, ModelInfo
from zoo.tasks import SINGLE_LABEL, TASKS
from zoo.weights.header import METADATA_SHA256, Header, metadata_sha256, read_header

#: Characters of a class name, of a backbone's; folders and plugins have shorter ones.
LONGEST_NAME = 1000

_MOST_CLASSES = 1_000_000


def read_head(file: Path) -> tuple[Header, ModelInfo]:
    """The header of a run's model.safetensors, and what it says; the tensors are not read.

    Raises:
        RunError: There is no such file, zoo didn't write it, or it is damaged.
    """
    if not is_file(file):
        raise RunError(f"no run at {file.parent}: there is no {file.name} that can be read")
    try:
        header = read_header(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is no readable safetensors file: {clip(str(error))}") from error
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
        return ModelInfo(
            backbone=_name(details["backbone"]),
            class_names=_class_names(parse_json(details["class_names"])),
            preprocess=Preprocess.from_dict(parse_json(details["preprocess"])),
            recipe=checked_recipe(parse_toml(details["recipe"])),
            weights_source=details["weights_source"],
            epoch=_epoch(parse_json(details["epoch"])),
            val_metrics=_val_metrics(details),
            task=_task(details.get("task", SINGLE_LABEL.name)),
            val_sha256=details["val_sha256"],
            versions=_texts(parse_json(details["versions"])),
            history=_lines(parse_json(details.get("history", "[]"))),
        )
    except KeyError as error:
        raise RunError(f"the metadata of {file} lacks {error}") from error
    except (ValueError, TypeError, AttributeError, PluginError, RecipeError) as error:
        reason = clip(" ".join(str(error).split()))
        raise RunError(f"the metadata of {file} can't be understood: {reason}") from error


def _class_names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("class_names is no list of names")
    if not 1 <= len(value) <= _MOST_CLASSES:
        raise ValueError(f"class_names are {len(value):,}, not 1 to {_MOST_CLASSES:,}")
    if len(set(value)) < len(value):
        raise ValueError("class_names has a name twice")
    return tuple(map(_name, value))


def _name(text: str) -> str:
    if not 1 <= len(text) <= LONGEST_NAME:
        raise ValueError(f"a name has {len(text):,} characters, not 1 to {LONGEST_NAME:,}")
    text.encode()  # Half a character is a UnicodeEncodeError, a ValueError.
    return text


def _epoch(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"epoch is {value!r}")
    return value


def _task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"task is {clip(name)!r}, not one of {', '.join(TASKS)}")
    return name


def _val_metrics(details: Mapping[str, str]) -> dict[str, float]:
    if "val_metrics" not in details:  # before format 3
        return {"accuracy": _share("val_accuracy", parse_json(details["val_accuracy"]))}
    values = parse_json(details["val_metrics"])
    needed = {"accuracy", TASKS[_task(details["task"])].main}
    if not isinstance(values, dict) or not needed <= values.keys():
        raise ValueError(f"val_metrics has no {' and '.join(sorted(needed))}")
    return {
        name: _number(name, value) if name == "loss" else _share(name, value)
        for name, value in values.items()
    }


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, not a number")
    return float(value)


def _share(name: str, value: Any) -> float:
    if not 0 <= (share := _number(name, value)) <= 1:
        raise ValueError(f"{name} is {value!r}, not a share from 0 to 1")
    return share


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise ValueError("versions is not text by name")
    return value


def _lines(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise ValueError("history is no list of lines")
    return tuple(value)
