"""The index of weights in several files, as transformers writes those of large models."""

from __future__ import annotations

import re
from pathlib import Path

from zoo.errors import WeightsError
from zoo.io.files import is_file
from zoo.io.parse import MAX_JSON, parse_json, read_bounded
from zoo.io.text import clip

#: Name of the index in a Hub repository.
INDEX = "model.safetensors.index.json"

#: A plain file name: an index may come from anywhere, and must not lead out of its folder.
_SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)


def is_index(path: Path) -> bool:
    """Return whether a file is, by its name, an index of weights in several files."""
    return path.name.endswith(".safetensors.index.json")


def read_index(path: Path) -> dict[str, list[str]]:
    """Return the names of the tensors in each file, by the name of the file beside the index.

    Raises:
        WeightsError: If it can't be read, or names something other than files beside it.
    """
    try:
        content = parse_json(read_bounded(path, MAX_JSON))
        places = content["weight_map"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is not a readable index of weights: {clip(str(error))}"
        ) from error
    tensors: dict[str, list[str]] = {}
    for tensor, file in places:
        if not isinstance(file, str) or not _SHARD.fullmatch(file):
            raise WeightsError(
                f"{path} names {clip(repr(file))}, not a .safetensors file beside it"
            )
        tensors.setdefault(file, []).append(tensor)
    if not tensors:
        raise WeightsError(f"{path} names no tensors")
    return dict(sorted(tensors.items()))


def parts(path: Path) -> list[Path]:
    """Return the files of weights: the file itself, or an index and those that it names.

    Raises:
        WeightsError: As `read_index`.
    """
    if not is_index(path):
        return [path]
    return [path, *(path.parent / name for name in read_index(path))]


def is_complete(path: Path) -> bool:
    """Return whether a file of weights is there, with all that it names if it is an index."""
    return is_file(path) and all(map(is_file, parts(path)))
