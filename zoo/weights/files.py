"""Read weights files without running code from them, check them, fit them to a backbone."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import plugins
from zoo.backbone import Backbone
from zoo.errors import PluginError, WeightsError
from zoo.io.files import is_file
from zoo.io.text import listed
from zoo.weights.header import read_header
from zoo.weights.shards import is_index, read_index

if TYPE_CHECKING:
    from torch import Tensor

    StateDict = dict[str, Tensor]

#: Keys under which common training scripts nest the model's state dict in a checkpoint.
_NESTED = ("state_dict", "model", "model_state_dict")

#: PyTorch does not compress tensors; an archive that unpacks to much more is made to fill memory.
_MOST_INFLATED = 16


def read_state_dict(path: Path) -> StateDict:
    """Read a state dict from a .safetensors or a PyTorch file, without running code from it.

    Of an index (`.safetensors.index.json`), the files that it names are read.

    A nested state dict (`state_dict`, `model`, `model_state_dict`) is unwrapped, and the prefix
    `module.` that data-parallel training adds to every name is removed.

    Raises:
        WeightsError: If the file is missing, has no readable state dict, or is a damaged run's.
    """
    if not is_file(path):
        raise WeightsError(
            f"no weights file {path}", hint="give pretrained, none, or an existing file"
        )
    if is_index(path):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _state_dict_in(_unpickled(path), path)


def fit(backbone: Backbone, state_dict: StateDict, *, source: str) -> StateDict:
    """Load tensors strictly into the backbone's original model and return its state dict.

    Raises:
        WeightsError: If tensors are missing, unexpected or of another shape (see the message).
        PluginError: If the plugin can't convert them or build the model.
    """
    try:
        given = plugins.convert(backbone, state_dict)
    except PluginError as error:
        raise PluginError(f"{error.text} (from {source})", hint=error.hint) from error
    model = plugins.build(backbone, None, False)
    try:
        model.load_state_dict(given)
    except Exception as error:  # a module's own loading code can raise anything
        said = misfits(given, model.state_dict()) or f"  {str(error).splitlines()[0]}"
        raise WeightsError(
            f"the weights ({source}) don't fit backbone {backbone.name}, original head included; "
            f"these tensors are\n{said}"
        ) from error
    return dict(model.state_dict())


def misfits(given: StateDict, own: StateDict, optional: tuple[str, ...] = ()) -> str:
    """Return lines on tensors that are not those of the model; names may end with `optional`."""
    problems = {
        "missing": [k for k in own if k not in given and not k.endswith(optional)],
        "unexpected": [k for k in given if k not in own],
        "of another shape": [
            f"{k} {tuple(v.shape)} instead of {tuple(own[k].shape)}"
            for k, v in given.items()
            if k in own and v.shape != own[k].shape
        ],
    }
    return "\n".join(f"  {what}: {listed(keys)}" for what, keys in problems.items() if keys)


def check_sha256(path: Path, expected: str) -> None:
    """Compare the file's SHA-256 with the published one, or its leading hex digits.

    Raises:
        WeightsError: If they differ, or the file can't be read.
    """
    actual = file_sha256(path)
    if not actual.startswith(expected.lower()):
        raise WeightsError(
            f"{path} is damaged or not what it should be: its SHA-256 is {actual}, "
            f"published is {expected}",
            hint="delete it and start again",
        )


def file_sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex digits.

    Raises:
        WeightsError: If it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path} can't be read: {error.strerror}") from error


def tensors_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes of all tensors, sorted by name."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def leads_out(folder: Path, file: Path) -> Path | None:
    """Return the target of a file if links lead outside its folder, else None.

    A folder from an untrusted source must be read from that folder alone.
    """
    # Path.resolve raises if a link points to itself.
    target = Path(os.path.realpath(file))
    return None if target.is_relative_to(os.path.realpath(folder)) else target


def _read_safetensors(path: Path) -> StateDict:
    from safetensors.torch import load_file

    try:
        header = read_header(path)
        state_dict = load_file(path)
    except Exception as error:  # the error for dtypes that torch lacks can be of any type
        raise WeightsError(f"{path} is not a readable safetensors file: {error}") from error
    # A run records a hash of its tensors; in other files, sha256 may mean something else.
    ours = "zoo_format" in header.metadata
    if ours and tensors_sha256(state_dict) != header.metadata.get("sha256"):
        raise WeightsError(f"{path} is damaged: its weights are not the ones that were written")
    return state_dict


def _read_shards(index: Path) -> StateDict:
    """Read all files of an index, which must hold exactly the tensors that it says."""
    whole: StateDict = {}
    for name, tensors in read_index(index).items():
        path = index.with_name(name)
        if not is_file(path):
            raise WeightsError(f"{index} names {name}, and there is no such file beside it")
        shard = _read_safetensors(path)
        if wrong := sorted(shard.keys() ^ set(tensors)):
            raise WeightsError(
                f"{path} does not hold the tensors that {index.name} says: {listed(wrong)}"
            )
        whole.update(shard)
    return whole


def _unpickled(path: Path) -> object:
    """Return the contents of a PyTorch file without running code from it."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # noqa: BLE001  archives can raise anything; torch checks other files
        entries = []
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise _refused(path, "it is a TorchScript archive, a program")
    if sum(entry.file_size for entry in entries) > _MOST_INFLATED * path.stat().st_size:
        raise _refused(path, f"it unpacks to more than {_MOST_INFLATED} times its size")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about protocols; an unreadable file is an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler can raise anything
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it asks to run {asked[1]}" if asked else "it is damaged, or not a PyTorch file"
        raise _refused(path, why) from error


def _refused(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"{path} can't be read as plain tensors: {why}; zoo runs no code from a weights file",
        hint="save its state_dict() as .safetensors where it was made",
    )


def _state_dict_in(content: object, path: Path) -> StateDict:
    import torch

    if isinstance(content, Mapping):
        nested = [content[k] for k in _NESTED if isinstance(content.get(k), Mapping)]
        content = nested[0] if len(nested) == 1 else content
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} contains {type(content).__name__}, not a state dict")
    others = [str(k) for k, v in content.items() if not isinstance(v, torch.Tensor) or k != str(k)]
    if others:
        raise WeightsError(
            f"{path} is not a plain state dict, which maps names to tensors: it has other entries, "
            f"{', '.join(others[:5])}"
        )
    if all(str(k).startswith("module.") for k in content):
        return {str(k).removeprefix("module."): v for k, v in content.items()}
    # Unchanged: torch's own dict carries version metadata that some modules check while loading.
    return content if isinstance(content, dict) else dict(content)
